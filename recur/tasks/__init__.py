"""From files to answers: one options dataclass and one task per job, the training loop and the run folder."""

"""What the tasks on sounds share: their options, how files become frames, and changes at random."""

"""`recur train transcribe`: sounds to texts."""

"""`recur train listen`: sounds to labels."""

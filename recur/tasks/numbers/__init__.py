"""`recur train classify` on number columns and arrays: sequences of numbers to labels."""

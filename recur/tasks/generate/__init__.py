"""`recur train generate`: language models of any text."""

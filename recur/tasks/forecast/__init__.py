"""`recur train forecast`: from tables of numbers by time to networks that foretell them."""

"""`recur train tag`: from files of words with tags to trained taggers, their scores and a report."""

"""`recur train classify`: from files of labelled text to trained classifiers, their scores and a report."""

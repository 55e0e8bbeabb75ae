"""What to check in a data set first: duplicates, leakage, unreadable files, wrong labels."""

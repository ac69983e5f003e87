"""`sluiced replay`: delivers records of the log again, without touching the group's checkpoint."""

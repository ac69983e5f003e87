"""`sluiced dead-letters`: look at what was refused, and send it back."""

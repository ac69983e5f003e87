"""Dead letters on their way back: what the daemon does by itself and the command when told to."""

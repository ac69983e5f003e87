"""Whether the daemon keeps to its memory budget: see `run`."""

"""What a sink owes the core, held against servers that really misbehave."""

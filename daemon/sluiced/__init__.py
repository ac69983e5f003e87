"""sluiced holds a Kafka stream behind a gate and lets it through to bulk APIs in full loads."""

__version__ = "0.1.0"

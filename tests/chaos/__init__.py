"""Chaos: real daemons on a real Kafka, attacked at random, and an audit of what became of it."""

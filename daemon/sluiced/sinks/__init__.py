"""The bulk APIs that a batch can go to, one module each. Each answers with an Outcome."""

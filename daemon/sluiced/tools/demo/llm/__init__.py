"""`sluiced demo --llm`: prompts become batch jobs of an embedded provider, and answers a topic."""

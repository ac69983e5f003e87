"""Elasticsearch and OpenSearch in tests: a real server, and one that can be told to misbehave."""

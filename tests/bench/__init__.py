"""The benchmark: the daemon against the shortest loop that does the same. See docs/benchmarks.md."""

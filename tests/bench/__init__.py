"""The benchmark: the daemon against a bare loop. See docs/benchmarks.md."""

"""Providers of asynchronous batch jobs, on loopback."""

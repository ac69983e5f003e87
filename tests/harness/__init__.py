"""What the integration and chaos tests share: the real daemon as a process, and an API to feed."""

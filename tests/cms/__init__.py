"""A real headless CMS on loopback."""

"""`sluiced tune`: how large requests should be and how many at once, measured on the API itself."""

from .tune import Options, Tuned, at_once, tune, warnings

__all__ = ["Options", "Tuned", "at_once", "tune", "warnings"]

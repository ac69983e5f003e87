"""The configuration file: read, decoded, and checked as a whole.

`settings` is what it holds, `decode` turns a table into that and names every mistake in it,
`conflicts` finds what does not go together, and `reading` does all this for a path.
"""

from .conflicts import conflicts
from .reading import load
from .settings import Config

__all__ = ["Config", "conflicts", "load"]

"""`sluiced` under cProfile: `python -m bench.profiled FILE run CONFIG`. Asked to end, it saves."""

from __future__ import annotations

import cProfile
import sys

from sluiced.cli import main

if __name__ == "__main__":
    target = sys.argv.pop(1)
    profile = cProfile.Profile()
    try:
        profile.runcall(main)
    finally:
        profile.dump_stats(target)

"""`sluiced` under cProfile: `python -m bench.profiled FILE run CONFIG`. Asked to end, it saves.

A profile hides the garbage collector: it counts for whoever allocated last. So its time is taken
apart and saved as FILE.gc: runs and seconds.
"""

from __future__ import annotations

import cProfile
import gc
import sys
import time
from pathlib import Path

from sluiced.cli import main


class CollectorClock:
    """How often the garbage collector ran, and for how long. A callback for `gc.callbacks`."""

    def __init__(self) -> None:
        self.runs = 0
        self.seconds = 0.0

    def __call__(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._since = time.perf_counter()
        else:
            self.runs += 1
            self.seconds += time.perf_counter() - self._since


if __name__ == "__main__":
    target = sys.argv.pop(1)
    collector = CollectorClock()
    gc.callbacks.append(collector)
    profile = cProfile.Profile()
    try:
        profile.runcall(main)
    finally:
        profile.dump_stats(target)
        Path(f"{target}.gc").write_text(f"{collector.runs} runs, {collector.seconds:.3f} s")

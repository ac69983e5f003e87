"""How the process keeps its memory from growing beyond what is in use."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MIB = 1024**2


def tune() -> None:
    """To be called once, before there are threads."""
    # Records wait in windows by the thousand, and the collector would look through all of them
    # again and again: with Python's own thresholds it costs a quarter of the daemon's CPU.
    gc.set_threshold(100_000, 20, 100)
    # By itself glibc learns from the first large blocks to take all up to 32 MiB from the heap, and
    # has a heap for each thread. Bodies of some megabytes, made in one and freed in another, leave
    # holes there that only grow, and so do answers while they grow to their size. So they are asked
    # of the kernel, and given back to it; below 2 MiB that would cost a tenth of the CPU.
    with suppress(OSError, AttributeError):  # another C library has no such thing
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, 2 * _MIB)
        mallopt(_TRIM_THRESHOLD, 8 * _MIB)

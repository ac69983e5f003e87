"""What is freed goes back to the kernel, also where small blocks lie between large ones."""

from __future__ import annotations

import platform
import subprocess
import sys

from harness.tools import require

CHILD = """
import re, sys
from pathlib import Path
from sluiced import heap

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

if sys.argv[1] == "tuned":
    heap.tune()
for _ in range(3):
    del (first := [b"x" * 5_000_000 for _ in range(2)])[:]  # from which glibc learns
before = resident()
large, small = [], []
for _ in range(20):
    large.append(b"x" * 5_000_000)
    small.append(b"x" * 100_000)
del large
print(resident() - before)
"""


def left(how: str) -> int:
    """Bytes that a process has kept of 100 MB."""
    command = [sys.executable, "-c", CHILD, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_large_blocks_that_are_freed_leave_no_holes() -> None:
    require("glibc", found=platform.libc_ver()[0] == "glibc")
    assert left("as it is") > 50e6, "what this guards against"
    assert left("tuned") < 10e6

"""A memory limit that the kernel enforces, or where it cannot be had, the next best."""

from __future__ import annotations

import re
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Cgroup:
    """A memory cgroup of version 1 or 2 below our own, for as long as the block lasts.

    Raises OSError where we may make none.
    """

    def __init__(self, limit: int) -> None:
        mine = dict(re.findall(r"^\d+:(.*):(.*)$", Path("/proc/self/cgroup").read_text(), re.M))
        root = Path("/sys/fs/cgroup/memory" if "memory" in mine else "/sys/fs/cgroup")
        self._limit = "memory.limit_in_bytes" if "memory" in mine else "memory.max"
        self._kills = "memory.oom_control" if "memory" in mine else "memory.events"
        parent = root / mine.get("memory", mine.get("", "/")).lstrip("/")
        # Under a name of its own: one before it may be still there.
        self.path = Path(tempfile.mkdtemp(prefix="sluiced-test-", dir=parent))
        try:
            (self.path / self._limit).write_text(str(limit))
        except OSError:
            self.path.rmdir()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with suppress(OSError):  # while the one in it is still dying
            self.path.rmdir()

    def take(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        found = re.search(r"^oom_kill (\d+)", (self.path / self._kills).read_text(), re.M)
        return int(found[1]) if found else 0


def peak_rss(pid: int) -> int:
    """The most memory that the process has held so far, in bytes."""
    [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(kilobytes) * 1024

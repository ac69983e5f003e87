"""The memory that the kernel allows this process, by its control group."""

from __future__ import annotations

from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
MINE = Path("/proc/self/cgroup")
UNLIMITED = 2**60  # bytes; version 1 has a number near 2**63 where there is no limit


def memory_limit(mounted: Path = MOUNTED, mine: Path = MINE) -> int | None:
    """Bytes, the least of our own group and those above it; None where there is no limit.

    In a container the path may be that of the host, which is not there: then the group at the root
    of what is mounted is ours.
    """
    try:
        lines = [line.split(":", 2) for line in mine.read_text().splitlines()]
    except OSError:
        return None
    groups = {controllers: path for _, controllers, path in lines}
    found = _along(mounted, groups.get("", "/"), "memory.max")
    found += _along(mounted / "memory", groups.get("memory", "/"), "memory.limit_in_bytes")
    return min(found, default=None)


def _along(root: Path, path: str, name: str) -> list[int]:
    """The limits of this group and of all above it."""
    own = root / path.lstrip("/")
    files = [group / name for group in (own, *own.parents) if group.is_relative_to(root)]
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in texts if text.isdecimal() and int(text) < UNLIMITED]

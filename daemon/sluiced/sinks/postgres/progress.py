"""How far a partition is, as a value: everything below a position, and ranges above it.

As text the ranges are "first-last", in order and joined by commas.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ...record import Range


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` are inclusive ranges in order, apart from each other and from `position`."""

    position: int
    done: tuple[Range, ...] = ()

    @classmethod
    def read(cls, position: int, done: str) -> Self:
        """Raises ValueError for a text that was not made by `text`."""
        ranges = []
        for part in done.split(",") if done else ():
            first, _, last = part.partition("-")
            ranges.append((int(first), int(last)))
        return cls(position, tuple(ranges))

    @property
    def text(self) -> str:
        return ",".join(f"{first}-{last}" for first, last in self.done)

    def holds(self, offset: int) -> bool:
        """Whether this offset is done."""
        if offset < self.position or not self.done:
            return offset < self.position
        at = bisect_right(self.done, offset, key=_first) - 1
        return at >= 0 and offset <= self.done[at][1]

    def with_done(self, ranges: Iterable[Range]) -> Progress:
        """The same after these offsets, too."""
        merged: list[Range] = []
        for first, last in sorted([*self.done, *ranges]):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return _above(self.position, merged)

    def advanced(self, position: int) -> Progress:
        """The same where everything below `position` is done, too."""
        return _above(max(position, self.position), self.done)

    def includes(self, other: Progress) -> bool:
        """Whether everything that is done there is done here."""
        return other.advanced(self.position).with_done(self.done) == self


def _above(position: int, done: Iterable[Range]) -> Progress:
    """Drops what lies below the position, and takes in what touches it."""
    left: list[Range] = []
    for first, last in done:
        if first <= position:
            position = max(position, last + 1)
        else:
            left.append((first, last))
    return Progress(position, tuple(left))


def _first(span: Range) -> int:
    return span[0]

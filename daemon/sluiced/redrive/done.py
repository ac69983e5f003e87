"""Which letters of a partition have been redriven, small enough to stand in a commit's metadata."""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from ..record import Range

MARK = "sluiced-redrive1:"
LONGEST = 4096  # bytes that a broker takes by default: offset.metadata.max.bytes


@dataclass(slots=True)
class Done:
    """Everything below `prefix`, and `ranges` above it: inclusive, ascending, with gaps between.

    A record that is passed over stays a gap, so that a later run with other filters finds it.
    """

    prefix: int
    ranges: list[Range] = field(default_factory=list)

    def add(self, first: int, last: int) -> None:
        """These offsets are done; none where `last` is below `first`."""
        first = max(first, self.prefix)
        if last < first:
            return
        low = bisect_left(self.ranges, first - 1, key=itemgetter(1))
        high = bisect_right(self.ranges, last + 1, key=itemgetter(0))
        if low < high:
            first = min(first, self.ranges[low][0])
            last = max(last, self.ranges[high - 1][1])
        self.ranges[low:high] = [(first, last)]
        if self.ranges[0][0] == self.prefix:
            self.prefix = self.ranges.pop(0)[1] + 1

    def __contains__(self, offset: int) -> bool:
        if offset < self.prefix:
            return True
        at = bisect_right(self.ranges, offset, key=itemgetter(0)) - 1
        return at >= 0 and offset <= self.ranges[at][1]

    @property
    def end(self) -> int:
        """Past everything that is done."""
        return self.ranges[-1][1] + 1 if self.ranges else self.prefix

    def copy(self) -> Done:
        return Done(self.prefix, list(self.ranges))

    def metadata(self) -> str:
        """The ranges as text. Never empty, so that one can see whether a broker keeps it."""
        packed = bytes(_packed(self._steps()))
        return MARK + (urlsafe_b64encode(zlib.compress(packed, 9)).decode() if packed else "")

    def _steps(self) -> Iterator[int]:
        """Gap, length, gap, length: small numbers, and much alike where every nth is missing."""
        at = self.prefix
        for first, last in self.ranges:
            yield first - at
            yield last - first
            at = last + 1

    @classmethod
    def of(cls, prefix: int, metadata: str) -> Done:
        """Raises ValueError for metadata that is not ours; none at all is no ranges."""
        done = cls(prefix)
        if not metadata:
            return done
        if not metadata.startswith(MARK):
            raise ValueError("it was not written by a redrive")
        try:
            text = metadata.removeprefix(MARK)
            packed = zlib.decompress(urlsafe_b64decode(text)) if text else b""
        except (ValueError, zlib.error):
            raise ValueError("it is damaged") from None
        steps = list(_unpacked(packed))
        at = prefix
        for gap, length in zip(steps[::2], steps[1::2], strict=True):
            done.add(at + gap, at + gap + length)
            at += gap + length + 1
        return done


def _packed(numbers: Iterable[int]) -> Iterator[int]:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    for number in numbers:
        while number > 127:
            yield 128 | number & 127
            number >>= 7
        yield number


def _unpacked(packed: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in packed:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield number
            number = shift = 0

"""Records that have been read before, read again: for their keys, and for what goes again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping, Sequence

from ..record import Range, Record, TopicPartition
from .client import KafkaSettings
from .scan import Span, reading

NEAR = 2000  # offsets that are rather read than jumped over


class KafkaOriginals:
    """Implements ports.Originals."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    async def read(
        self, ranges: Mapping[TopicPartition, Sequence[Range]]
    ) -> AsyncIterator[Sequence[Record]]:
        """See ports.Originals."""
        async with reading(self._settings) as reader:
            for tp, wanted in sorted(ranges.items()):
                firsts = [first for first, _ in wanted]
                for first, last in joined(wanted):
                    async for page in reader.pages({tp: Span(first, last + 1)}):
                        if found := [r for r in page if _holds(wanted, firsts, r.offset)]:
                            yield found


def joined(ranges: Sequence[Range]) -> list[Range]:
    """Ranges in ascending order, those that are near to one another as one."""
    found: list[Range] = []
    for first, last in ranges:
        if found and first - found[-1][1] <= NEAR:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


def _holds(ranges: Sequence[Range], firsts: Sequence[int], offset: int) -> bool:
    place = bisect_right(firsts, offset) - 1
    return place >= 0 and offset <= ranges[place][1]

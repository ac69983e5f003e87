"""What a record is. The core never copies one: aiokafka's ConsumerRecord already is one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol


class TopicPartition(NamedTuple):
    """Equal to aiokafka's class of the same name, since both are plain tuples."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Record(Protocol):
    """One message of the stream. `timestamp` is in ms since 1970, -1 where it has none."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


# What a record takes up in memory besides its bytes: the object, its integers and its places in
# lists. Measured with tracemalloc on CPython 3.11 with aiokafka's ConsumerRecord: 273 to 334 bytes,
# and 186 for a header. The rest is for what the allocator leaves unused between them.
OVERHEAD = 448
HEADER_OVERHEAD = 192


def size_of(records: Iterable[Record]) -> int:
    """Summed value bytes: what `max_bytes` counts."""
    return sum([len(r.value) for r in records if r.value is not None])


def footprint_of(records: Sequence[Record], size: int) -> int:
    """Bytes that these records (of `size` value bytes) are taken to occupy in memory."""
    keys = sum([len(r.key) for r in records if r.key is not None])
    headers = sum(
        [
            len(k) + len(v or b"") + HEADER_OVERHEAD
            for r in records
            if r.headers
            for k, v in r.headers
        ]
    )
    return size + keys + headers + OVERHEAD * len(records)


# Inclusive first and last offset of records that follow one another without a gap.
Range = tuple[int, int]


def ranges_of(records: Sequence[Record]) -> tuple[Range, ...]:
    """The offset ranges of one partition's records, which are in ascending order.

    A log without gaps (no compaction, no transactions) is one range and costs two look-ups,
    whatever its length.
    """
    first, last = records[0].offset, records[-1].offset
    if last - first + 1 == len(records):
        return ((first, last),)
    ranges = []
    start = previous = first
    for record in records[1:]:
        if record.offset != previous + 1:
            ranges.append((start, previous))
            start = record.offset
        previous = record.offset
    ranges.append((start, previous))
    return tuple(ranges)

"""What a record is. The core never copies one: aiokafka's ConsumerRecord already is one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class MadeRecord:
    """A record that no client has read from a topic."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Transformed(MadeRecord):
    """A record with another value. The dead letters get `original`."""

    original: Record

    @classmethod
    def of(cls, r: Record, value: bytes | None) -> Transformed:
        return cls(r.topic, r.partition, r.offset, r.timestamp, r.key, value, r.headers, r)


def original_of(record: Record) -> Record:
    """What came from the stream."""
    return record.original if isinstance(record, Transformed) else record


# The header that counts how often a record was sent back after it had died.
REDRIVES = "sluiced.redrives"

# What a record takes up in memory besides its bytes: the object, its integers and its places in
# lists. Measured with tracemalloc on CPython 3.11 with aiokafka's ConsumerRecord: 273 to 334 bytes,
# and 186 for a header. The rest is for what the allocator leaves unused between them.
OVERHEAD = 448
HEADER_OVERHEAD = 192


def redrives(record: Record) -> int:
    """How often it was sent back after it had died; 0 for a count that cannot be read."""
    for name, count in record.headers or ():
        if name == REDRIVES and count and count.isdigit():
            return int(count[:9])
    return 0


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
    if records and isinstance(records[0], Transformed):  # then all are
        originals = [original_of(r) for r in records]
        size += size_of(originals) + OVERHEAD * len(records)
    return size + keys + headers + OVERHEAD * len(records)


# Inclusive first and last offset of records that follow one another without a gap.
Range = tuple[int, int]


def without(ranges: Iterable[Range], others: Sequence[Range]) -> tuple[Range, ...]:
    """What is left of ranges without the others; both are disjoint and ascending."""
    left, at = [], 0
    for first, last in ranges:
        while at < len(others) and others[at][0] <= last:
            start, end = others[at]
            if first < start:
                left.append((first, start - 1))
            first = max(first, end + 1)
            if end > last:
                break
            at += 1
        if first <= last:
            left.append((first, last))
    return tuple(left)


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

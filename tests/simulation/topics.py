"""The stream: partitions that only grow, and whoever writes to them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import trio

from sluiced.record import Range, TopicPartition

from .scenario import Scenario, dice
from .timeline import Timeline
from .trace import Trace

# What the wall clock shows when the loop's clock shows 0, in seconds since 1970.
EPOCH = 1_700_000_000.0


class Coordinates(NamedTuple):
    """Where a record stands. One that is sorted by it is in the order of a request."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class SimRecord(NamedTuple):
    """Has what aiokafka's ConsumerRecord has, as far as anyone looks."""

    topic: str
    partition: int
    offset: int
    value: bytes | None
    key: bytes | None
    timestamp: int
    headers: Sequence[tuple[str, bytes]] = ()


def at(record: object) -> Coordinates:
    return Coordinates(record.topic, record.partition, record.offset)  # type: ignore[attr-defined]


class Topics:
    """The log. `kinds` tells of the records which are not plain: a tombstone, invalid, poison."""

    def __init__(self, scenario: Scenario, timeline: Timeline, trace: Trace) -> None:
        self.records: dict[TopicPartition, list[SimRecord]] = {tp: [] for tp in scenario.tps}
        self.ends: dict[TopicPartition, int] = dict.fromkeys(scenario.tps, 0)
        self.kinds: dict[Coordinates, str] = {}
        self.grown = trio.Event()
        self._scenario = scenario
        self._trace = trace
        self._dice = dice(scenario.seed, "topics")
        self._write_all(timeline, self._dice)

    def _write_all(self, timeline: Timeline, d: Random) -> None:
        """Trickles and bursts, some of them before the first member is there."""
        left = self._scenario.records
        while left > 0:
            count = min(left, d.choice((1, 1, 2, 5, 20, 60)))
            left -= count
            tp = d.choice(self._scenario.tps)
            time = max(0.0, d.uniform(-2, self._scenario.calm))
            timeline.at(time, lambda tp=tp, count=count: self._write(tp, count))  # type: ignore[misc]

    def _write(self, tp: TopicPartition, count: int) -> None:
        d, first = self._dice, self.ends[tp]
        timestamp = int((EPOCH + trio.current_time()) * 1000)
        for _ in range(count):
            kind = self._kind(d)
            if kind == "gap":
                self.ends[tp] += d.choice((1, 1, 2, 7))
                continue
            key = None
            if self._scenario.collapse or d.random() < 0.5:
                key = b"k%d" % d.randrange(8)
            offset = self.ends[tp]
            self.ends[tp] += 1
            if kind:
                self.kinds[Coordinates(*tp, offset)] = kind
            record = SimRecord(*tp, offset, _value(kind, d), key, timestamp)
            self.records[tp].append(record)
        self._trace.note("world", "writes", tp, f"{first}-{self.ends[tp] - 1}")
        self.grown.set()
        self.grown = trio.Event()

    def _kind(self, d: Random) -> str:
        left = d.random()
        for kind, rate in self._scenario.kinds.items():
            left -= rate
            if left < 0:
                return kind
        return ""

    def read(self, tp: TopicPartition, position: int, count: int) -> list[SimRecord]:
        """Up to `count` records from `position` on."""
        records = self.records[tp]
        first = bisect_left(records, position, key=lambda r: r.offset)
        return records[first : first + count]

    def find(self, where: Coordinates) -> SimRecord:
        return self.read(TopicPartition(where.topic, where.partition), where.offset, 1)[0]

    def within(self, tp: TopicPartition, span: Range) -> list[SimRecord]:
        """The records of an inclusive range of offsets."""
        records = self.records[tp]
        first = bisect_left(records, span[0], key=lambda r: r.offset)
        return records[first : bisect_left(records, span[1] + 1, key=lambda r: r.offset)]


def _value(kind: str, d: Random) -> bytes | None:
    if kind == "tombstone":
        return None
    if kind == "invalid":
        return d.choice((b"", b'{"a":', b"nul", b'"\xff"'))
    if kind == "large":
        return b'"' + b"x" * d.choice((1_000, 5_000, 50_000)) + b'"'
    return b"1" * d.choice((2, 2, 20, 80))

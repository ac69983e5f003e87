"""How fresh the data at the other end is: up to which record timestamp everything is visible, and
how long it takes until nothing waits any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

from .record import TopicPartition

OVER = 60.0  # seconds over which rates are measured
LATEST = 253_402_300_799_999  # the last ms of the year 9999
MOST = 1000  # batches of a partition whose times are kept apart while one before them is stuck


class Freshness:
    """Per partition, the timestamp (ms) of the newest record of the settled prefix."""

    def __init__(self) -> None:
        self._pending: dict[TopicPartition, list[tuple[int, int]]] = {}
        self._visible: dict[TopicPartition, int] = {}

    def settled(self, tp: TopicPartition, last_offset: int, timestamp: int) -> None:
        """Everything of a batch up to `last_offset` is done; `timestamp` is that record's.

        One that is no time says nothing: a negative one means that the record has none, and one
        beyond the calendar comes from a producer that writes microseconds.
        """
        if 0 <= timestamp <= LATEST:
            pending = self._pending.setdefault(tp, [])
            heappush(pending, (last_offset, timestamp))
            if len(pending) > MOST:
                ordered = sorted(pending)
                pairs = (ordered[at : at + 2] for at in range(0, len(ordered), 2))
                pending[:] = [(pair[-1][0], max(time for _, time in pair)) for pair in pairs]

    def advance(self, tp: TopicPartition, checkpoint: int) -> None:
        """Everything below `checkpoint` is done."""
        pending = self._pending.get(tp, [])
        while pending and pending[0][0] < checkpoint:
            _, timestamp = heappop(pending)
            self._visible[tp] = max(timestamp, self._visible.get(tp, timestamp))

    def until(self, tp: TopicPartition) -> int | None:
        return self._visible.get(tp)

    def forget(self, tps: Iterable[TopicPartition]) -> None:
        for tp in tps:
            self._pending.pop(tp, None)
            self._visible.pop(tp, None)


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    ends: Mapping[TopicPartition, int]
    checkpoints: Mapping[TopicPartition, int]


class Pace:
    """How fast the log grows and how fast it is worked off, over the last minute, in offsets.

    Told the time, never asks for it. What is looked at is one assignment: after another one it
    begins anew.
    """

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque()

    def look(
        self,
        now: float,
        ends: Mapping[TopicPartition, int],
        checkpoints: Mapping[TopicPartition, int],
    ) -> None:
        """Notes the log's ends and the checkpoints, at about the same moment."""
        if self._looks and self._looks[-1].ends.keys() != ends.keys():
            self._looks.clear()
        self._looks.append(_Look(now, dict(ends), {tp: checkpoints[tp] for tp in ends}))
        while now - self._looks[0].at > OVER:
            self._looks.popleft()

    def forget(self) -> None:
        self._looks.clear()

    def rates(self) -> tuple[float, float] | None:
        """Records written and done in a second; None before there is anything to compare."""
        if len(self._looks) < 2:
            return None
        first, last = self._looks[0], self._looks[-1]
        written = sum(end - first.ends[tp] for tp, end in last.ends.items())
        done = sum(at - first.checkpoints[tp] for tp, at in last.checkpoints.items())
        return written / (last.at - first.at), done / (last.at - first.at)

    def catch_up(self, backlog: int) -> float | None:
        """Seconds until so many records are done with, as things go; None if they never will be."""
        if not backlog:
            return 0.0
        written, done = self.rates() or (0.0, 0.0)
        return backlog / (done - written) if done > written else None

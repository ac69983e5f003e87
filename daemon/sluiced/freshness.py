"""How fresh the data at the other end is: up to which record timestamp everything is visible."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from .record import TopicPartition

LATEST = 253_402_300_799_999  # the last ms of the year 9999


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
            heappush(self._pending.setdefault(tp, []), (last_offset, timestamp))

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

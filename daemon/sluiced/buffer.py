"""What waits between the stream and the sink: open windows, and closed batches in their queues."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from .batch import Batch, ClosedBy, Run
from .record import TopicPartition
from .window import Windows


class Buffer:
    """Takes runs of records in, and gives batches out, one at a time and in a fair order.

    Told the time, never asks for it.
    """

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.waiting: deque[Batch] = deque()
        self._served: dict[TopicPartition | None, int] = {}  # the turn in which each had its last
        self._turn = 0

    @property
    def records(self) -> int:
        return self.windows.records + sum(map(len, self.waiting))

    @property
    def bytes(self) -> int:
        """Of values."""
        return self.windows.bytes + sum(batch.size for batch in self.waiting)

    def occupied(self) -> int:
        """Bytes in memory, now and soon: each record counts for its request's body too."""
        records = self.windows.footprint + sum(batch.footprint for batch in self.waiting)
        return records + self.bytes

    def since(self) -> float | None:
        """When the oldest record here was buffered."""
        opened = self.windows.opened_at()
        times = [batch.since for batch in self.waiting] + ([] if opened is None else [opened])
        return min(times, default=None)

    def add(self, run: Run, now: float) -> None:
        self.waiting.extend(self.windows.add(run, now))

    def wanting(self, tps: Collection[TopicPartition], slots: int) -> Collection[TopicPartition]:
        """Those of the partitions of which more would be of use: not what has batches waiting, one
        for each of the gate's `slots` where all share a window."""
        if self.windows.shared:
            return tps if len(self.waiting) < slots else ()
        behind = {span.tp for batch in self.waiting for span in batch.spans}
        return [tp for tp in tps if tp not in behind]

    def next(self, now: float) -> Batch | None:
        """The next batch: one that is closed, or a window that is old enough.

        Such a window is closed here and not before: as long as it could not go out it fills.
        """
        heads: dict[TopicPartition | None, int] = {}
        for place, batch in enumerate(self.waiting):
            heads.setdefault(self._queue_of(batch), place)
        queues = [*heads, *(key for key in self.windows.due(now) if key not in heads)]
        if not queues:
            return None
        # Whoever was served longest ago is next: a busy partition cannot starve a quiet one.
        key = min(queues, key=lambda queue: self._served.get(queue, 0))
        self._turn += 1
        self._served[key] = self._turn
        if key not in heads:
            return self.windows.close(key, "age")
        batch = self.waiting[heads[key]]
        del self.waiting[heads[key]]
        return batch

    def _queue_of(self, batch: Batch) -> TopicPartition | None:
        return None if self.windows.shared else batch.spans[0].tp

    def close_all(self, why: ClosedBy) -> None:
        self.waiting.extend(self.windows.close_all(why))

    def close_largest(self) -> bool:
        """Makes a batch of the largest window: what gives room when nothing else is on its way."""
        batch = self.windows.close_largest()
        if batch is not None:
            self.waiting.append(batch)
        return batch is not None

    def drop(self) -> None:
        """Forgets everything; it will be fetched again."""
        self.waiting.clear()
        self.windows.drop()
        self._served.clear()

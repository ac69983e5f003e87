"""What waits between the stream and the sink: open windows, and closed batches in their queues."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable

from .batch import Batch, ClosedBy, Run
from .record import TopicPartition
from .window import Windows, WindowSettings


class Buffer:
    """Takes runs of records in, and gives batches out, one at a time and in a fair order.

    Told the time, never asks for it.
    """

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.planned: deque[Batch] = deque()  # of a former run's plan; they go before all others
        self.waiting: deque[Batch] = deque()
        self._served: dict[TopicPartition | None, int] = {}  # the turn in which each had its last
        self._turn = 0

    @property
    def closed(self) -> list[Batch]:
        """The batches that wait for the sink, in the order in which they were closed."""
        return [*self.planned, *self.waiting]

    @property
    def records(self) -> int:
        return self.windows.records + sum(map(len, self.closed))

    @property
    def bytes(self) -> int:
        """Of values."""
        return self.windows.bytes + sum(batch.size for batch in self.closed)

    def occupied(self) -> int:
        """Bytes in memory, now and soon: each record counts for its request's body too."""
        records = self.windows.footprint + sum(batch.footprint for batch in self.closed)
        return records + self.bytes

    def since(self) -> float | None:
        """When the oldest record here was buffered."""
        opened = self.windows.opened_at()
        times = [batch.since for batch in self.closed] + ([] if opened is None else [opened])
        return min(times, default=None)

    def add(self, run: Run, now: float) -> None:
        self.waiting.extend(self.windows.add(run, now))

    def adopt(self, settings: WindowSettings) -> None:
        """Other limits for the windows. What waits already keeps its boundaries."""
        self.waiting.extend(self.windows.adopt(settings))

    def wanting(self, tps: Collection[TopicPartition], slots: int) -> Collection[TopicPartition]:
        """Those of the partitions of which more would be of use: not what has batches waiting, one
        for each of the gate's `slots` where all share a window."""
        if self.windows.shared:
            return tps if len(self.waiting) < slots else ()
        behind = {span.tp for batch in self.waiting for span in batch.spans}
        return [tp for tp in tps if tp not in behind]

    def due_at(self, slots: int) -> float | None:
        """When `ripen` will find a window because of its age; None if not by time alone."""
        heads = self._heads()
        return None if self.planned or len(heads) >= slots else self.windows.due_at(heads)

    def ripen(self, now: float, slots: int) -> bool:
        """Closes windows that are old enough, as far as the gate has `slots` for them; whether
        there was one. As long as it could not go out it fills."""
        if self.planned:
            return False
        heads = self._heads()
        due = [key for key in self.windows.due(now) if key not in heads]
        chosen = [key for key in self._in_turn([*heads, *due])[:slots] if key not in heads]
        self.waiting.extend(b for key in chosen if (b := self.windows.close(key, "age")))
        return bool(chosen)

    def next(self, may_go: Callable[[Batch], bool]) -> Batch | None:
        """Takes out the next batch that may go, if there is one."""
        if self.planned:
            return self.planned.popleft() if may_go(self.planned[0]) else None
        heads = self._heads()
        for key in self._in_turn(heads):
            batch = self.waiting[heads[key]]
            if may_go(batch):
                self._turn += 1
                self._served[key] = self._turn
                del self.waiting[heads[key]]
                return batch
        return None

    def _heads(self) -> dict[TopicPartition | None, int]:
        """The places of the first batch of each queue."""
        heads: dict[TopicPartition | None, int] = {}
        for place, batch in enumerate(self.waiting):
            heads.setdefault(self._queue_of(batch), place)
        return heads

    def _in_turn(self, queues: Iterable[TopicPartition | None]) -> list[TopicPartition | None]:
        """Whoever was served longest ago is first: a busy partition cannot starve a quiet one."""
        return sorted(queues, key=lambda queue: self._served.get(queue, 0))

    def _queue_of(self, batch: Batch) -> TopicPartition | None:
        return None if self.windows.shared else batch.spans[0].tp

    def close_of(self, tp: TopicPartition) -> None:
        """Makes a batch of the window that this partition's records are in."""
        if batch := self.windows.close_of(tp, "plan"):
            self.waiting.append(batch)

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
        self.planned.clear()
        self.waiting.clear()
        self.windows.drop()
        self._served.clear()

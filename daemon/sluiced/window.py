"""The open batch: fills with runs of records until a count, a size or an age closes it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator
from itertools import accumulate
from math import isinf
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from .batch import Batch, ClosedBy, Run
from .identity import Identify
from .record import Record, TopicPartition
from .schedule import Active, Align
from .units import Duration, Settings, Size


class WindowSettings(Settings, frozen=True):
    """[window]"""

    max_records: Annotated[int, Meta(ge=1)] | Literal["auto"] = 500
    max_bytes: Size = Size(4 * 1024**2)
    max_age: Duration = Duration(2)
    span: Literal["topics", "partition"] = "topics"
    align: Align | None = None
    active: Active | None = None
    collapse: bool = False

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError("max_bytes must be at least 1B")
        if self.max_age <= 0:
            raise ValueError("max_age must be more than 0s")

    @property
    def most_records(self) -> float:
        """Infinite where the number is to be found out: then only a cap bounds it."""
        return float("inf") if self.max_records == "auto" else self.max_records


class Cap(NamedTuple):
    """What a window may hold besides what its settings say; it counts from the next one on."""

    records: float = float("inf")
    bytes: float = float("inf")


class Window:
    """One window. Told the time, never asks for it.

    `records`, `bytes` (of values) and `footprint` (in memory) describe what is open now.
    """

    def __init__(
        self,
        pipeline: str,
        settings: WindowSettings,
        identify: Identify | None = None,
        cap: Cap | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._identify = identify if settings.collapse else None
        self._cap = cap or Cap()
        self._reset()

    def _reset(self) -> None:
        most = min(self._settings.most_records, self._cap.records)
        self._max_records = max(1, most if isinf(most) else int(most))
        self._max_bytes = max(1, min(self._settings.max_bytes, self._cap.bytes))
        self._runs: list[Run] = []
        self.records = 0
        self.bytes = 0
        self.footprint = 0
        self.opened_at: float | None = None

    def add(self, run: Run, now: float) -> list[Batch]:
        """Takes in a run, and returns the batches that this closed, oldest first.

        The byte cap is hard: a record that does not fit closes the window before it and opens
        the next one. One that is larger than the cap by itself makes a batch of its own.
        """
        closed: list[Batch] = []
        rest: Run | None = run
        while rest is not None:
            count = self._fitting(rest)
            first, rest = _cut(rest, count)
            if first is not None:
                self._put(first, now)
            if self.records >= self._max_records:
                closed.append(self._close("records"))
            elif self.bytes >= self._max_bytes or rest is not None:
                closed.append(self._close("bytes"))
        return closed

    def adopt(self, settings: WindowSettings) -> list[Batch]:
        """Cuts what is open anew by other limits, and returns the batches that this closed, oldest
        first. The rest stays open and keeps its age."""
        runs, opened_at = self._runs, self.opened_at
        self._settings = settings
        self._reset()
        return [batch for run in runs for batch in self.add(run, opened_at or 0.0)]

    def cap(self, cap: Cap) -> None:
        """A window that is open keeps its limits; the next one has these."""
        self._cap = cap
        if not self.records:
            self._reset()

    def due_at(self) -> float | None:
        """When the window must close by age; None while it is empty."""
        return None if self.opened_at is None else self.opened_at + self._settings.max_age

    def close(self, why: ClosedBy) -> Batch | None:
        """Closes the window whatever it holds; None if it holds nothing."""
        return self._close(why) if self.records else None

    def drop(self) -> None:
        """Forgets what is buffered; it will be fetched again."""
        self._reset()

    def _fitting(self, run: Run) -> int:
        """How many of the run's records fit into the open window."""
        room = int(min(self._max_records - self.records, len(run.records)))
        free = self._max_bytes - self.bytes
        if run.size <= free:
            return room
        sizes = accumulate(len(r.value or b"") for r in run.records[:room])
        fitting = bisect_right(list(sizes), free)
        return fitting if fitting or self.records else 1

    def _put(self, run: Run, now: float) -> None:
        if self.opened_at is None:
            self.opened_at = now
        self._runs.append(run)
        self.records += len(run.records)
        self.bytes += run.size
        self.footprint += run.footprint

    def _close(self, why: ClosedBy) -> Batch:
        batch = Batch.of(self._pipeline, self._runs, why, self.opened_at or 0.0)
        self._reset()
        return batch if self._identify is None else collapsed(batch, self._identify)


def _cut(run: Run, count: int) -> tuple[Run | None, Run | None]:
    """The first `count` records and the others; None for none."""
    if count in (0, len(run.records)):
        return (run, None) if count else (None, run)
    first = Run(run.tp, run.epoch, run.records[:count])
    size, footprint = run.size - first.size, run.footprint - first.footprint
    return first, Run(run.tp, run.epoch, run.records[count:], size, footprint)


def collapsed(batch: Batch, identify: Identify) -> Batch:
    """The batch with only the newest record of each id.

    Newest is the latest timestamp; of equal ones, and within one partition always, the later
    offset. So the result depends on the records alone and not on the order they came in.
    """
    newest: dict[str, tuple[tuple[int, str, int, int], Record]] = {}
    within: dict[tuple[str, TopicPartition], int] = {}
    for record in batch.records:
        name, tp = identify(record), TopicPartition(record.topic, record.partition)
        # A producer's clock may run backwards; within a partition the offset tells the order.
        time = max(record.timestamp, within.get((name, tp), record.timestamp))
        within[name, tp] = time
        rank = (time, record.topic, record.partition, record.offset)
        if name not in newest or newest[name][0] < rank:
            newest[name] = (rank, record)
    if len(newest) == len(batch):
        return batch
    kept = {id(record) for _, record in newest.values()}
    return batch.only(
        [r for r in batch.records if id(r) in kept],
        skipped=[r for r in batch.records if id(r) not in kept],
    )


class Windows:
    """One window over all partitions, or one each: `span`. The same verbs either way."""

    def __init__(
        self, pipeline: str, settings: WindowSettings, identify: Identify | None = None
    ) -> None:
        self._pipeline = pipeline
        self._identify = identify
        self._shared = settings.span == "topics"
        self.settings = settings
        self._cap = Cap()
        self._windows: dict[TopicPartition | None, Window] = {}

    def __iter__(self) -> Iterator[Window]:
        return iter(self._windows.values())

    @property
    def most_records(self) -> int | None:
        """What the next window may hold; None where nothing bounds it."""
        most = min(self.settings.most_records, self._cap.records)
        return None if most == float("inf") else int(most)

    @property
    def shared(self) -> bool:
        return self._shared

    @property
    def records(self) -> int:
        return sum(w.records for w in self)

    @property
    def bytes(self) -> int:
        return sum(w.bytes for w in self)

    @property
    def footprint(self) -> int:
        return sum(w.footprint for w in self)

    def add(self, run: Run, now: float) -> list[Batch]:
        key = None if self._shared else run.tp
        if key not in self._windows:
            self._windows[key] = Window(self._pipeline, self.settings, self._identify, self._cap)
        return self._windows[key].add(run, now)

    def adopt(self, settings: WindowSettings) -> list[Batch]:
        """Other limits for all windows, those that are open included; see Window. `span` and
        `collapse` must be as they were."""
        self.settings = settings
        return [batch for w in self for batch in w.adopt(settings)]

    def cap(self, cap: Cap) -> None:
        """Other limits, from each window's next opening on."""
        if cap != self._cap:
            self._cap = cap
            for window in self:
                window.cap(cap)

    def due_at(self, but: Collection[TopicPartition | None] = ()) -> float | None:
        """When the first of the windows, but for those with these keys, must close by age."""
        times = [w.due_at() for key, w in self._windows.items() if key not in but]
        return min((at for at in times if at is not None), default=None)

    def opened_at(self) -> float | None:
        return min((w.opened_at for w in self if w.opened_at is not None), default=None)

    def due(self, now: float) -> list[TopicPartition | None]:
        """The keys of the windows that are old enough to close: a partition, None for the one over
        all."""
        return [key for key, w in self._windows.items() if (w.due_at() or now + 1) <= now]

    def close(self, key: TopicPartition | None, why: ClosedBy) -> Batch | None:
        return self._windows[key].close(why)

    def close_of(self, tp: TopicPartition, why: ClosedBy) -> Batch | None:
        """Closes the window that takes this partition's records."""
        window = self._windows.get(None if self._shared else tp)
        return window.close(why) if window else None

    def close_all(self, why: ClosedBy) -> list[Batch]:
        return [batch for w in self if (batch := w.close(why))]

    def close_largest(self) -> Batch | None:
        """Closes the window with the most bytes: what makes room when memory runs short."""
        return max(self, key=lambda w: w.footprint).close("bytes") if self._windows else None

    def drop(self) -> None:
        """Forgets everything. A rebalance takes all partitions, so there is no other unit."""
        self._windows.clear()

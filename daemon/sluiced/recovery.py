"""Forms again the batches that a checkpoint's metadata tells of: same records, same id.

Whatever the window settings are now, a batch that may have been sent is formed from the boundaries
that were written down for it. Until a partition has been read to the end of its plan, its further
records are held back, so that they come after the planned ones.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from .batch import Batch, Run
from .identity import Identify
from .metadata import Entry
from .plan import Work
from .record import Range, Record, TopicPartition
from .window import collapsed


@dataclass(eq=False, slots=True)
class _Forming:
    """A batch that is being put together: its records so far, and the partitions it waits for."""

    work: Work
    runs: list[Run] = field(default_factory=list)
    missing: set[TopicPartition] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Held:
    """Records of a partition that is through with its plan now. `hole` where others of the plan
    lie behind them: then they may not share a batch with what comes behind those."""

    run: Run
    hole: bool


@dataclass(frozen=True, slots=True)
class Formed:
    """A planned batch with the records that are left of it. `batch` is None if there are none.

    Its id is the planned one exactly if all of its records were found and its partitions are here.
    """

    work: Work
    batch: Batch | None

    @property
    def exact(self) -> bool:
        return self.batch is not None and self.batch.id == self.work.id


class Recovery:
    """What is being formed again at the moment; empty most of the time."""

    def __init__(self, pipeline: str, identify: Identify) -> None:
        self._pipeline = pipeline
        self._identify = identify
        self._forming: dict[TopicPartition, deque[_Forming]] = {}
        self._done: dict[TopicPartition, Sequence[Range]] = {}
        self._held: dict[TopicPartition, list[Held]] = {}

    def start(self, works: Iterable[Work], done: Mapping[TopicPartition, Sequence[Range]]) -> None:
        """Begins with the plans of a new assignment: see `regrouped`."""
        self.drop()
        self._done = dict(done)
        queues: dict[TopicPartition, list[_Forming]] = {}
        for work in works:
            forming = _Forming(work, missing=set(work.spans))
            for tp in work.spans:
                queues.setdefault(tp, []).append(forming)
        for tp, queue in queues.items():
            self._forming[tp] = deque(sorted(queue, key=lambda f: f.work.spans[tp]))

    def drop(self) -> None:
        """Forgets everything; it will be read again."""
        self._forming, self._done, self._held = {}, {}, {}

    def __contains__(self, tp: object) -> bool:
        """Whether records of this partition must go through here."""
        return tp in self._forming or tp in self._done

    @property
    def records(self) -> int:
        return sum(len(run.records) for run in self._runs())

    @property
    def batches(self) -> int:
        """How many planned batches are not complete yet."""
        return len({id(f) for queue in self._forming.values() for f in queue})

    def occupied(self) -> int:
        """Bytes in memory, now and soon: each record counts for its request's body too."""
        return sum(run.footprint + run.size for run in self._runs())

    def _runs(self) -> list[Run]:
        forming = {id(f): f for queue in self._forming.values() for f in queue}
        runs = [run for f in forming.values() for run in f.runs]
        return runs + [each.run for held in self._held.values() for each in held]

    def recovering(self) -> Collection[TopicPartition]:
        """Partitions of which no ordinary record may go out yet."""
        return self._forming.keys()

    def reading(self) -> list[TopicPartition]:
        """Partitions that have not been read to the end of their plan."""
        return [tp for tp, queue in self._forming.items() if tp in queue[-1].missing]

    def first(self) -> list[TopicPartition]:
        """The partitions that one batch waits for: what to read when there is no room for all."""
        for queue in self._forming.values():
            if queue[0].missing:
                return sorted(queue[0].missing)
        return []

    def undone(self, tp: TopicPartition, records: Sequence[Record]) -> Sequence[Record]:
        """The records but for those that a former run has finished."""
        for first, last in self._done.get(tp, ()):
            start = bisect_left(records, first, key=_offset)
            end = bisect_left(records, last + 1, key=_offset)
            if start < end:
                records = [*records[:start], *records[end:]]
        return records

    def add(self, run: Run) -> None:
        """Records that may be sent, in order. They go where the plan wants them, or are held."""
        tp, records = run.tp, run.records
        for forming in self._forming.get(tp, ()):
            first, last = forming.work.spans[tp]
            start = bisect_left(records, first, key=_offset)
            end = bisect_left(records, last + 1, key=_offset)
            if start:
                self.hold(Run(tp, run.epoch, records[:start]), hole=True)
            if start < end:
                forming.runs.append(Run(tp, run.epoch, records[start:end]))
            records = records[end:]
            if not records:
                return
        if records:
            self.hold(Run(tp, run.epoch, records))

    def hold(self, run: Run, *, hole: bool = False) -> None:
        """Keeps records that no plan has until `freed` gives them out."""
        self._held.setdefault(run.tp, []).append(Held(run, hole))

    def hole(self, tp: TopicPartition) -> None:
        """Something of the plan lies behind what was held of the partition so far."""
        if held := self._held.get(tp):
            held[-1] = Held(held[-1].run, hole=True)

    def reached(self, tp: TopicPartition, position: int, now: float) -> list[Formed]:
        """The partition has been read up to `position`: the batches that completes, in order."""
        if not (ahead := [span for span in self._done.get(tp, ()) if span[1] >= position]):
            self._done.pop(tp, None)
        else:
            self._done[tp] = ahead
        for forming in self._forming.get(tp, ()):
            if forming.work.spans[tp][1] < position:
                forming.missing.discard(tp)
        formed = []
        while (complete := self._next_complete()) is not None:
            formed.append(self._form(complete, now))
        return formed

    def freed(self) -> list[Held]:
        """Takes out what was held of partitions that are through with their plans."""
        free = [tp for tp in self._held if tp not in self._forming]
        return [each for tp in free for each in self._held.pop(tp)]

    def _next_complete(self) -> _Forming | None:
        """A batch that waits for nothing, not even for another one before it in a partition.

        Our own plans always have such a one in the end; others may go round in a circle.
        """
        heads = [queue[0] for queue in self._forming.values() if not queue[0].missing]
        for head in heads:
            if all(self._forming[tp][0] is head for tp in head.work.spans):
                return head
        return heads[0] if heads and not self.reading() else None

    def _form(self, forming: _Forming, now: float) -> Formed:
        work = forming.work
        for tp in work.spans:
            self._forming[tp].remove(forming)
            if not self._forming[tp]:
                del self._forming[tp]
        if not forming.runs:
            return Formed(work, None)
        batch = Batch.of(self._pipeline, forming.runs, "plan", now)
        if work.collapsed:
            with suppress(ValueError):  # [record] id may be another one now
                batch = collapsed(batch, self._identify)
        return Formed(work, batch)


def _offset(record: Record) -> int:
    return record.offset


def regrouped(
    plans: Mapping[TopicPartition, Sequence[Entry]], ends: Mapping[TopicPartition, int]
) -> tuple[list[Work], dict[TopicPartition, list[Range]], int]:
    """The works that several partitions' entries make up, what is done already, and how many
    batches are taken apart, each part for itself, because not all of their partitions are here.

    What lies beyond the end of the log is no longer there: the log was truncated.
    """
    here: dict[tuple[str, tuple[str, ...], bool], dict[TopicPartition, Entry]] = {}
    done: dict[TopicPartition, list[Range]] = {}
    for tp, entries in plans.items():
        for entry in entries:
            if entry.first >= ends[tp]:
                break
            clipped = replace(entry, last=min(entry.last, ends[tp] - 1))
            if entry.id:
                # Of the parts of a job each owner had it go its own way.
                key = (entry.id, entry.jobs, entry.written)
                here.setdefault(key, {})[tp] = clipped
            else:
                done.setdefault(tp, []).append((clipped.first, clipped.last))
    works: list[Work] = []
    taken_apart = 0
    for (name, jobs, written), parts in here.items():
        spans = {tp: (entry.first, entry.last) for tp, entry in parts.items()}
        whole = all(entry.parts == len(parts) for entry in parts.values())
        taken_apart += not whole
        example = next(iter(parts.values()))
        groups = [spans] if whole else [{tp: span} for tp, span in spans.items()]
        works += [
            Work(name, len(group) if whole else 0, example.collapsed, group, jobs, written)
            for group in groups
        ]
    return works, done, taken_apart

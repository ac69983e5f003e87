"""The plan: which batches are in flight, written into the metadata of the offset commit.

Before a batch is sent its boundaries are durable there. Whoever has the partition next, after a
crash or a rebalance, reads them back and forms the very same batch, so that an API which knows it
by its id does nothing twice. How it is written there is `metadata`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .batch import Batch
from .metadata import DEFAULT_LIMIT, JOB_ROOM, LEAST_LIMIT, Entry, encode, job_text
from .record import Range, TopicPartition


@dataclass(eq=False, slots=True)
class Work:
    """One batch of the plan, as far as its partitions are here.

    `durable` once a commit that carries it as it is now is acknowledged: only then may it be sent.
    `settled` once every record of it has an answer. `jobs` and `written` as in an entry.
    """

    id: str
    parts: int
    collapsed: bool
    spans: dict[TopicPartition, Range]
    jobs: tuple[str, ...] = ()
    written: bool = False
    since: float = 0.0  # when it was entered
    durable: bool = False
    settled: bool = False
    done: bool = False

    @property
    def at_work(self) -> str | None:
        """The job whose results are to be written yet."""
        return self.jobs[-1] if self.jobs and not self.written else None

    @property
    def apart(self) -> bool:
        """Whether it is part of a batch that was taken apart."""
        return self.parts != len(self.spans)

    @property
    def key(self) -> str:
        """Its own among all that are here: parts of a batch that was taken apart share its id."""
        return self.id if not self.apart else f"{self.id} {min(self.spans)}"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a partition a work stands. None is work that a former run has finished."""

    first: int
    last: int
    work: Work | None

    @property
    def open(self) -> bool:
        return self.work is not None and not self.work.done

    def entry(self, offset: int) -> Entry:
        """What is done and lies below the offset is the offset's to tell."""
        if self.work is None or self.work.done:
            return Entry(max(self.first, offset), self.last)
        work = self.work
        return Entry(
            self.first, self.last, work.id, work.parts, work.collapsed, work.jobs, work.written
        )

    def claimed(self) -> int:
        """Bytes that the id of its next job needs, where it is about to be submitted."""
        if self.work is None or not self.open or self.work.at_work:
            return 0
        return 1 + JOB_ROOM - self.work.written

    def kept_free(self, jobs: int) -> int:
        """Bytes that the ids of so many jobs may still need here."""
        if self.work is None or not self.open:
            return 0
        room = jobs * (1 + JOB_ROOM)
        return max(0, room - len(job_text(self.work.jobs, self.work.written)))


class Plan:
    """The plans of all assigned partitions. `limit` is what the metadata of one may take, in bytes.

    `jobs` is how many jobs a batch may become one after the other, for whose ids room is kept.

    `owes(tp, first, last)` and `checkpoint(tp)` ask the ledger. A batch is done when it is settled
    and nothing in its range is owed (a record among its own that could not be sent may still be on
    its way to the dead letters); it is done in all of its partitions at once, or in none.
    """

    def __init__(
        self,
        owes: Callable[[TopicPartition, int, int], bool],
        checkpoint: Callable[[TopicPartition], int],
    ) -> None:
        self.limit = DEFAULT_LIMIT
        self.jobs = 0
        self._owes = owes
        self._checkpoint = checkpoint
        self._places: dict[TopicPartition, list[_Place]] = {}
        self._works: dict[str, Work] = {}

    @property
    def attempts(self) -> int:
        """How many jobs a batch may become: `jobs`, or as many as the metadata has room for."""
        return max(1, min(self.jobs, (self.limit - LEAST_LIMIT // 2) // (1 + JOB_ROOM)))

    def restore(
        self, works: Iterable[Work], done: Mapping[TopicPartition, Sequence[Range]]
    ) -> None:
        """Takes over what was found in the metadata of partitions that have just been assigned."""
        for work in works:
            for tp, (first, last) in work.spans.items():
                self._places.setdefault(tp, []).append(_Place(first, last, work))
            if work.jobs:  # they are not formed again: see `jobs`
                work.durable = not work.apart
                self._works[work.key] = work
        for tp, ranges in done.items():
            self._places.setdefault(tp, []).extend(_Place(*span, None) for span in ranges)
        for places in self._places.values():
            places.sort(key=_first)

    def clear(self) -> None:
        self._places.clear()
        self._works.clear()

    def add(self, batch: Batch, now: float = 0.0) -> bool:
        """Enters a batch. False, and nothing is entered, if the metadata would grow too long."""
        work = _work_of(batch)
        work.since = now
        places = {tp: _Place(*span, work) for tp, span in work.spans.items()}
        if not all(self._fits(tp, place) for tp, place in places.items()):
            return False
        for tp, place in places.items():
            self._places[tp] = self._with(tp, place)
        self._works[batch.id] = work
        return True

    def replace(self, work: Work, batch: Batch | None, now: float = 0.0) -> None:
        """A batch of a former run is formed again: as it was, otherwise, or of nothing at all.

        Another one keeps the place of the first, with offsets that it does not have any more, so
        that the metadata cannot grow by it.
        """
        new = None
        if batch is not None:
            new = work if batch.id == work.id else _work_of(batch)
            new.spans = {tp: work.spans[tp] for tp in new.spans}
            new.durable, new.since = new is work, now
            self._works[batch.id] = new
        for tp in work.spans if new is not work else ():
            keep = [] if new is None or tp not in new.spans else [_Place(*new.spans[tp], new)]
            places = self._places[tp]
            at = next(i for i, place in enumerate(places) if place.work is work)
            places[at : at + 1] = keep

    def keep(self, work: Work, batch: Batch, now: float = 0.0) -> None:
        """A batch of a former run is formed again, and may be a job by the name that it has in the
        plan: so that stays as it is, whatever the batch is now. But whoever has all of its
        partitions next must know that parts of it may be jobs of their own by then."""
        work.durable, work.since = not work.apart, now
        self._works[batch.id] = work

    def remove(self, batch_id: str) -> None:
        """Takes out a batch that was never sent."""
        work = self._works.pop(batch_id, None)
        for tp in work.spans if work is not None else ():
            self._places[tp] = [place for place in self._places[tp] if place.work is not work]

    def cut(self, work: Work, first: Batch, second: Batch, now: float = 0.0) -> bool:
        """Two batches take the place of one, the second from its first record on. False, and
        nothing is done, if the metadata would grow too long.

        What was never a job has no past: the second one is left out, to be entered like any other
        once there is room. So a batch can be cut as often as it takes however full the plan is.
        """
        if not work.spans.keys() <= self._places.keys():
            return False  # revoked meanwhile: there is nothing left to cut
        at = second.records[0]
        border, offset = TopicPartition(at.topic, at.partition), at.offset
        spans = work.spans.items()
        upper = {tp: (max(a, offset) if tp == border else a, b) for tp, (a, b) in spans}
        lower = {tp: (a, min(b, offset - 1) if tp == border else b) for tp, (a, b) in spans}
        parts = []
        for batch, found in (
            (first, {tp: s for tp, s in lower.items() if tp <= border and s[0] <= s[1]}),
            (second, {tp: s for tp, s in upper.items() if tp >= border}),
        ):
            part = Work(batch.id, len(found), work.collapsed, found, work.jobs, work.written, now)
            parts.append((batch, part))
        if not work.jobs:
            parts.pop()
        places = {
            tp: sorted(
                [place for place in self._places[tp] if place.work is not work]
                + [_Place(*part.spans[tp], part) for _, part in parts if tp in part.spans],
                key=_first,
            )
            for tp in work.spans
        }
        # A gap may take some bytes more than the length that it was; room kept for ids is larger.
        if work.jobs and not all(self._short_enough(tp, found) for tp, found in places.items()):
            return False
        self._places |= places
        self._works = {key: each for key, each in self._works.items() if each is not work}
        self._works |= {batch.id: part for batch, part in parts}
        return True

    def submitted(self, work: Work, job: str, now: float = 0.0) -> None:
        """The batch has become a job."""
        work.jobs, work.written = (*work.jobs, job), False
        work.durable, work.since = False, now

    def may_go_again(self, work: Work) -> bool:
        """Whether what its last job has left undone may become another one. Where more are allowed
        than when it was planned, that is as far as the metadata has room."""
        if len(work.jobs) >= self.attempts:
            return False
        again = replace(work, written=True)
        for tp in work.spans:
            places = [
                replace(place, work=again) if place.work is work else place
                for place in self._places[tp]
            ]
            claimed = sum(place.claimed() for place in places)
            if len(self._text(tp, places)) + claimed > self.limit:
                return False
        return True

    def goes_again(self, work: Work, now: float = 0.0) -> None:
        """What the last job says is written; another one is to come for what it has left undone."""
        work.written = True
        work.durable, work.since = False, now

    def came_to_nothing(self, work: Work, now: float = 0.0) -> None:
        """The last job has not worked on anything; another one is to come in its place."""
        work.jobs = work.jobs[:-1]
        work.written = bool(work.jobs)
        work.durable, work.since = False, now

    def known_as(self, work: Work, batch: Batch) -> None:
        """The work's next job is made of this batch."""
        self._works = {key: each for key, each in self._works.items() if each is not work}
        self._works[batch.id] = work

    def work(self, batch_id: str) -> Work:
        return self._works[batch_id]

    def knows(self, batch_id: str) -> bool:
        return batch_id in self._works

    def durable(self, batch_id: str) -> bool:
        return batch_id in self._works and self._works[batch_id].durable

    def settled(self, batch_id: str) -> None:
        """Every record of the batch has an answer."""
        if batch_id in self._works:
            self._works[batch_id].settled = True

    def waiting(self) -> list[Work]:
        """What may not be sent yet."""
        return [work for work in self._works.values() if not work.durable]

    def tidy(self) -> None:
        """Finds what is done, and forgets what lies below the checkpoints."""
        for batch_id, work in list(self._works.items()):
            if work.settled and not any(self._owes(tp, *span) for tp, span in work.spans.items()):
                work.done = True
                del self._works[batch_id]
        for tp, places in self._places.items():
            offset = self.offset(tp)
            self._places[tp] = _joined(place for place in places if place.last >= offset)

    def offset(self, tp: TopicPartition) -> int:
        """What may be committed: the ledger's checkpoint, but nothing beyond an open batch."""
        firsts = (place.first for place in self._places.get(tp, ()) if place.open)
        return min(self._checkpoint(tp), next(firsts, self._checkpoint(tp)))

    def metadata(self, tp: TopicPartition) -> str:
        """What goes with `offset(tp)`. Call `tidy` first."""
        return self._text(tp, self._places.get(tp, ()))

    def _text(self, tp: TopicPartition, places: Sequence[_Place]) -> str:
        offset = self.offset(tp)
        return encode(offset, [place.entry(offset) for place in places if place.last >= offset])

    def _fits(self, tp: TopicPartition, place: _Place) -> bool:
        return self._short_enough(tp, self._with(tp, place))

    def _short_enough(self, tp: TopicPartition, places: Sequence[_Place]) -> bool:
        kept = sum(place.kept_free(self.attempts) for place in places) if self.jobs else 0
        return len(self._text(tp, places)) + kept <= self.limit

    def _with(self, tp: TopicPartition, place: _Place) -> list[_Place]:
        """In order of offsets: what a former run left out between two batches, and is sent after
        both, stands between them."""
        return sorted([*self._places.get(tp, ()), place], key=_first)


def _first(place: _Place) -> int:
    return place.first


def _joined(places: Iterable[_Place]) -> list[_Place]:
    """What is done and touches is one place: behind a batch that is stuck for days there may be as
    many as there have been batches since."""
    joined: list[_Place] = []
    for place in places:
        before = joined[-1] if joined else None
        if before and not before.open and not place.open and before.last + 1 == place.first:
            joined[-1] = _Place(before.first, place.last, None)
        else:
            joined.append(place)
    return joined


def _work_of(batch: Batch) -> Work:
    spans = {span.tp: (span.ranges[0][0], span.ranges[-1][1]) for span in batch.covers}
    return Work(batch.id, len(spans), bool(batch.skipped), spans)

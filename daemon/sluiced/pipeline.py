"""The line: fetches, closes windows, releases batches, drains."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import anyio
import structlog

from .attempts import RetrySettings
from .batch import ClosedBy, Run, Span
from .bell import Bells
from .buffer import Buffer
from .burial import Burial
from .committer import Committer
from .delivery import Delivery
from .errors import SourceError
from .gate import Gate
from .identity import Identify
from .intake import Intake
from .jobs import Jobs
from .metrics import Metrics
from .outflow import Outflow
from .plan import Work
from .ports import Assignment, Checkpoint, DeadLetter, Fetched, Source
from .record import Record, TopicPartition, footprint_of, ranges_of, size_of
from .recovery import Recovery
from .schedule import Timetable
from .tasks import Tasks
from .units import Duration, Settings
from .watch import Watch
from .window import Windows

log = structlog.get_logger("sluiced.pipeline")

POLL = 0.2  # seconds that one fetch may wait for records
MAX_FETCH = 2000  # records at most in one fetch: about 3 ms in which nothing else runs
BEGINNING = 0.75  # of a drain: so long batches are begun; those at the sink then have the rest
COMMITTING = (5.0, 0.25)  # seconds, and part of the drain, that the commit after it has at most


class ShutdownSettings(Settings, frozen=True):
    """[shutdown]"""

    drain: Duration = Duration(30)

    def __post_init__(self) -> None:
        if self.drain <= 0:
            raise ValueError("drain must be more than 0s")


def committing(drain: float) -> float:
    """Seconds that the commit at the end of a drain may take beyond it."""
    return min(COMMITTING[0], COMMITTING[1] * drain)


class Pipeline:
    """Owns the tasks and the way of a record through them. Implements ports.Member.

    `memory` is the budget in bytes for records buffered and in flight, and for what the sink holds
    besides: so many bytes of answers, and of bodies larger than their records, as `held` tells.
    `plans` is whether a batch must be in the checkpoint's metadata before it is sent; batches that
    are found there are formed again in any case. `clock` gives seconds that only go forward.
    """

    def __init__(
        self,
        name: str,
        *,
        source: Source,
        checkpoint: Checkpoint,
        intake: Intake,
        windows: Windows,
        identify: Identify,
        gate: Gate,
        delivery: Delivery | Jobs,
        burial: Burial,
        metrics: Metrics,
        plans: bool,
        held: Callable[[], int] = lambda: 0,
        memory: int,
        drain: float,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.source = source
        self.intake = intake
        self.buffer = Buffer(windows)
        self.gate = gate
        self.delivery = delivery
        self.burial = burial
        self.metrics = metrics
        self.memory = memory
        self.held = held
        self.drain = drain
        self._committing = committing(drain)
        self.clock = clock

        self.jobs = jobs = delivery if isinstance(delivery, Jobs) else None
        self.tasks = tasks = Tasks()
        self._bells = bells = Bells(None if jobs is None else jobs.moved)
        self.committer = Committer(
            checkpoint, metrics, burial.halt, plans=plans, clock=clock, committed=bells.moved
        )
        self.outflow = Outflow(
            self.buffer,
            self.committer,
            gate,
            delivery,
            burial.halt,
            metrics,
            tasks,
            bells,
            clock=clock,
        )
        if jobs is not None:
            jobs.join(
                self.committer,
                start=lambda job: tasks.start(partial(jobs.live, job)),
                queue=self.outflow.queue_again,
                changed=bells.gone,
            )
        self.ledger = self.committer.ledger
        self.freshness = self.committer.freshness
        self.recovery = Recovery(name, identify)
        self.timetable = Timetable()
        self.member = False  # between an assignment and its revocation
        self.last_turn = clock()
        self.watch = Watch(source, self.ledger, self.ready, clock)

        self._burying: dict[int, int] = {}  # what invalid records on their way out occupy
        self._mean = 16_384  # bytes that a record is taken to occupy, until we know better
        self._ahead: dict[TopicPartition, deque[int]] = {}  # where a former run's begins

    async def run(self, stop: anyio.Event) -> None:
        """Runs until `stop` is set or something fatal happens, then drains and returns.

        Raises the fatal error, after the drain.
        """
        loops = (self._fetch, self.outflow.run, self.committer.run, self.watch.run)
        await self.tasks.run(loops, stop, self._drain_and_commit)

    # --- records come in ----------------------------------------------------------------------

    async def _fetch(self) -> None:
        while not self.tasks.stopping:
            self.last_turn = self.clock()
            self._keep_hours()
            ready = self.ready()
            if not ready:
                await self._bells.left.heard(POLL)
            fetches = await self.source.fetch(ready, self._quota(), POLL)
            self._cut()
            for fetched in fetches:
                self._take(fetched)
            self._make_room()

    def _keep_hours(self) -> None:
        """Between two fetches, so that what the last one brought belongs to the release: when the
        time for it is over, all that was read goes out."""
        timetable, active = self.timetable, self.buffer.windows.settings.active
        before = timetable.open
        if timetable.ended(active, self.delivery.wall()):
            self._close_all("drain")
        if timetable.open:
            self._admit()
        if timetable.open != before:
            if timetable.open:
                log.info("release_begins", active=str(active))
            else:
                log.info("release_ends", active=str(active))

    def _cut(self) -> None:
        """Before new records come in, so that no batch has some of both sides of a multiple."""
        if self.timetable.cut(self.buffer.windows.settings.align, self.delivery.wall()):
            self._close_all("align")

    def _close_all(self, why: ClosedBy) -> None:
        self.buffer.close_all(why)
        self._bells.work.ring()

    def ready(self) -> Collection[TopicPartition]:
        """The partitions that may be fetched: back-pressure is that there are fewer."""
        if self.tasks.stopping or not self.member or self.burial.halt.reason:
            return ()
        if self.occupied() < self.memory:
            tps = self.ledger.last_committed().keys() - self.recovery.recovering()
            new = self.buffer.wanting(tps, self.gate.slots) if self.timetable.open else ()
            # A batch of a plan was released already, and whoever planned it may have sent it.
            wanted = [*self.recovery.reading(), *new]
        else:
            # A plan must be kept even where memory is smaller now than when it was made.
            wanted = self.recovery.first() if self._idle() else []
        if self.jobs is not None:
            wanted = list(dict.fromkeys([*self.jobs.passing(), *wanted]))
        return [tp for tp in wanted if tp not in self.source.stopped]

    def _idle(self) -> bool:
        """Nothing is on its way out, and so nothing will give memory back by itself."""
        return not (self.buffer.records or self.outflow.flights or self._burying)

    def finished(self) -> bool:
        """Nothing that was released is still on its way."""
        return self._idle() and not self.recovery.batches

    def occupied(self) -> int:
        """Bytes that records take up now or soon will, each with its request's body, and what the
        sink holds besides."""
        return (
            self.held()
            + self.buffer.occupied()
            + self.recovery.occupied()
            + self.outflow.occupied()
            + sum(self._burying.values())
        )

    def _quota(self) -> int:
        """How many records the next fetch may bring without breaking the budget by much."""
        free = self.memory - self.occupied()
        if free <= 0 and self._idle():
            return MAX_FETCH
        # What is fetched at once is cut at once: where the size of windows changes, not too much.
        most = min(MAX_FETCH, self.gate.slots * self.gate.size)
        return int(max(1, min(most, free // self._mean)))

    def _take(self, fetched: Fetched) -> None:
        """One run of records goes from the stream into the books and into the window."""
        tp, epoch, records = fetched.tp, fetched.epoch, fetched.records
        if self.tasks.stopping or not self.member:
            return  # not in the books, so not committed, and fetched again by whoever comes next
        if tp in self.recovery:
            records = self.recovery.undone(tp, records)
        ranges = ranges_of(records) if records else ()
        if not self.ledger.take(tp, epoch, ranges, fetched.end):
            log.info("stale_records_dropped", partition=str(tp), records=len(records))
            return
        self.committer.took()
        if self.jobs is not None:
            records = self.jobs.others(tp, records, fetched.end)
        recovering = tp in self.recovery
        for stretch, hole in self._stretches(tp, records, fetched.end):
            run = self._checked(tp, epoch, stretch) if stretch else None
            if run is not None and recovering:
                self.recovery.add(run)
            elif run is not None and not self.timetable.open:
                self.recovery.hold(run)  # what was wanted are the records of a job before it
            elif run is not None:
                self.buffer.add(run, self.clock())
            if hole:
                self.recovery.hole(tp)
                self.buffer.close_of(tp)
        if recovering:
            self._recover(tp, fetched.end)
        self._bells.moved()

    def _stretches(
        self, tp: TopicPartition, records: Sequence[Record], end: int
    ) -> Iterator[tuple[Sequence[Record], bool]]:
        """The records, and whether something of a former run's comes behind them, which a batch
        must not reach across: batches of one partition stand in the plan one after the other."""
        ahead = self._ahead.get(tp)
        while ahead and ahead[0] < end:
            at = bisect_left(records, ahead.popleft(), key=lambda record: record.offset)
            yield records[:at], True
            records = records[at:]
        yield records, False

    def _checked(self, tp: TopicPartition, epoch: int, records: Sequence[Record]) -> Run | None:
        """What of these records may be sent; the others go their own ways."""
        self.metrics.consumed(tp.topic, len(records))
        checked = self.intake.check(records)
        if checked.skipped:
            self.metrics.skipped(tp.topic, "tombstone", len(checked.skipped) - checked.filtered)
            self.metrics.skipped(tp.topic, "filtered", checked.filtered)
            self.committer.settle([Span(tp, epoch, ranges_of(checked.skipped))])
        if checked.invalid:
            self._burying[id(checked.invalid)] = _footprint(checked.invalid)
            self.tasks.start(partial(self._bury_invalid, tp, epoch, checked.invalid))
        if not checked.accepted:
            return None
        run = Run(tp, epoch, checked.accepted)
        mean = (run.footprint + run.size) // len(run.records)
        self._mean = max(mean, self._mean // 2, 1)
        return run

    def _recover(self, tp: TopicPartition, position: int) -> None:
        """A partition whose plan has not been worked off yet was read up to here."""
        for planned in self.recovery.reached(tp, position, self.clock()):
            self.committer.recovered(planned)
            if planned.batch is not None:
                self.buffer.planned.append(planned.batch)
                if self.jobs is not None:
                    self.jobs.formed_again(planned.batch)
        if self.timetable.open:
            self._admit()

    def _admit(self) -> None:
        """What was read beyond a plan is in no hurry, and may have to wait for its hours."""
        for rest in self.recovery.freed():
            self.buffer.add(rest.run, self.clock())
            if rest.hole:
                self.buffer.close_of(rest.run.tp)
            self._bells.work.ring()

    def _make_room(self) -> None:
        """Memory is full of open windows and nothing is on its way out: close the largest."""
        stuck = (
            self.occupied() >= self.memory and not self.buffer.closed and not self.outflow.flights
        )
        if stuck and self.buffer.close_largest():
            self._bells.work.ring()

    async def _bury_invalid(
        self, tp: TopicPartition, epoch: int, invalid: Sequence[tuple[Record, str]]
    ) -> None:
        records = [record for record, _ in invalid]
        try:
            letters = [DeadLetter(record, "invalid", error) for record, error in invalid]
            while not await self.burial.bury(letters):
                pass
            self.committer.settle([Span(tp, epoch, ranges_of(records))])
        finally:
            del self._burying[id(invalid)]
            self._bells.left.ring()
            self._bells.moved()

    # --- membership ---------------------------------------------------------------------------

    def assigned(self, partitions: Mapping[TopicPartition, Assignment]) -> None:
        works, done = self.committer.assigned(partitions)
        if self.jobs is None and (at_work := [work for work in works if work.jobs]):
            raise _orphaned(at_work)
        firsts = {tp: [first for first, _ in ranges] for tp, ranges in done.items()}
        for work in works if self.jobs is not None else ():
            for tp, (first, _) in work.spans.items():
                firsts.setdefault(tp, []).append(first)
        self._ahead = {tp: deque(sorted(found)) for tp, found in firsts.items()}
        self.recovery.start(works if self.jobs is None else self.jobs.assigned(works), done)
        self.member = True
        if ours := len(partitions):
            self.outflow.share(ours / max(ours, self.source.partitions))
        self.outflow.open()
        self.metrics.rebalanced()
        log.info("assigned", partitions=sorted(map(str, partitions)), planned_batches=len(works))

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Lets what is at the sink finish, within the drain's deadline; forgets the rest."""
        self.member = False
        self._begin_no_more()
        if not self.burial.halt.reason:
            await self._emptied(self.drain)
        await self.outflow.leave()
        self._drop()  # what a job has left to be submitted again meanwhile
        await self.committer.commit(self._committing)
        self.committer.revoked()
        self.watch.forget()
        if partitions:
            log.info("revoked", partitions=sorted(map(str, partitions)))

    # --- the drain ----------------------------------------------------------------------------

    async def _drain_and_commit(self) -> None:
        """The one way to stop: what is open goes out, within one deadline, and is committed.

        Some time before it nothing more is begun, else a request that has just been made would be
        cut off there, and made again by whoever comes next.
        """
        log.info("draining", in_flight=len(self.outflow.flights), seconds=self.drain)
        if self.jobs is None:
            self._close_all("drain")
        else:
            self._drop()  # a window that is cut off would make a job of its own
            self._bells.work.ring()
        for part in (BEGINNING, 1 - BEGINNING):
            if not self.burial.halt.reason:
                await self._emptied(self.drain * part)
            self._begin_no_more()
        await self.outflow.leave()
        outcome = await self.committer.commit(self._committing)
        log.info("drained", commit=outcome, left_for_next_time=self.ledger.owed())

    def _begin_no_more(self) -> None:
        """What has not been sent yet will not be. Nor will be what a batch at the sink leaves to be
        sent once more."""
        self.outflow.close()
        self._drop()

    def _drop(self) -> None:
        """Forgets what has not been sent. It will be read again, under no plan of ours; but what
        was found in a plan may have been sent by whoever made it, and stays there."""
        self.committer.withdraw(self.buffer.waiting)
        self.buffer.drop()
        self.recovery.drop()

    async def _emptied(self, timeout: float) -> None:
        with anyio.move_on_after(timeout):
            while self.outflow.leaving() or self._burying:
                await self._bells.left.heard()

    # --- other settings -----------------------------------------------------------------------

    def adopt_retry(self, retry: RetrySettings) -> None:
        self.delivery.attempts.settings = retry
        if self.jobs is not None:
            self.committer.plan.jobs = retry.max_item_attempts

    def resume(self) -> None:
        """Goes on after a halt, or with other settings."""
        self.burial.halt.lift()
        self._bells.work.ring()


def _orphaned(works: Sequence[Work]) -> SourceError:
    """What to say to somebody who has put another sink in the place of one of jobs."""
    named = [f"{work.jobs[-1]} (of {', '.join(map(str, sorted(work.spans)))})" for work in works]
    more = f", and {len(named) - 5} more" if len(named) > 5 else ""
    return SourceError(
        f"the checkpoint tells of jobs, and [sink] makes none: {', '.join(named[:5])}{more}",
        "Put the former [sink] and [results] back until `sluiced jobs list` shows none; `sluiced "
        "jobs cancel` makes that soon. To give the jobs up and send their records anew, stop the "
        "whole group and reset its offsets to where they are, which drops what is noted with them: "
        "kafka-consumer-groups --reset-offsets --to-current --execute.",
    )


def _footprint(invalid: Sequence[tuple[Record, str]]) -> int:
    records = [record for record, _ in invalid]
    return footprint_of(records, size_of(records))

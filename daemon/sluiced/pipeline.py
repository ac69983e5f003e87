"""The line: fetches, closes windows, releases batches, drains."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence

import anyio
import structlog
from anyio.abc import TaskGroup

from .attempts import Flight, RetrySettings
from .batch import Batch, ClosedBy, Run, Span
from .bell import Bell
from .buffer import Buffer
from .burial import Burial
from .committer import Committer
from .delivery import Delivery
from .errors import SluicedError, SourceError
from .freshness import Pace
from .gate import Gate, LimitSettings
from .identity import Identify
from .intake import Intake
from .jobs import Job, Jobs
from .metrics import Metrics
from .plan import Work
from .ports import Assignment, Checkpoint, DeadLetter, Fetched, Source
from .record import Record, TopicPartition, footprint_of, ranges_of, size_of
from .recovery import Recovery
from .schedule import Timetable
from .stall import Stall
from .units import Duration, Settings
from .window import Cap, Windows

log = structlog.get_logger("sluiced.pipeline")

POLL = 0.2  # seconds that one fetch may wait for records
MAX_FETCH = 2000  # records at most in one fetch: about 3 ms in which nothing else runs
OBSERVE_EVERY = 5.0  # seconds between looks at the ends of the log
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

        self._work = Bell()  # a batch may be released, or a window has got an age
        self._left = Bell()  # something has left the line
        self.committer = Committer(
            checkpoint,
            metrics,
            burial.halt,
            plans=plans,
            clock=clock,
            committed=self._something_moved,
        )
        self.jobs = delivery if isinstance(delivery, Jobs) else None
        if self.jobs is not None:
            self.jobs.join(
                self.committer,
                start=self._start_job,
                queue=self._queue_again,
                changed=self._something_left,
            )
        self.ledger = self.committer.ledger
        self.freshness = self.committer.freshness
        self.recovery = Recovery(name, identify)
        self.timetable = Timetable()
        self.flights: dict[str, Flight] = {}
        self.member = False  # between an assignment and its revocation
        self.draining = False
        self.closing = False  # nothing is begun any more, until the next assignment
        self.last_turn = clock()
        self.ends: Mapping[TopicPartition, int] = {}
        self.starts: Mapping[TopicPartition, int] = {}
        self.pace = Pace()
        self.fatal: Exception | None = None

        self._tasks: TaskGroup
        self._unstarted: list[Job] | None = []  # until there are tasks
        self._burying: dict[int, int] = {}  # what invalid records on their way out occupy
        self._mean = 16_384  # bytes that a record is taken to occupy, until we know better
        self._end = anyio.Event()
        self._told = anyio.Event()  # the `stop` of run()
        self._stall = Stall()
        self._ahead: dict[TopicPartition, deque[int]] = {}  # where a former run's begins

    # --- life ---------------------------------------------------------------------------------

    async def run(self, stop: anyio.Event) -> None:
        """Runs until `stop` is set or something fatal happens, then drains and returns.

        Raises the fatal error, after the drain.
        """
        self._told = stop
        async with anyio.create_task_group() as self._tasks:
            for loop in (self._fetch, self._release, self.committer.run, self._observe):
                self._tasks.start_soon(self._guard, loop)
            unstarted, self._unstarted = self._unstarted or (), None
            for job in unstarted:
                self._start_job(job)
            self._tasks.start_soon(self._pass_on, stop)
            await self._end.wait()
            await self._drain_and_commit()
            self._tasks.cancel_scope.cancel()
        if self.fatal is not None:
            raise self.fatal

    @property
    def stopping(self) -> bool:
        """From the very moment of the signal, before any task has taken notice."""
        return self.draining or self._told.is_set() or self._end.is_set()

    async def _pass_on(self, stop: anyio.Event) -> None:
        await stop.wait()
        self._end.set()

    async def _guard(self, loop: Callable[[], Awaitable[None]]) -> None:
        """A loop that dies takes the daemon with it, but by way of the drain."""
        try:
            await loop()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self.fatal is None:
            self.fatal = error
            bug = not isinstance(error, SluicedError)
            log.error("fatal", error=str(error), exc_info=error if bug else None)
        self._end.set()

    # --- records come in ----------------------------------------------------------------------

    async def _fetch(self) -> None:
        while not self.stopping:
            self.last_turn = self.clock()
            self._keep_hours()
            ready = self.ready()
            if not ready:
                await self._left.heard(POLL)
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
        self._work.ring()

    def ready(self) -> Collection[TopicPartition]:
        """The partitions that may be fetched: back-pressure is that there are fewer."""
        if self.stopping or not self.member or self.burial.halt.reason:
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
        return not (self.buffer.records or self.flights or self._burying)

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
            + sum(f.batch.footprint + f.batch.size for f in self.flights.values())
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
        if self.stopping or not self.member:
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
        self._something_moved()

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
            self._tasks.start_soon(self._bury_invalid, tp, epoch, checked.invalid)
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
            self._work.ring()

    def _make_room(self) -> None:
        """Memory is full of open windows and nothing is on its way out: close the largest."""
        stuck = self.occupied() >= self.memory and not self.buffer.closed and not self.flights
        if stuck and self.buffer.close_largest():
            self._work.ring()

    async def _bury_invalid(
        self, tp: TopicPartition, epoch: int, invalid: Sequence[tuple[Record, str]]
    ) -> None:
        records = [record for record, _ in invalid]
        try:
            letters = [DeadLetter(record, "invalid", error) for record, error in invalid]
            while not await self.burial.bury(letters):
                pass
            self.committer.settle([Span(tp, epoch, ranges_of(records))])
        except Exception as error:
            self._fail(error)
        finally:
            del self._burying[id(invalid)]
            self._left.ring()
            self._something_moved()

    # --- batches go out -----------------------------------------------------------------------

    async def _release(self) -> None:
        while True:
            self.committer.propose(self.buffer.closed)
            held = self.burial.halt.reason or self.closing
            free = 0 if held else max(0, self.gate.slots - self.gate.taken)
            if self.jobs is not None:
                free = max(0, min(free, self.jobs.room - len(self.flights)))
            if free and self.buffer.ripen(self.clock(), free):
                continue
            if free and (batch := self.buffer.next(self.committer.may_send)):
                self._launch(batch)
                continue
            due = self.buffer.due_at(free)
            await self._work.heard(None if due is None else max(0.0, due - self.clock()))

    def _launch(self, batch: Batch) -> None:
        now = self.clock()
        flight = Flight(batch, now, self.gate.enter(now), touched=now)
        self.flights[batch.id] = flight
        self._tasks.start_soon(self._deliver, flight)
        self._left.ring()

    async def _deliver(self, flight: Flight) -> None:
        batch, landing = flight.batch, None
        try:
            with flight.scope:
                await self.delivery.deliver(flight)
                if self.jobs is not None:
                    return  # it is settled when its job is
                landing = flight.landed(self.clock())
                self.committer.settle_batch(batch)
                for topic, count in Counter(r.topic for r in batch.skipped).items():
                    self.metrics.skipped(topic, "collapsed", count)
        except Exception as error:
            self._fail(error)
        finally:
            del self.flights[batch.id]
            self.gate.leave(self.clock(), landing)
            self._cap_windows()
            self._work.ring()
            self._left.ring()

    # --- jobs ---------------------------------------------------------------------------------

    def _start_job(self, job: Job) -> None:
        if self._unstarted is not None:
            self._unstarted.append(job)
        else:
            self._tasks.start_soon(self._follow, job)

    async def _follow(self, job: Job) -> None:
        try:
            if self.jobs is not None:
                await self.jobs.live(job)
        except Exception as error:
            self._fail(error)

    def _queue_again(self, batch: Batch) -> None:
        """What is to be submitted again goes before all that is new; also into the plan, where it
        is not there yet."""
        if self.committer.plan.knows(batch.id):
            self.buffer.planned.append(batch)
        else:
            self.committer.withdraw(self.buffer.waiting)
            self.buffer.waiting.appendleft(batch)
        self._work.ring()

    def _something_left(self) -> None:
        self._work.ring()
        self._left.ring()

    def _something_moved(self) -> None:
        """A batch may be released, and a job go on."""
        self._work.ring()
        if self.jobs is not None:
            self.jobs.moved()

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
        if partitions:
            self._take_share(len(partitions))
        self.member, self.closing = True, False
        self.metrics.rebalanced()
        log.info("assigned", partitions=sorted(map(str, partitions)), planned_batches=len(works))

    def _take_share(self, assigned: int) -> None:
        """Of what the limits are for the whole group: what our partitions are of all of them."""
        self.gate.share(assigned / max(assigned, self.source.partitions), self.clock())
        self._cap_windows()

    def _cap_windows(self) -> None:
        """A full window must fit into our part of a budget, since it goes out as one, and should be
        of the size that serves best."""
        budgets = self.gate.budgets
        records = min(self.gate.size, budgets.least("records"))
        self.buffer.windows.cap(Cap(records, budgets.least("bytes")))

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Lets what is at the sink finish, within the drain's deadline; forgets the rest."""
        self.member = False
        self._begin_no_more()
        if not self.burial.halt.reason:
            await self._emptied(self.drain)
        await self._cancel_flights()
        await self._leave_jobs()
        self._drop()  # what a job has left to be submitted again meanwhile
        await self.committer.commit(self._committing)
        self.committer.revoked()
        self.ends = self.starts = {}
        self._stall = Stall()
        self.pace.forget()
        if partitions:
            log.info("revoked", partitions=sorted(map(str, partitions)))

    # --- the drain ----------------------------------------------------------------------------

    async def _drain_and_commit(self) -> None:
        """The one way to stop: what is open goes out, within one deadline, and is committed.

        Some time before it nothing more is begun, else a request that has just been made would be
        cut off there, and made again by whoever comes next.
        """
        self.draining = True
        log.info("draining", in_flight=len(self.flights), seconds=self.drain)
        if self.jobs is None:
            self._close_all("drain")
        else:
            self._drop()  # a window that is cut off would make a job of its own
            self._work.ring()
        for part in (BEGINNING, 1 - BEGINNING):
            if not self.burial.halt.reason:
                await self._emptied(self.drain * part)
            self._begin_no_more()
        await self._cancel_flights()
        await self._leave_jobs()
        outcome = await self.committer.commit(self._committing)
        log.info("drained", commit=outcome, left_for_next_time=self.ledger.owed())

    def _begin_no_more(self) -> None:
        """What has not been sent yet will not be: a limit may hold it for longer than we have. Nor
        will be what a batch at the sink leaves to be sent once more."""
        self.closing = True
        self._drop()
        self._abandon([f for f in self.flights.values() if f.held and not f.attempts])

    def _drop(self) -> None:
        """Forgets what has not been sent. It will be read again, under no plan of ours; but what
        was found in a plan may have been sent by whoever made it, and stays there."""
        self.committer.withdraw(self.buffer.waiting)
        self.buffer.drop()
        self.recovery.drop()

    async def _emptied(self, timeout: float) -> None:
        """Waits in vain for nothing: what a limit holds for longer than that is left at once."""
        end = self.clock() + timeout
        with anyio.move_on_after(timeout):
            while (self._leaving() or self.flights or self._burying) and not self._held_beyond(end):
                await self._left.heard(POLL)

    def _held_beyond(self, end: float) -> bool:
        """Whether nothing is under way, and a limit lets nothing through until then."""
        taking_in = self.jobs is not None and self.jobs.taking_in
        under_way = taking_in or self._burying or not all(f.held for f in self.flights.values())
        return not under_way and self.clock() + self.gate.holding(self.clock()).seconds > end

    def _leaving(self) -> bool:
        """Whether a batch is still to be begun, or a job is about to be done."""
        taking_in = self.jobs is not None and self.jobs.taking_in
        return taking_in or (bool(self.buffer.closed) and not self.closing)

    async def _cancel_flights(self) -> None:
        self._abandon(self.flights.values())
        while self.flights:
            await self._left.heard()

    async def _leave_jobs(self) -> None:
        """They are in the metadata, and go on without us."""
        if self.jobs is not None:
            self.jobs.leave()
            while self.jobs.living:
                await self._left.heard()

    def _abandon(self, flights: Iterable[Flight]) -> None:
        """They stay in the plan, also those that were never sent: something after them may be done
        already, and a plan without them would have a hole before it."""
        for flight in flights:
            if not flight.scope.cancel_called:
                log.warning("batch_abandoned", batch=flight.batch.id, records=len(flight.batch))
                flight.scope.cancel()

    def adopt(self, limits: LimitSettings, most_records: int | None) -> None:
        self.gate.adopt(limits, self.clock(), most_records)
        self._cap_windows()

    def adopt_retry(self, retry: RetrySettings) -> None:
        self.delivery.attempts.settings = retry
        if self.jobs is not None:
            self.committer.plan.jobs = retry.max_item_attempts

    def resume(self) -> None:
        """Goes on after a halt, or with other settings."""
        self.burial.halt.lift()
        self._work.ring()

    # --- watching -----------------------------------------------------------------------------

    async def _observe(self) -> None:
        """Looks at the ends of the log: for the lag, and for a fetcher that died in silence."""
        while True:
            await anyio.sleep(OBSERVE_EVERY)
            self.ends = await self.source.ends(OBSERVE_EVERY)
            self.starts = await self.source.starts(OBSERVE_EVERY)
            ready = set(self.ready())
            checkpoints = self.ledger.last_committed()
            here = {tp: end for tp, end in self.ends.items() if tp in checkpoints}
            self.pace.look(self.clock(), here, checkpoints)
            for tp in here:
                behind = tp in ready and self.ledger.position(tp) < self.ends[tp]
                self._stall.check(tp, self.ledger.position(tp), behind, self.clock())


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

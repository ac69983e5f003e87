"""The line: fetches, closes windows, releases batches, commits what is done, drains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import anyio
import structlog
from anyio.abc import TaskGroup

from .batch import Batch, Run, Span
from .bell import Bell
from .buffer import Buffer
from .burial import Burial
from .delivery import Delivery, Flight
from .errors import SluicedError, SourceError
from .freshness import Freshness
from .gate import Gate
from .intake import Intake
from .ledger import Ledger
from .metrics import Metrics
from .ports import Assignment, Checkpoint, CommitOutcome, DeadLetter, Fetched, Mark, Source
from .record import Record, TopicPartition, footprint_of, ranges_of, size_of
from .units import Duration, Settings
from .window import Windows

log = structlog.get_logger("sluiced.pipeline")

POLL = 0.2  # seconds that one fetch may wait for records
MAX_FETCH = 2000  # records at most in one fetch: about 3 ms in which nothing else runs
COMMIT_TIMEOUT = 10.0  # seconds; a commit that takes longer is unknown, and made again
COMMIT_RETRY = 1.0  # seconds before a commit that failed is made again
OBSERVE_EVERY = 5.0  # seconds between looks at the ends of the log
STALL = 300.0  # seconds without a record, although the log has some, before we say so and die


class ShutdownSettings(Settings, frozen=True):
    """[shutdown]"""

    drain: Duration = Duration(30)

    def __post_init__(self) -> None:
        if self.drain <= 0:
            raise ValueError("drain must be more than 0s")


class Pipeline:
    """Owns the tasks and the way of a record through them. Implements ports.Member.

    `memory` is the budget in bytes for records buffered and in flight. `clock` gives seconds that
    only go forward.
    """

    def __init__(
        self,
        name: str,
        *,
        source: Source,
        checkpoint: Checkpoint,
        intake: Intake,
        windows: Windows,
        gate: Gate,
        delivery: Delivery,
        burial: Burial,
        metrics: Metrics,
        memory: int,
        drain: float,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.source = source
        self.checkpoint = checkpoint
        self.intake = intake
        self.buffer = Buffer(windows)
        self.gate = gate
        self.delivery = delivery
        self.burial = burial
        self.metrics = metrics
        self.memory = memory
        self.drain = drain
        self.clock = clock

        self.ledger = Ledger()
        self.freshness = Freshness()
        self.flights: dict[str, Flight] = {}
        self.member = False  # between an assignment and its revocation
        self.draining = False
        self.last_turn = clock()
        self.ends: Mapping[TopicPartition, int] = {}
        self.fatal: Exception | None = None

        self._tasks: TaskGroup
        self._burying: dict[int, int] = {}  # what invalid records on their way out occupy
        self._mean = 16_384  # bytes that a record is taken to occupy, until we know better
        self._committing = anyio.Lock()
        self._work = Bell()  # a batch may be released, or a window has got an age
        self._left = Bell()  # something has left the line
        self._done = Bell()  # there may be something to commit
        self._end = anyio.Event()
        self._told = anyio.Event()  # the `stop` of run()
        self._moved: dict[TopicPartition, tuple[int, float]] = {}

    # --- life ---------------------------------------------------------------------------------

    async def run(self, stop: anyio.Event) -> None:
        """Runs until `stop` is set or something fatal happens, then drains and returns.

        Raises the fatal error, after the drain.
        """
        self._told = stop
        async with anyio.create_task_group() as self._tasks:
            for loop in (self._fetch, self._release, self._commit, self._observe):
                self._tasks.start_soon(self._guard, loop)
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
            ready = self.ready()
            if not ready:
                await self._left.heard(POLL)
            for fetched in await self.source.fetch(ready, self._quota(), POLL):
                self._take(fetched)
            self._make_room()

    def ready(self) -> Collection[TopicPartition]:
        """The partitions that may be fetched: back-pressure is that there are fewer."""
        tps = self.ledger.last_committed().keys()
        if self.stopping or not self.member or self.burial.halt.reason:
            return ()
        if self.occupied() >= self.memory:
            return ()
        return self.buffer.wanting(tps, self.gate.slots)

    def occupied(self) -> int:
        """Bytes that records take up now or soon will: each counts for its request's body too."""
        return (
            self.buffer.occupied()
            + sum(f.batch.footprint + f.batch.size for f in self.flights.values())
            + sum(self._burying.values())
        )

    def _quota(self) -> int:
        """How many records the next fetch may bring without breaking the budget by much."""
        free = self.memory - self.occupied()
        return max(1, min(MAX_FETCH, free // self._mean))

    def _take(self, fetched: Fetched) -> None:
        """One run of records goes from the stream into the books and into the window."""
        tp, epoch, records = fetched.tp, fetched.epoch, fetched.records
        if self.stopping or not self.member:
            return  # not in the books, so not committed, and fetched again by whoever comes next
        ranges = ranges_of(records) if records else ()
        if not self.ledger.take(tp, epoch, ranges, fetched.end):
            log.info("stale_records_dropped", partition=str(tp), records=len(records))
            return
        self._done.ring()
        if not records:
            return
        self.metrics.consumed(tp.topic, len(records))
        checked = self.intake.check(records)
        if checked.skipped:
            self.metrics.skipped(tp.topic, "tombstone", len(checked.skipped))
            self.ledger.settle([Span(tp, epoch, ranges_of(checked.skipped))])
        if checked.invalid:
            self._burying[id(checked.invalid)] = _footprint(checked.invalid)
            self._tasks.start_soon(self._bury_invalid, tp, epoch, checked.invalid)
        if checked.accepted:
            run = Run(tp, epoch, checked.accepted)
            mean = (run.footprint + run.size) // len(run.records)
            self._mean = max(mean, self._mean // 2, 1)
            self.buffer.add(run, self.clock())
            self._work.ring()

    def _make_room(self) -> None:
        """Memory is full of open windows and nothing is on its way out: close the largest."""
        stuck = self.occupied() >= self.memory and not self.buffer.waiting and not self.flights
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
            self._settle([Span(tp, epoch, ranges_of(records))])
        except Exception as error:
            self._fail(error)
        finally:
            del self._burying[id(invalid)]
            self._left.ring()

    # --- batches go out -----------------------------------------------------------------------

    async def _release(self) -> None:
        while True:
            if not self.gate.free or self.burial.halt.reason:
                await self._work.heard()
            elif batch := self.buffer.next(self.clock()):
                self._launch(batch)
            else:
                due = self.buffer.windows.due_at()
                await self._work.heard(None if due is None else max(0.0, due - self.clock()))

    def _launch(self, batch: Batch) -> None:
        self.gate.enter()
        flight = Flight(batch, self.clock(), touched=self.clock())
        self.flights[batch.id] = flight
        self._tasks.start_soon(self._deliver, flight)
        self._left.ring()

    async def _deliver(self, flight: Flight) -> None:
        batch = flight.batch
        try:
            with flight.scope:
                await self.delivery.deliver(flight)
                self._settle(batch.covers)
                for tp, record in batch.newest():
                    self.freshness.settled(tp, record.offset, record.timestamp)
                for topic, count in Counter(r.topic for r in batch.skipped).items():
                    self.metrics.skipped(topic, "collapsed", count)
        except Exception as error:
            self._fail(error)
        finally:
            del self.flights[batch.id]
            self.gate.leave()
            self._work.ring()
            self._left.ring()

    def _settle(self, spans: Sequence[Span]) -> None:
        for _ in range(self.ledger.settle(spans)):
            self.metrics.stale_outcome()
        self._done.ring()

    # --- checkpoints --------------------------------------------------------------------------

    async def _commit(self) -> None:
        while True:
            await self.burial.halt.passed()
            if not self.ledger.checkpoints():
                await self._done.heard()
            elif await self.commit(COMMIT_TIMEOUT) != "ok":
                await anyio.sleep(COMMIT_RETRY)

    async def commit(self, timeout: float) -> CommitOutcome:
        """Commits the newest state, if it is news. At most one commit is under way at a time."""
        deadline = self.clock() + timeout
        with anyio.move_on_after(timeout) as turn:
            await self._committing.acquire()
        if turn.cancelled_caught:
            return "unknown"
        try:
            return await self._commit_newest(deadline - self.clock())
        finally:
            self._committing.release()

    async def _commit_newest(self, timeout: float) -> CommitOutcome:
        due = self.ledger.checkpoints()
        if not due or self.burial.halt.reason:
            return "ok"
        marks = {tp: Mark(epoch, offset) for tp, (epoch, offset) in due.items()}
        outcome = await self.checkpoint.commit(marks, timeout)
        self.metrics.committed(outcome)
        if outcome != "ok":
            log.warning("commit_not_acknowledged", outcome=outcome)
            return outcome
        for tp, mark in marks.items():
            self.ledger.committed(tp, mark.epoch, mark.offset)
            self.freshness.advance(tp, mark.offset)
        return outcome

    # --- membership ---------------------------------------------------------------------------

    def assigned(self, partitions: Mapping[TopicPartition, Assignment]) -> None:
        for tp, assignment in partitions.items():
            self.ledger.assign(tp, assignment.epoch, assignment.position)
        self.member = True
        self.metrics.rebalanced()
        log.info("assigned", partitions=sorted(map(str, partitions)))

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Lets what is at the sink finish, within the drain's deadline; forgets the rest."""
        self.member = False
        self.buffer.drop()
        if not self.burial.halt.reason:
            await self._emptied(self.drain * 0.8)
        await self._cancel_flights()
        await self.commit(self.drain * 0.2)
        tps = list(self.ledger.last_committed())
        self.ledger.revoke(tps)
        self.freshness.forget(tps)
        self.ends = {}
        self._moved.clear()
        if partitions:
            log.info("revoked", partitions=sorted(map(str, partitions)))

    # --- the drain ----------------------------------------------------------------------------

    async def _drain_and_commit(self) -> None:
        """The one way to stop: what is open goes out, within one deadline, and is committed."""
        self.draining = True
        log.info("draining", in_flight=len(self.flights), seconds=self.drain)
        self.buffer.close_all("drain")
        self._work.ring()
        if not self.burial.halt.reason:
            await self._emptied(self.drain * 0.8)
        self.buffer.drop()
        await self._cancel_flights()
        outcome = await self.commit(self.drain * 0.2)
        log.info("drained", commit=outcome, left_for_next_time=self.ledger.owed())

    async def _emptied(self, timeout: float) -> None:
        with anyio.move_on_after(timeout):
            while self.buffer.waiting or self.flights or self._burying:
                await self._left.heard()

    async def _cancel_flights(self) -> None:
        for flight in list(self.flights.values()):
            log.warning("batch_abandoned", batch=flight.batch.id, records=len(flight.batch))
            flight.scope.cancel()
        while self.flights:
            await self._left.heard()

    def resume(self) -> None:
        """Goes on after a halt."""
        self.burial.halt.lift()
        self._work.ring()

    # --- watching -----------------------------------------------------------------------------

    async def _observe(self) -> None:
        """Looks at the ends of the log: for the lag, and for a fetcher that died in silence."""
        while True:
            await anyio.sleep(OBSERVE_EVERY)
            self.ends = await self.source.ends(OBSERVE_EVERY)
            ready = set(self.ready())
            for tp in self.ledger.last_committed().keys() & self.ends.keys():
                self._check_progress(tp, self.ends[tp], tp in ready)

    def _check_progress(self, tp: TopicPartition, end: int, ready: bool) -> None:
        now, position = self.clock(), self.ledger.position(tp)
        before, since = self._moved.get(tp, (-1, now))
        if position != before or not ready or position >= end:
            self._moved[tp] = (position, now)
        elif now - since > STALL:
            raise SourceError(
                f"{tp} has records up to {end} and none has come since {position}, "
                f"for {now - since:.0f} s",
                "The daemon ends so that it is started afresh; look at the broker's log if it "
                "happens again.",
            )


def _footprint(invalid: Sequence[tuple[Record, str]]) -> int:
    records = [record for record, _ in invalid]
    return footprint_of(records, size_of(records))

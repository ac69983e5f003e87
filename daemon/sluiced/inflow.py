"""Records come in: fetched as far as there is room, taken into the books, put into windows."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import structlog

from .batch import ClosedBy, Run, Span
from .bell import Bells
from .buffer import Buffer
from .burial import Halt
from .committer import Committer
from .gate import Gate
from .intake import Intake
from .invalid import Invalid
from .jobs import Jobs
from .memory import Memory
from .metrics import Metrics
from .outflow import Outflow
from .plan import Work
from .ports import Fetched, Source
from .record import Range, Record, TopicPartition, ranges_of
from .recovery import Recovery
from .schedule import Timetable
from .tasks import Tasks

log = structlog.get_logger("sluiced.pipeline")

POLL = 0.2  # seconds that one fetch may wait for records
MAX_FETCH = 2000  # records at most in one fetch: about 3 ms in which nothing else runs


class Inflow:
    """From the source to the buffer. Looks ahead, at what is still on its way out: nothing there
    knows of it.

    `member` is whether records are ours, which they are between an assignment and its revocation.
    """

    def __init__(
        self,
        source: Source,
        intake: Intake,
        invalid: Invalid,
        recovery: Recovery,
        buffer: Buffer,
        outflow: Outflow,
        committer: Committer,
        jobs: Jobs | None,
        gate: Gate,
        halt: Halt,
        memory: Memory,
        metrics: Metrics,
        tasks: Tasks,
        bells: Bells,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._source = source
        self._intake = intake
        self._invalid = invalid
        self._recovery = recovery
        self._buffer = buffer
        self._outflow = outflow
        self._committer = committer
        self._ledger = committer.ledger
        self._jobs = jobs
        self._gate = gate
        self._halt = halt
        self._memory = memory
        self._metrics = metrics
        self._tasks = tasks
        self._bells = bells
        self._clock = clock
        self._wall = wall
        self.member = False
        self.timetable = Timetable()
        self.last_turn = clock()  # of the fetch loop
        self._booked = 0  # bytes that new records may take up that are being fetched
        self._ahead: dict[TopicPartition, deque[int]] = {}  # where a former run's begins

    # --- what is fetched ----------------------------------------------------------------------

    async def run(self) -> None:
        """Fetches until the line stops."""
        while not self._tasks.stopping:
            self.last_turn = self._clock()
            self._keep_hours()
            ready = self.ready()
            if not ready:
                await self._bells.left.heard(POLL)
            quota, new = self._quota(), not (self._jobs and self._jobs.coming_back)
            self._booked = quota * self._memory.mean if new else 0
            fetches = await self._source.fetch(ready, quota, POLL)
            self._booked = 0
            self._cut()
            for fetched in fetches:
                self._take(fetched)
            self._make_room()

    def _keep_hours(self) -> None:
        """Between two fetches, so that what the last one brought belongs to the release: when the
        time for it is over, all that was read goes out."""
        timetable, active = self.timetable, self._buffer.windows.settings.active
        before = timetable.open
        if timetable.ended(active, self._wall()):
            self.close_all("drain")
        if timetable.open:
            self._admit()
        if timetable.open != before:
            if timetable.open:
                log.info("release_begins", active=str(active))
            else:
                log.info("release_ends", active=str(active))

    def _cut(self) -> None:
        """Before new records come in, so that no batch has some of both sides of a multiple."""
        if self.timetable.cut(self._buffer.windows.settings.align, self._wall()):
            self.close_all("align")

    def close_all(self, why: ClosedBy) -> None:
        self._buffer.close_all(why)
        self._bells.work.ring()

    def ready(self) -> Collection[TopicPartition]:
        """The partitions that may be fetched: back-pressure is that there are fewer."""
        if self._tasks.stopping or not self.member or self._halt.reason:
            return ()
        recovery = self._recovery
        if self._memory.free() > 0:
            tps = self._ledger.last_committed().keys() - recovery.recovering()
            full = self._jobs is not None and self._jobs.coming_back
            closed = full or not self.timetable.open
            new = () if closed else self._buffer.wanting(tps, self._gate.slots)
            # A batch of a plan was released already, and whoever planned it may have sent it.
            wanted = [*recovery.reading(), *new]
        else:
            # A plan must be kept even where memory is smaller now than when it was made.
            wanted = recovery.first() if self._idle() else []
        if self._jobs is not None:
            wanted = list(dict.fromkeys([*self._jobs.passing(), *wanted]))
        return [tp for tp in wanted if tp not in self._source.stopped]

    def _quota(self) -> int:
        """How many records the next fetch may bring without breaking the budget by much."""
        free = self._memory.free()
        if free <= 0 and self._idle():
            return MAX_FETCH
        # What is fetched at once is cut at once: where the size of windows changes, not too much.
        most = min(MAX_FETCH, self._gate.slots * self._gate.size)
        return int(max(1, min(most, free // self._memory.mean)))

    def _make_room(self) -> None:
        """Memory is full of open windows and nothing is on its way out: close the largest."""
        full = self._memory.free() <= 0
        stuck = full and not self._buffer.closed and not self._outflow.flights
        if stuck and self._buffer.close_largest():
            self._bells.work.ring()

    def _idle(self) -> bool:
        """Nothing is on its way out, and so nothing will give memory back by itself."""
        return not (self._buffer.records or self._outflow.flights or self._invalid.leaving)

    def room(self) -> bool:
        """Whether there is some in memory for what a job has left to be submitted again.

        Also where what is full of it waits for this very job: for its place in the plan, say.
        """
        if self._memory.free() > self._booked:
            return True
        leaving = self._outflow.flights or self._buffer.planned or self._invalid.leaving
        return not (leaving or self._booked)

    def finished(self) -> bool:
        """Nothing that was released is still on its way."""
        return self._idle() and not self._recovery.batches

    # --- what becomes of it -------------------------------------------------------------------

    def _take(self, fetched: Fetched) -> None:
        """One run of records goes from the stream into the books and into the window."""
        tp, epoch, records = fetched.tp, fetched.epoch, fetched.records
        if self._tasks.stopping or not self.member:
            return  # not in the books, so not committed, and fetched again by whoever comes next
        recovery = self._recovery
        if tp in recovery:
            records = recovery.undone(tp, records)
        ranges = ranges_of(records) if records else ()
        if not self._ledger.take(tp, epoch, ranges, fetched.end):
            log.info("stale_records_dropped", partition=str(tp), records=len(records))
            return
        self._committer.took()
        if self._jobs is not None:
            records = self._jobs.others(tp, records, fetched.end)
        recovering = tp in recovery
        for stretch, hole in self._stretches(tp, records, fetched.end):
            run = self._checked(tp, epoch, stretch) if stretch else None
            if run is not None and recovering:
                recovery.add(run)
            elif run is not None and not self.timetable.open:
                recovery.hold(run)  # what was wanted are the records of a job before it
            elif run is not None:
                self._buffer.add(run, self._clock())
            if hole:
                recovery.hole(tp)
                self._buffer.close_of(tp)
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
        self._metrics.consumed(tp.topic, len(records))
        checked = self._intake.check(records)
        if checked.skipped:
            self._metrics.skipped(tp.topic, "tombstone", len(checked.skipped) - checked.filtered)
            self._metrics.skipped(tp.topic, "filtered", checked.filtered)
            self._committer.settle([Span(tp, epoch, ranges_of(checked.skipped))])
        if checked.invalid:
            self._invalid.bury(tp, epoch, checked.invalid)
        if not checked.accepted:
            return None
        run = Run(tp, epoch, checked.accepted)
        self._memory.learn(run)
        return run

    # --- what a former run has left -----------------------------------------------------------

    def assigned(
        self, works: Sequence[Work], done: Mapping[TopicPartition, Sequence[Range]]
    ) -> None:
        """Records are ours from now on. The works are to be formed again, or are jobs; what is done
        beyond the checkpoint is passed over."""
        firsts = {tp: [first for first, _ in ranges] for tp, ranges in done.items()}
        for work in works if self._jobs is not None else ():
            for tp, (first, _) in work.spans.items():
                firsts.setdefault(tp, []).append(first)
        self._ahead = {tp: deque(sorted(found)) for tp, found in firsts.items()}
        self._recovery.start(works if self._jobs is None else self._jobs.assigned(works), done)
        self.member = True

    def revoked(self) -> None:
        """What is fetched from now on is not ours."""
        self.member = False

    def _recover(self, tp: TopicPartition, position: int) -> None:
        """A partition whose plan has not been worked off yet was read up to here."""
        for planned in self._recovery.reached(tp, position, self._clock()):
            self._committer.recovered(planned)
            if planned.batch is not None:
                self._buffer.planned.append(planned.batch)
                if self._jobs is not None:
                    self._jobs.formed_again(planned.batch)
        if self.timetable.open:
            self._admit()

    def _admit(self) -> None:
        """What was read beyond a plan is in no hurry, and may have to wait for its hours."""
        for rest in self._recovery.freed():
            self._buffer.add(rest.run, self._clock())
            if rest.hole:
                self._buffer.close_of(rest.run.tp)
            self._bells.work.ring()

"""The book of jobs: those that this member looks after, and how they come into it and leave it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import structlog

from ..attempts import Attempts
from ..batch import Batch, ClosedBy
from ..bell import Bell
from ..committer import Committer
from ..history import Landed
from ..metrics import BatchOutcome, Metrics
from ..plan import Work
from ..ports import Progress
from ..prices import Usage
from ..record import Range
from ..spending import Spending
from .harvest import Held, Where

log = structlog.get_logger("sluiced.jobs")

LOOK = 1.0  # seconds between looks at whether something has become true that no bell tells of


@dataclass(eq=False, slots=True)
class Job:
    """A batch that is a job now, or is about to be one again. `progress` is what was last seen.

    `held` is what it holds, where that is known without looking it up. `doubtful` as long as
    somebody may have submitted what is about to be submitted. `gone` is what has been buried
    although no job says so. `seen` is when the API last said how it is.
    """

    work: Work
    since: float
    closed_by: ClosedBy = "plan"
    progress: Progress | None = None
    held: Held | None = None
    doubtful: bool = False
    gone: set[Where] = field(default_factory=set)
    seen: float = 0.0
    taking_in: bool = False
    records: int = 0
    bytes: int = 0  # of answers
    buried: int = 0
    oldest: int = -1  # timestamp, in ms
    used: list[Usage] = field(default_factory=list)  # as far as its answers were read here
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class Book:
    """All jobs, with the plan in which they stand.

    `start` runs a job's life in a task, `queue` brings a batch to its submission, `changed` is rung
    when something here has moved, `room` is whether there is some in memory.
    """

    def __init__(self, attempts: Attempts, metrics: Metrics, spending: Spending) -> None:
        self.spending = spending
        self.jobs: list[Job] = []
        self.waiting: dict[str, Job] = {}  # to be submitted again, by the id of the batch
        self.living = 0  # tasks that have not ended
        self.coming_back = 0  # those of which records are, or want to be, read into memory again
        self.moved = Bell()  # the ledger, the plan or what stands in Kafka
        self.committer: Committer
        self.start: Callable[[Job], None]
        self.queue: Callable[[Batch], None]
        self.changed: Callable[[], None]
        self.room: Callable[[], bool]
        self._entrance = anyio.Lock()
        self._attempts = attempts
        self._metrics = metrics

    def begin(self, job: Job) -> None:
        """It is at work, or has results to be looked at."""
        if job not in self.jobs:
            self.jobs.append(job)
        job.scope = anyio.CancelScope()
        job.seen = self._attempts.clock()
        self.living += 1
        self.start(job)

    def again(self, job: Job, batch: Batch) -> None:
        """This batch of what is left of it is to be submitted once the plan tells of it."""
        self.committer.plan.known_as(job.work, batch)
        self.waiting[batch.id] = job
        self.queue(batch)

    async def cut(self, job: Job, batch: Batch, error: str) -> None:
        """The API refuses it and says nothing of single records: two halves take its place."""
        log.info("batch_split", batch=batch.id, records=len(batch), error=error)
        plan, halves = self.committer.plan, batch.halves()
        await self.until(lambda: plan.cut(job.work, *halves, self._attempts.clock()))
        self.committer.settle_besides(batch, job.work)
        self.end(job)
        for half in halves:
            if plan.knows(half.id) and plan.work(half.id).jobs:
                part = Job(plan.work(half.id), job.since, job.closed_by)
                self.jobs.append(part)
                self.waiting[half.id] = part
            self.queue(half)
        self.committer.changed()

    def settled(self, job: Job) -> None:
        """Every record of it is done."""
        work, records, wall = job.work, job.records, self._attempts.wall()
        whole: BatchOutcome = "rejected" if job.buried >= records else "partial"
        outcome: BatchOutcome = whole if job.buried else "delivered"
        self._metrics.batch(job.closed_by, outcome, records, job.bytes)
        delay = None if job.oldest < 0 else max(0.0, wall - job.oldest / 1000)
        self._attempts.history.batches.appendleft(
            Landed(
                work.id,
                records,
                job.bytes,
                job.closed_by,
                outcome,
                len(work.jobs),
                wall,
                self._attempts.clock() - job.since,
                delay,
                self.spending.cost(job.used),
            )
        )
        self.committer.settle_work(work)
        self.end(job)

    def end(self, job: Job) -> None:
        if job in self.jobs:
            self.jobs.remove(job)

    def forget(self) -> None:
        """Ends the tasks; the jobs are in the plan, and go on without us."""
        for job in self.jobs:
            job.scope.cancel()
        self.jobs.clear()
        self.waiting.clear()

    # --- waiting for others ---------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.moved.heard(LOOK)

    async def alone(self, batch: Batch, work: Work) -> None:
        """Returns once everything else within its range is done, so that all that is owed there is
        the job's, whoever looks."""
        own = {span.tp: _count(span.ranges) for span in batch.covers}
        owed = self.committer.ledger.owed_within
        spans = work.spans.items()
        await self.until(
            lambda: all(_count(owed(tp, *span)) <= own.get(tp, 0) for tp, span in spans)
        )

    async def passed_over(self, work: Work) -> None:
        """Returns once the fetch has been past all of its records: the ledger owes them by then."""
        position = self.committer.ledger.position
        spans = work.spans.items()
        await self.until(lambda: all(position(tp) > last for tp, (_, last) in spans))

    @asynccontextmanager
    async def room_to_come_back(self) -> AsyncIterator[None]:
        """Begins once there is room in memory, for one after the other: many jobs may end at the
        same time with much left, and each had a whole window. Nothing new comes in before them."""
        self.coming_back += 1
        try:
            async with self._entrance:
                await self.until(self.room)
                yield
        finally:
            self.coming_back -= 1

    async def durable(self, work: Work) -> None:
        """Returns once Kafka has what the plan says of it."""
        await self.until(lambda: work.durable)


def _count(ranges: Iterable[Range]) -> int:
    return sum(last - first + 1 for first, last in ranges)

"""Jobs as the pipeline sees them: what it asks of them and tells them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import structlog

from ..attempts import Attempts, Flight
from ..batch import Batch
from ..burial import Burial
from ..committer import Committer
from ..metrics import Metrics
from ..plan import Work
from ..ports import JobSink, Originals
from ..prices import Prices
from ..record import Range, Record, TopicPartition
from ..spending import Spending
from .book import Book, Job
from .harvest import Harvester
from .life import Life
from .submission import Submission

log = structlog.get_logger("sluiced.jobs")


class Jobs:
    """Delivers batches by way of jobs, and looks after these."""

    def __init__(
        self,
        pipeline: str,
        sink: JobSink,
        originals: Originals,
        harvester: Harvester,
        burial: Burial,
        attempts: Attempts,
        metrics: Metrics,
        spending: Spending | None = None,
    ) -> None:
        self.attempts, self.wall = attempts, attempts.wall
        self.health, self.history = attempts.health, attempts.history
        self._sink = sink
        self._book = book = Book(self.attempts, metrics, spending or Spending(Prices({}), metrics))
        self._submission = Submission(book, sink, burial, self.attempts, metrics)
        self._life = Life(
            pipeline, book, sink, originals, harvester, burial, self.attempts, metrics
        )
        self._passing: dict[TopicPartition, list[Range]] = {}

    def join(
        self,
        committer: Committer,
        *,
        start: Callable[[Job], None],
        queue: Callable[[Batch], None],
        changed: Callable[[], None],
        room: Callable[[], bool],
    ) -> None:
        """Becomes part of a pipeline: `start` runs `live` in a task, `queue` brings a batch to
        `deliver`, `changed` is rung when something here has moved, `room` is whether there is some
        in memory for what comes back into it."""
        book = self._book
        book.committer, book.start, book.queue, book.changed = committer, start, queue, changed
        book.room = room
        committer.plan.jobs = self.attempts.settings.max_item_attempts

    @property
    def jobs(self) -> Sequence[Job]:
        return self._book.jobs

    @property
    def room(self) -> int:
        """How many more may be at work."""
        return self._sink.most_jobs - sum(job.work.at_work is not None for job in self.jobs)

    @property
    def coming_back(self) -> bool:
        """Whether records of a job are to be read into memory again, before anything new."""
        return self._book.coming_back > 0

    @property
    def taking_in(self) -> bool:
        """Whether something is under way that a stop had better not cut off."""
        return any(job.taking_in for job in self.jobs)

    @property
    def living(self) -> int:
        """How many tasks have not ended."""
        return self._book.living

    async def deliver(self, flight: Flight) -> None:
        """Returns once the batch is a job, or is no batch any more."""
        await self._submission.deliver(flight)

    async def live(self, job: Job) -> None:
        """Returns once nothing is left of it, or what is left is in the queue."""
        await self._life.live(job)

    def moved(self) -> None:
        """The ledger, the plan or what stands in Kafka has."""
        self._book.moved.ring()

    # --- assignments ----------------------------------------------------------------------------

    def assigned(self, works: Iterable[Work]) -> list[Work]:
        """Goes on with what is a job. Returns what is none yet, and is to be formed again."""
        rest = []
        for work in works:
            if not work.jobs:
                rest.append(work)
                continue
            for tp, span in work.spans.items():
                self._passing.setdefault(tp, []).append(span)
            self._book.begin(Job(work, self.attempts.clock(), doubtful=work.written))
        return rest

    def passing(self) -> list[TopicPartition]:
        """Partitions of which there are jobs' records to be read past."""
        return list(self._passing)

    def others(
        self, tp: TopicPartition, records: Sequence[Record], position: int
    ) -> Sequence[Record]:
        """The records but for those that are part of a job; they have been read to `position`."""
        if (spans := self._passing.get(tp)) is None:
            return records
        if position > max(last for _, last in spans):
            del self._passing[tp]
        return [r for r in records if not any(a <= r.offset <= b for a, b in spans)]

    def formed_again(self, batch: Batch) -> None:
        """Somebody may have submitted this batch, under the name of the one that was planned."""
        self._submission.formed_again(batch)

    def leave(self) -> None:
        """Lets all jobs be; they go on without us. Their tasks end."""
        self._book.forget()
        self._submission.forget()
        self._passing.clear()

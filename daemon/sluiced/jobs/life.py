"""A job's life: from its submission until nothing is left of it, or it is submitted again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import anyio
import structlog

from ..attempts import Attempts
from ..batch import Batch, Run
from ..burial import Burial
from ..errors import SourceError
from ..metrics import JobRecords, Metrics
from ..outcome import Again, Fate, RetryReason, Verdict
from ..plan import Work
from ..ports import SILENCE, BrokenResultsError, JobSink, Originals, Progress, Reason
from ..record import TopicPartition
from .book import Book, Job
from .harvest import Harvest, Harvester, Held, Where, ranges_of

log = structlog.get_logger("sluiced.jobs")

SLOWEST = 10  # times `poll_every`: the longest pause between two looks at a job
STEPS = 9  # in which the pauses grow to that
REMEMBERED = 10_000  # records of a job of which it is kept in memory that it holds them


# What a person may do who has changed what jobs are found by.
TO_DO = (
    "restart with the former one until the jobs are through; once you say go on, the records are "
    "submitted again"
)


class Life:
    """Polls jobs and takes them in, one at a time. `pipeline` is the name that batches go by."""

    def __init__(
        self,
        pipeline: str,
        book: Book,
        sink: JobSink,
        originals: Originals,
        harvester: Harvester,
        burial: Burial,
        attempts: Attempts,
        metrics: Metrics,
    ) -> None:
        self._pipeline = pipeline
        self._book = book
        self._sink = sink
        self._originals = originals
        self._harvester = harvester
        self._burial = burial
        self._attempts = attempts
        self._metrics = metrics
        self._turn = anyio.Lock()  # one at a time is formed again or taken in
        self._asked: str | None = None  # for which job we have halted last, in words

    async def live(self, job: Job) -> None:
        """From the submission, or from where a former run has left it, until nothing is left of it
        or it is to be submitted again: then it goes by way of the queue."""
        try:
            with job.scope:
                if job.work.written:
                    await self._again(job, await self._held(job))
                    return
                progress = await self._over(job)
                if progress.state == "ended" or progress.named:
                    await self._taken_in(job, progress)
                else:
                    await self._came_to_nothing(job, progress)
        finally:
            job.taking_in = False
            self._book.living -= 1
            self._book.changed()

    async def _over(self, job: Job) -> Progress:
        """Polls until the API works on it no more."""
        failures = looks = 0
        while True:
            found = self._attempts.heard(await self._sink.poll(job.work.at_work or ""))
            self._attempts.told(found.feedback)
            if isinstance(found, Again):
                failures += 1
                await self._attempts.pause(found, failures)
                continue
            failures, looks = 0, looks + 1
            job.progress, job.seen = found, self._attempts.clock()
            why = self._needs_a_person(job, found)
            if why and not await self._agreed(why):
                continue
            if found.state != "working":
                return found
            pause = self._sink.poll_every * 1.3 ** min(looks - 1, STEPS)
            await self._attempts.sleep(min(pause, self._longest_pause))

    @property
    def _longest_pause(self) -> float:
        every = self._sink.poll_every
        return max(every, min(every * SLOWEST, SILENCE))

    def _needs_a_person(self, job: Job, found: Progress) -> str:
        """Why to halt for this job; nothing of it has been taken in by then."""
        which = f"{job.work.at_work} of batch {job.work.id}"
        if found.state == "missing":
            return (
                f"the API knows no job {which}, whose results are wanted: if what [sink] leads to "
                f"(its type, address or account) has changed, {TO_DO}"
            )
        if found.state == "ended" and found.cancelled and self._sink.on_cancel == "halt":
            return (
                f"somebody has cancelled job {which}; once you say go on what it has done is "
                "written, and the rest is submitted again, or dead-lettered where sink.on_cancel "
                "says so by then"
            )
        return ""

    async def _agreed(self, why: str) -> bool:
        """Halts for a job until a person says go on. False where that was said of something else,
        for which the line had halted before: of this nobody could be told."""
        halt = self._burial.halt
        other = halt.reason not in (None, self._asked)
        halt.set(why)
        self._asked = self._asked if other else halt.reason
        await halt.passed()
        return not other

    async def _taken_in(self, job: Job, progress: Progress) -> None:
        """All that its results say is done, and what they leave goes again."""
        work, handle, plan = job.work, job.work.at_work or "", self._book.committer.plan
        await self._book.durable(work)  # or a crash might make a job anew that has been written
        await self._book.passed_over(work)
        held = await self._held(job)
        harvest = Harvest(held, len(work.jobs))
        async with self._turn:
            job.taking_in = True
            await self._patiently(lambda: self._harvester.take_in(handle, harvest, work))
            if harvest.unknown and not harvest.seen:
                self._burial.halt.set(
                    f"all results of job {handle} are of requests that are not ours: if the "
                    f"pipeline's name or its topics have changed, {TO_DO}"
                )
                await self._burial.halt.passed()
            refused = await self._buried(harvest.refused, "rejected", work, harvest)
            left = _explained(harvest.left, progress) | refused
            # It costs no attempt: nothing was worked on.
            for_nothing = progress.state == "failed" and self._may_be_forgotten(work)
            if left and progress.cancelled and self._sink.on_cancel == "dead-letter":
                left = await self._buried(left, "cancelled", work, harvest)
            if left and not (for_nothing or plan.may_go_again(work)):
                left = await self._buried(left, "exhausted", work, harvest)
            self._count(job, harvest, left)
            self._metrics.job("failed" if progress.state == "failed" else "ended")
            if left:
                await self._book.durable(work)
                if for_nothing:
                    job.gone |= harvest.refused.keys() - refused.keys()
                    plan.came_to_nothing(work, self._attempts.clock())
                else:
                    plan.goes_again(work, self._attempts.clock())
                self._book.committer.changed()
            else:
                self._book.settled(job)
            job.taking_in = False
        if left:
            keys = {where: held.keys[where] for where in left if where in held.keys}
            rest = Held(keys, set(left), held.exact)
            await self._attempts.pause(
                Again("status", next(iter(left.values())).error), len(work.jobs)
            )
            await self._again(job, rest)

    @staticmethod
    def _may_be_forgotten(work: Work) -> bool:
        """Whether what is left of it can go by the name of the whole: see Submission.deliver."""
        return len(work.jobs) == 1 and not work.apart

    async def _came_to_nothing(self, job: Job, progress: Progress) -> None:
        """The API has not worked on it, and does not say which records are to blame."""
        work, plan = job.work, self._book.committer.plan
        self._metrics.job("failed")
        log.warning("job_failed", batch=work.id, job=work.at_work, error=progress.error)
        reason: RetryReason = "throttled" if progress.queue_full else "status"
        self._attempts.history.failed(reason, progress.error, self._attempts.wall())
        self._metrics.retry(reason)
        await self._book.durable(work)
        plan.came_to_nothing(work, self._attempts.clock())
        self._book.committer.changed()
        held = await self._held(job)
        if progress.queue_full or progress.state == "missing":
            await self._attempts.sleep(self._longest_pause)
            await self._again(job, held)
        elif len(held.open) > 1:
            batch = await self._batch(job, held)
            if batch is None or len(batch) == 1:
                await self._again(job, held)
                return
            plan.known_as(work, batch)
            await self._book.cut(job, batch, progress.error)
        else:
            await self._book.passed_over(work)
            verdict = Verdict(Fate.REJECTED, progress.status, progress.error)
            harvest = Harvest(held, len(work.jobs) + 1)
            if await self._buried(dict.fromkeys(held.open, verdict), "rejected", work, harvest):
                await self._again(job, held)
            else:
                self._count(job, harvest, {})
                self._book.settled(job)

    async def _again(self, job: Job, held: Held) -> None:
        """Forms what is left anew and queues it; it leaves once the plan tells of it."""
        batch = await self._batch(job, held)
        if batch is None:
            self._book.settled(job)
            return
        job.held = held if len(held.open) <= REMEMBERED else None
        self._book.again(job, batch)

    async def _batch(self, job: Job, held: Held) -> Batch | None:
        """What is open of it, read again; None if there is nothing, or not in the log any more."""
        runs: list[Run] = []

        async def read() -> None:
            runs.clear()
            async for page in self._originals.read(ranges_of(held.open)):
                tp = TopicPartition(page[0].topic, page[0].partition)
                epoch = self._book.committer.ledger.epoch(tp) or 0
                wanted = [r for r in page if (tp, r.offset) in held.open]
                if records := self._harvester.accepted(wanted):
                    runs.append(Run(tp, epoch, records))

        await self._book.passed_over(job.work)
        async with self._book.room_to_come_back(), self._turn:
            await self._patiently(read)
        if not held.open:
            return None  # of a job that was taken apart, the other parts have something left
        if not runs:
            log.error(
                "originals_lost",
                reason="the topic no longer holds them",
                batch=job.work.id,
                records=len(held.open),
                hint="They were to go again, and are lost. A longer retention of the topic "
                "prevents this.",
            )
            return None
        return Batch.of(self._pipeline, runs, job.closed_by, job.since)

    async def _held(self, job: Job) -> Held:
        if job.held is None:
            async with self._turn:

                async def look() -> None:
                    job.held = await self._harvester.held(job.work)

                await self._patiently(look)
        held, job.held = job.held, None
        assert held is not None
        held.open -= job.gone
        job.records = max(job.records, len(held.keys))
        job.oldest = min((t for _, t in held.keys.values() if t >= 0), default=job.oldest)
        return held

    async def _buried(
        self, refused: Mapping[Where, Verdict], reason: Reason, work: Work, harvest: Harvest
    ) -> dict[Where, Verdict]:
        """Returns what is to be tried once more."""
        again: dict[Where, Verdict] = {}

        async def bury() -> None:
            again.update(await self._harvester.bury(refused, reason, work, harvest))

        await self._patiently(bury)
        return again

    async def _patiently(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Until it succeeds."""
        failures = 0
        while True:
            await self._burial.halt.passed()
            try:
                return await attempt()
            except (BrokenResultsError, SourceError) as error:
                failures += 1
                self._attempts.history.failed("connection", str(error), self._attempts.wall())
                await self._attempts.pause(Again("connection", str(error)), failures)

    def _count(self, job: Job, harvest: Harvest, left: Mapping[Where, Verdict]) -> None:
        missing = sum(verdict.status == "missing" for verdict in left.values())
        job.bytes += harvest.bytes
        job.buried += harvest.buried
        job.used += harvest.used
        counts: dict[JobRecords, int] = {
            "done": harvest.delivered,
            "refused": harvest.buried,
            "again": len(left) - missing,
            "missing": missing,
            "doubled": harvest.doubled,
            "unknown": harvest.unknown,
        }
        self._metrics.job_results(counts)
        spent = self._book.spending.used(harvest.used)
        log.info("job_taken_in", batch=job.work.id, job=job.work.jobs[-1:], **counts, **spent)


def _explained(left: Mapping[Where, Verdict], progress: Progress) -> dict[Where, Verdict]:
    """What a job says nothing of is missing, but not where it was ended before its time."""
    if progress.state == "failed":
        instead = Verdict(Fate.RETRY, "failed", "its job failed for other records")
    elif progress.cancelled:
        instead = Verdict(Fate.RETRY, "cancelled", "its job was cancelled")
    else:
        return dict(left)
    return {where: instead if v.status == "missing" else v for where, v in left.items()}

"""Makes jobs of batches: each is submitted once, however often the daemon dies over it."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import structlog

from ..attempts import Attempts, Flight
from ..batch import Batch
from ..budgets import Cost
from ..burial import Burial
from ..errors import SourceError
from ..metadata import JOB_ID
from ..metrics import Metrics
from ..outcome import Again, Fate, Refused, TooLarge, Verdict
from ..plan import Work
from ..ports import DeadLetter, JobSink, Reason, Submitted, Undecided
from ..prices import Usage
from ..record import TopicPartition
from .book import Book, Job

log = structlog.get_logger("sluiced.jobs")


def name_of(work_id: str, attempt: int, part: TopicPartition | None = None) -> str:
    """What a job is found by. It is made of what the plan says, so that everybody can know it: the
    same records may be submitted again on purpose, and a part of a batch for itself."""
    its = "" if part is None else "." + blake2b(str(part).encode(), digest_size=4).hexdigest()
    return f"{work_id}{its}-{attempt}"


def _names(work: Work, *, doubtful: bool) -> tuple[str, list[str]]:
    """Its own name, and under which ones it may have been submitted before."""
    attempt, parted = len(work.jobs) + 1, work.apart
    name = name_of(work.id, attempt, min(work.spans) if parted else None)
    if not doubtful:
        return name, []
    return name, [name_of(work.id, attempt), name] if parted else [name]


def _blamed(refused: Refused, batch: Batch) -> set[int]:
    """The places of the records that the API blames, as far as it has been sent any there."""
    return {place for place in refused.named if 0 <= place < len(batch)}


class Submission:
    """Takes batches until each is a job, or is no batch any more."""

    def __init__(
        self, book: Book, sink: JobSink, burial: Burial, attempts: Attempts, metrics: Metrics
    ) -> None:
        self._book = book
        self._sink = sink
        self._burial = burial
        self._attempts = attempts
        self._metrics = metrics
        self._formed_again: set[str] = set()  # ids of batches

    def formed_again(self, batch: Batch) -> None:
        """Somebody may have submitted this batch, under the name of the one that was planned."""
        self._formed_again.add(batch.id)

    def forget(self) -> None:
        self._formed_again.clear()

    async def deliver(self, flight: Flight) -> None:
        """Returns once the batch is a job, or is no batch any more."""
        batch, clock = flight.batch, self._attempts.clock
        work = self._book.committer.plan.work(batch.id)
        job = self._book.waiting.pop(batch.id, None)
        if job is None:
            doubtful = batch.id in self._formed_again
            job = Job(work, flight.started, batch.closed_by, doubtful=doubtful)
            await self._book.alone(batch, work)
        expected, cost = await self._estimated(batch)
        self._formed_again.discard(batch.id)
        name, names = _names(work, doubtful=job.doubtful)
        exact = bool(work.jobs) or batch.id == work.id
        failures, undecided = 0, ""
        failing_since: float | None = None
        budgets = self._attempts.gate.budgets
        while True:
            unknown = not (names or work.jobs)  # to the API, which can so have it in other parts
            if unknown and len(batch) > 1 and (why := budgets.excess(cost)):
                return await self._book.cut(job, batch, why)
            ask = names[0] if names else name
            answer = await self._asked(batch, ask, job, flight, cost, whole=exact and ask == name)
            if isinstance(answer, Submitted):
                return self._submitted(job, answer, batch, expected)
            if answer is None:
                del names[0]
                job.doubtful = bool(names)
                if not names:
                    log.warning("job_not_found", batch=batch.id, records=len(batch))
                    self._metrics.job("not_found")
            elif isinstance(answer, Undecided):
                if answer.job and answer.job != undecided:
                    log.warning("job_undecided", batch=batch.id, job=answer.job)
                    self._metrics.job("undecided")
                    undecided = answer.job
                await self._until_next_look(flight)
            elif isinstance(answer, Again):
                failures += 1
                names = names or [name] * job.doubtful  # it may have been made all the same
                if answer.outage or job.doubtful:  # it may be at work
                    failing_since = None
                elif failing_since is None:
                    failing_since = clock()
                patience = self._attempts.settings.give_up_after
                delay = self._attempts.delay(failures, answer.after)
                if failing_since is not None and clock() - failing_since >= patience:
                    verdict = Verdict(Fate.REJECTED, answer.status, answer.error)
                    if await self._buried_at_once(job, flight, "exhausted", verdict):
                        return None
                await self._attempts.wait(answer, delay)
            elif isinstance(answer, Refused) and 0 < len(_blamed(answer, batch)) < len(batch):
                batch = flight.batch = await self._without_named(batch, answer, job, flight)
                expected, cost = await self._estimated(batch)
            elif len(batch) > 1:
                return await self._book.cut(job, batch, answer.error)
            else:
                reason: Reason = "too_large" if isinstance(answer, TooLarge) else "rejected"
                verdict = Verdict(Fate.REJECTED, answer.status, answer.error)
                if await self._buried_at_once(job, flight, reason, verdict):
                    return None

    async def _until_next_look(self, flight: Flight) -> None:
        """On purpose, and so it is no batch that is stuck, however long the pause."""
        flight.held = True
        await self._attempts.sleep(self._sink.poll_every)
        flight.held = False

    async def _estimated(self, batch: Batch) -> tuple[Sequence[Usage], Cost]:
        """What its requests are likely to take of the account, and so of the budgets."""
        expected = await self._book.spending.estimate(batch.records)
        tokens = sum(each.input + each.output for each in expected) if expected else None
        return expected, self._attempts.gate.cost(batch, tokens)

    async def _asked(
        self, batch: Batch, name: str, job: Job, flight: Flight, cost: Cost, *, whole: bool
    ) -> Submitted | Undecided | Again | Refused | TooLarge | None:
        """One request: to make a job of it, or where that may have been done, to find it."""
        # Looking for a job is a request as well, but brings no records.
        cost = Cost(0, 0, 0) if job.doubtful else cost
        ticket = await self._attempts.admitted(cost, flight)
        flight.attempts += 1
        flight.touched = self._attempts.clock()
        found: Submitted | Undecided | Again | Refused | TooLarge | None = None
        try:
            if job.doubtful:
                # What another part of the same batch has found is ours as well.
                others = [o.work for o in self._book.jobs if o.work.id != job.work.id]
                known = [each for work in (job.work, *others) for each in work.jobs]
                found = await self._sink.find(batch, name, known, whole=whole)
            else:
                found = await self._sink.submit(batch, name)
        finally:
            sent = not isinstance(found, TooLarge) or found.sent
            self._attempts.settle(ticket, getattr(found, "feedback", None), sent=sent)
        if job.doubtful:
            if isinstance(found, Submitted):
                log.warning("job_adopted", batch=batch.id, job=found.job)
                self._metrics.job("adopted")
        else:
            if isinstance(found, Submitted):
                self._metrics.job("submitted")
            job.doubtful = isinstance(found, Again) and found.doubtful
        flight.touched = self._attempts.clock()
        return self._attempts.heard(found)

    def _submitted(
        self, job: Job, answer: Submitted, batch: Batch, expected: Sequence[Usage]
    ) -> None:
        if JOB_ID.fullmatch(answer.job) is None:
            raise SourceError(
                f"the API calls a job {answer.job[:80]!r}, which cannot be written down",
                'An id has 1 to 64 letters, digits, "_", "-" and "."; please report this.',
            )
        self._book.committer.plan.submitted(job.work, answer.job, self._attempts.clock())
        self._book.committer.changed()
        log.info(
            "job_submitted",
            batch=batch.id,
            job=answer.job,
            records=len(batch),
            ranges=batch.ranges,
            attempt=len(job.work.jobs),
            **self._book.spending.expected(expected),
        )
        job.doubtful, job.progress = False, None
        self._book.begin(job)
        self._book.changed()

    async def _without_named(
        self, batch: Batch, refused: Refused, job: Job, flight: Flight
    ) -> Batch:
        """The batch less the records that the API blames, which are buried: all of it where a
        person has said that they are to be tried once more."""
        blamed = _blamed(refused, batch)
        named = batch.only([r for n, r in enumerate(batch.records) if n in blamed])
        verdict = Verdict(Fate.REJECTED, refused.status, refused.error)
        if not await self._burial.bury(self._letters(named, flight, "rejected", verdict)):
            return batch
        self._book.committer.settle(named.spans)
        job.gone |= {(TopicPartition(r.topic, r.partition), r.offset) for r in named.records}
        job.buried += len(named)
        return batch.only([r for n, r in enumerate(batch.records) if n not in blamed])

    async def _buried_at_once(
        self, job: Job, flight: Flight, reason: Reason, verdict: Verdict
    ) -> bool:
        """Whether all records of a batch that was never a job are buried."""
        batch = flight.batch
        if not await self._burial.bury(self._letters(batch, flight, reason, verdict)):
            return False
        job.records = job.buried = len(batch) + len(job.gone)
        self._book.settled(job)
        return True

    @staticmethod
    def _letters(
        batch: Batch, flight: Flight, reason: Reason, verdict: Verdict
    ) -> list[DeadLetter]:
        return [
            DeadLetter(record, reason, verdict.error, flight.attempts, verdict.status, batch.id)
            for record in batch.records
        ]

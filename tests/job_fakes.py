"""An API of jobs in memory, a topic of results, and a pipeline between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from fakes import FakeSink, Log, Rig, wall
from sluiced.batch import Batch
from sluiced.errors import BurialError
from sluiced.identity import identity
from sluiced.intake import Intake
from sluiced.jobs import Harvester, Jobs
from sluiced.outcome import DELIVERED, Again, Fate, Refused, TooLarge, Verdict
from sluiced.pipeline import Pipeline
from sluiced.ports import (
    BrokenResultsError,
    JobAnswer,
    JobResult,
    JobState,
    OnCancel,
    Progress,
    Submitted,
    Undecided,
)
from sluiced.record import Range, Record, TopicPartition
from sluiced.window import Windows

Where = tuple[TopicPartition, int]
Said = Submitted | Again | Refused | TooLarge

LATER = Verdict(Fate.RETRY, "503", "overloaded")
NEVER = Verdict(Fate.REJECTED, "400", "no such model")


def shouted(records: Sequence[Record]) -> list[bytes]:
    """A transform."""
    return [b'"LOUD"' for _ in records]


def where(record: Record) -> Where:
    return TopicPartition(record.topic, record.partition), record.offset


@dataclass
class FakeJob:
    id: str
    name: str
    holds: list[Where]
    born: float
    polls: list[float] = field(default_factory=list)
    failure: Progress | None = None
    cancelled_at: int | None = None  # records done by then


class FakeJobSink:
    """Jobs end `takes` seconds after their creation, and say of each record what `judge` says of
    it; None leaves it out. `script` are the answers to the next submissions: an outcome instead of
    a job, or "lost" for a job of which the answer is lost.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, FakeJob] = {}
        self.takes = 60.0
        self.prefix = "job"  # of their ids
        self.judge: Callable[[Where], Verdict | None] = lambda where: DELIVERED
        self.script: list[Said | str] = []
        self.failures: list[Progress] = []  # of the next jobs
        self.most_jobs = 100
        self.poll_every = 5.0
        self.on_cancel: OnCancel = "again"
        self.born: Callable[[], float] | None = None  # a clock, where jobs say when they were made
        self.breaks = 0  # downloads that break off in their middle
        self.extra: list[JobResult] = []
        self.poll_script: list[Again] = []
        self.submissions: list[tuple[float, Batch, str]] = []
        self.finds: list[str] = []
        self.find_script: list[Again | Undecided] = []

    async def submit(self, batch: Batch, name: str) -> Said:
        await anyio.lowlevel.checkpoint()
        self.submissions.append((anyio.current_time(), batch, name))
        said = self.script.pop(0) if self.script else None
        if said is not None and not isinstance(said, str):
            return said
        job = FakeJob(
            f"{self.prefix}_{len(self.jobs)}",
            name,
            list(map(where, batch.records)),
            anyio.current_time(),
        )
        if self.failures:
            job.failure = self.failures.pop(0)
        self.jobs[job.id] = job
        if said == "hangs":
            await anyio.sleep_forever()
        if said == "lost":
            return Again("connection", "reset by peer")
        return Submitted(job.id)

    async def find(
        self, batch: Batch, name: str, known: Collection[str], *, whole: bool = True
    ) -> Submitted | Undecided | Again | None:
        await anyio.lowlevel.checkpoint()
        self.finds.append(name)
        if self.find_script:
            return self.find_script.pop(0)
        for job in self.jobs.values():
            if job.name == name and job.id not in known and job.failure is None:
                return Submitted(job.id)
        return None

    async def poll(self, job: str) -> Progress | Again:
        await anyio.lowlevel.checkpoint()
        if self.poll_script:
            return self.poll_script.pop(0)
        found = self.jobs.get(job)
        if found is None:
            return Progress("missing")
        found.polls.append(anyio.current_time())
        if found.failure is not None:
            return found.failure
        if found.cancelled_at is not None:
            return Progress("ended", found.cancelled_at, len(found.holds), cancelled=True)
        over = anyio.current_time() >= found.born + self.takes
        created = None if self.born is None else self.born() - (anyio.current_time() - found.born)
        state: JobState = "ended" if over else "working"
        return Progress(state, total=len(found.holds), created=created)

    async def results(self, job: str) -> AsyncIterator[JobResult]:
        holds = self.jobs[job].holds[: self.jobs[job].cancelled_at]
        for place, which in enumerate(reversed(holds)):
            await anyio.lowlevel.checkpoint()
            if self.breaks and place == len(holds) // 2:
                self.breaks -= 1
                raise BrokenResultsError("cut short")
            if (verdict := self.judge(which)) is not None:
                yield JobResult(which, verdict, b"answer %d" % which[1])
        for extra in self.extra:
            yield extra

    async def cancel(self, job: str) -> Again | None:
        """Half of it is done by then."""
        await anyio.lowlevel.checkpoint()
        self.jobs[job].cancelled_at = len(self.jobs[job].holds) // 2
        return None

    def objection(self, record: Record) -> str | None:
        return None

    @property
    def offsets(self) -> list[list[int]]:
        """What each job holds."""
        return [[offset for _, offset in job.holds] for job in self.jobs.values()]


class FakeOriginals:
    """Reads the log once more. `reads` are the ranges that were asked for."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.reads: list[dict[TopicPartition, list[Range]]] = []
        self.gone: set[Where] = set()

    async def read(
        self, ranges: Mapping[TopicPartition, Sequence[Range]]
    ) -> AsyncIterator[Sequence[Record]]:
        self.reads.append({tp: list(found) for tp, found in ranges.items()})
        for tp, found in sorted(ranges.items()):
            for first, last in found:
                await anyio.lowlevel.checkpoint()
                page = self._log.read(tp, first, last - first + 1)
                page = [r for r in page if r.offset <= last and where(r) not in self.gone]
                for start in range(0, len(page), 7):
                    yield page[start : start + 7]


class FakeAnswers:
    """The topic of results. While `error` is set nothing is acknowledged."""

    def __init__(self) -> None:
        self.answers: list[JobAnswer] = []
        self.error: BurialError | None = None

    async def write(self, answers: Sequence[JobAnswer]) -> None:
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.answers += answers

    @property
    def offsets(self) -> list[int]:
        return sorted(answer.offset for answer in self.answers)

    def counts(self) -> Counter[Where]:
        return Counter((answer.tp, answer.offset) for answer in self.answers)


class JobRig(Rig):
    """A pipeline whose sink is one of jobs."""

    def __init__(self, api: FakeJobSink | None = None, log: Log | None = None, **others: object):
        self.api = api or FakeJobSink()
        self.answers = FakeAnswers()
        log = log or Log()
        self.originals = FakeOriginals(log)
        super().__init__(FakeSink(), log, **others)  # type: ignore[arg-type]

    def make(self, identifies: object = "batch") -> Pipeline:
        identify = identity(self._record.id)
        intake = Intake(self._record)
        harvester = Harvester(
            self.api, self.originals, self.answers, self.burial, intake, self.metrics, wall
        )
        self.jobs = Jobs(
            "pages",
            self.api,
            self.originals,
            harvester,
            self.burial,
            self.attempts(),
            self.metrics,
        )
        return Pipeline(
            "pages",
            source=self.source,
            checkpoint=self.source,
            intake=intake,
            windows=Windows("pages", self.window, identify),
            identify=identify,
            gate=self.gate,
            delivery=self.jobs,
            burial=self.burial,
            metrics=self.metrics,
            plans=True,
            memory=self._memory,
            drain=self._drain,
            clock=anyio.current_time,
        )

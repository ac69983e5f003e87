"""ports.JobSink, ports.Answers and ports.Originals, as one member has them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from sluiced.batch import Batch
from sluiced.errors import BurialError, SourceError
from sluiced.outcome import Again
from sluiced.ports import BrokenResultsError, JobAnswer, JobResult, Progress
from sluiced.record import Range, Record, TopicPartition

from .job_api import Said
from .scenario import dice
from .source import weight_of
from .timeline import Reply

if TYPE_CHECKING:
    from .jobs import JobWorld
    from .member import SimMember

PAGE = 7  # records that are read again at once


class SimJobSink:
    """See SimSink for what the audit looks at."""

    identifies = "batch"

    def __init__(self, member: SimMember, world: JobWorld) -> None:
        self.busy = 0
        self.held_until = 0.0
        self.sent_at: deque[float] = deque()
        self.most_jobs = world.settings.most_jobs
        self.poll_every = world.settings.poll_every
        self._member = member
        self._world = world
        self._timeout = world.scenario.request_timeout
        self._max_delay = world.scenario.max_delay
        self._dice = dice(world.scenario.seed, f"{member.name}/downloads")

    def objection(self, record: Record) -> str | None:
        return None

    async def submit(self, batch: Batch, name: str) -> Any:
        self._world.audit.sends(self._member, batch)
        await self._member.awake()
        self._member.note("submits", batch, name)
        said = await self._asked(lambda: self._world.api.submit(self._member, batch, name))
        self._member.saw("answered")
        return said

    async def find(
        self, batch: Batch, name: str, known: Collection[str], *, whole: bool = True
    ) -> Any:
        if not self._member.dead:
            self._world.audit.conduct.sends(self._member)
        await self._member.awake()
        said = await self._asked(lambda: self._world.api.find(batch, name, known, whole))
        self._member.note("looks for a job", name, _summary(said))
        self._member.saw("answered")
        return said

    async def _asked(self, request: Callable[[], Reply[Said]]) -> Said:
        self._member.saw("sends")
        self.busy += 1
        try:
            reply = request()
            with trio.move_on_after(self._timeout) as waited:
                said = await reply.wait()
        finally:
            self.busy -= 1
        await self._member.awake()
        if waited.cancelled_caught:
            said = Again("timeout", f"no answer in {self._timeout:.3f} s")
        if isinstance(said, Again) and said.after is not None:
            wish = min(said.after, self._max_delay)
            self.held_until = max(self.held_until, trio.current_time() + wish)
        self._member.note("answered", _summary(said))
        return said

    async def poll(self, job: str) -> Progress | Again:
        await self._member.awake()
        found = await self._world.api.poll(job).within(self._timeout)
        await self._member.awake()
        return found or Again("timeout", f"no answer in {self._timeout:.3f} s")

    async def results(self, job: str) -> AsyncIterator[JobResult]:
        await self._member.awake()
        found = self._world.api.jobs[job]
        if not found.over:
            self._world.audit.fail("results", f"{self._member.name} reads those of {job} too soon")
        lines = [*self._world.api.lines(found)]
        fault = self._world.fault("downloads", self._dice)
        if fault == "doubled" and lines:
            lines.append(lines[0])
        if fault == "unknown":
            lines.insert(0, JobResult(None, lines[0].verdict if lines else None))  # type: ignore[arg-type]
        broken = self._dice.randrange(len(lines) + 1) if fault == "broken" else -1
        for number, line in enumerate(lines):
            await trio.sleep(0 if number % 3 else 0.001)
            await self._member.awake()
            if number == broken:
                raise BrokenResultsError("cut short")
            yield line
        if broken == len(lines):
            raise BrokenResultsError("its end is missing")

    async def cancel(self, job: str) -> Again | None:
        return None


def _summary(said: Said) -> str:
    return "nothing" if said is None else str(said)


class SimAnswers:
    """The topic of results. What was sent may get there although nobody hears of it."""

    def __init__(self, member: SimMember, world: JobWorld) -> None:
        self._member = member
        self._world = world
        self._dice = dice(world.scenario.seed, f"{member.name}/answers")

    async def write(self, answers: Sequence[JobAnswer]) -> None:
        await self._member.awake()
        self._member.saw("buries")
        fault = self._world.fault("answers", self._dice)
        delay = self._dice.uniform(0.001, 0.02)
        if fault == "slow":
            delay += self._dice.uniform(0, 4)
        reply: Reply[bool] = Reply()
        self._world.timeline.after(delay, lambda: reply.give(self._written(tuple(answers), fault)))
        written = await reply.wait()
        await self._member.awake()
        if not written:
            self._member.must_halt = True
            raise BurialError("the simulation says so")
        self._world.audit.acknowledged(answers)
        self._member.saw("buried")

    def _written(self, answers: Sequence[JobAnswer], fault: str) -> bool:
        count = len(answers)
        if fault == "not written":
            count = 0
        elif fault == "written in part":
            count = self._dice.randrange(count + 1)
        self._member.note("writes results", count)
        for answer in answers[:count]:
            self._world.audit.answered(answer)
        return not fault or fault == "slow"


class SimOriginals:
    def __init__(self, member: SimMember, world: JobWorld) -> None:
        self._member = member
        self._world = world
        self._dice = dice(world.scenario.seed, f"{member.name}/originals")

    async def read(
        self, ranges: Mapping[TopicPartition, Sequence[Range]]
    ) -> AsyncIterator[Sequence[Record]]:
        await self._member.awake()
        source, weight = self._member.source, 0
        broken = self._world.fault("originals", self._dice) == "broken"
        for tp, spans in sorted(ranges.items()):
            for span in spans:
                records = self._world.topics.within(tp, span)
                weight += weight_of(records)
                source.largest_return = max(source.largest_return, weight)
                for start in range(0, len(records), PAGE):
                    await trio.sleep(0.001)
                    await self._member.awake()
                    yield records[start : start + PAGE]
                    if broken:
                        raise SourceError("the simulation says so")

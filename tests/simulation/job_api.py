"""The API of jobs: one for all members; what it has taken it works on, whoever dies meanwhile.

Of two kinds: one that keeps a name with each job, as OpenAI's does, and one that keeps none, where
a job is told by its size and its results, as with Anthropic's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from sluiced.batch import Batch
from sluiced.outcome import DELIVERED, Again, Fate, Refused, TooLarge, Verdict
from sluiced.ports import JobResult, Progress, Submitted, Undecided
from sluiced.record import TopicPartition

from .scenario import dice
from .timeline import Reply
from .topics import Coordinates, at

if TYPE_CHECKING:
    from .jobs import JobWorld
    from .member import SimMember

Said = Submitted | Undecided | Again | Refused | TooLarge | None

REJECTED = Verdict(Fate.REJECTED, "400", "poison")
LATER = Verdict(Fate.RETRY, "503", "not now")

# It has done nothing: the request did not get there, or was turned away.
TURNED_AWAY = {
    "throttled": Again("throttled", "slow down", "429", after=0.5),
    "unavailable": Again("status", "unavailable", "503"),
    "unauthorised": Again("status", "who are you?", "401", outage=True),
    "request lost": Again("connection", "connection refused"),
}


@dataclass(eq=False, slots=True)
class SimJob:
    """`verdicts` are what its results say, None where they say nothing. `late` where it was made
    when its maker's time as a member was over: the request had been on its way since before.
    `gap` where there is another one of the same for that reason."""

    id: str
    name: str
    holds: tuple[Coordinates, ...]
    ends: float
    verdicts: dict[Coordinates, Verdict | None]
    failure: Progress | None
    maker: str
    late: bool
    gap: bool = False

    @property
    def over(self) -> bool:
        return self.failure is not None or trio.current_time() >= self.ends


class SimJobApi:
    def __init__(self, world: JobWorld) -> None:
        self.jobs: dict[str, SimJob] = {}
        self._world = world
        self._scenario, self._settings = world.scenario, world.settings
        self._dice = dice(world.scenario.seed, "job api")

    # --- requests, each of which takes its time and may be lost on either way --------------------

    def submit(self, member: SimMember, batch: Batch, name: str) -> Reply[Said]:
        generation = member.source.generation
        return self._request("submits", lambda: self._make(member, generation, batch, name))

    def find(self, batch: Batch, name: str, known: Collection[str], whole: bool) -> Reply[Said]:
        known = frozenset(known)
        return self._request("finds", lambda: self._found(batch, name, known, whole))

    def poll(self, job: str) -> Reply[Progress | Again]:
        return self._request("polls", lambda: self._progress(job))

    def _request(self, port: str, act: object) -> Reply:  # type: ignore[type-arg]
        fault = self._world.fault(port, self._dice)
        reply: Reply[object] = Reply()
        there, back = self._dice.uniform(0.001, 0.02), self._dice.uniform(0.001, 0.02)
        if fault == "slow":
            there = self._dice.uniform(0, 0.8) * self._scenario.request_timeout
        if fault in TURNED_AWAY:
            self._world.timeline.after(there, lambda: reply.give(TURNED_AWAY[fault]))
            return reply

        def arrives() -> None:
            said = act()  # type: ignore[operator]
            if fault == "answer lost":
                said = Again("connection", "reset by peer")
            if fault != "answer never comes":
                self._world.timeline.after(back, lambda: reply.give(said))

        self._world.timeline.after(there, arrives)
        return reply

    # --- what it does ---------------------------------------------------------------------------

    def _make(self, member: SimMember, generation: int, batch: Batch, name: str) -> Said:
        holds = tuple(map(at, batch.records))
        self._world.audit.received(batch, holds)
        if len(holds) > self._scenario.api_records:
            return TooLarge("413", f"{len(holds)} records")
        poison = [where for where in holds if self._kind(where) == "poison"]
        failure = self._failure(bool(poison))
        if poison and self._scenario.poison == "request" and failure is None:
            return Refused("400", "something in it is poison")
        job = SimJob(
            f"job_{len(self.jobs)}",
            name,
            holds,
            trio.current_time() + self._takes(),
            {where: self._verdict(where) for where in holds},
            failure,
            member.name,
            generation != self._world.broker.generation,
        )
        self.jobs[job.id] = job
        self._world.audit.submitted(job)
        self._world.trace.note("api", "makes a job", job.id, "of", batch, "for", member.name)
        return Submitted(job.id)

    def _takes(self) -> float:
        return 0.3 if self._world.calmed else self._dice.uniform(0.5, 1.5) * self._settings.takes

    def _failure(self, poisoned: bool) -> Progress | None:
        """Of an API that looks at what it has taken only later."""
        fault = "" if self._settings.nameless else self._world.fault("jobs", self._dice)
        if fault == "queue full":
            return Progress("failed", queue_full=True, error="the queue is full")
        if poisoned and fault == "fails":
            named = self._scenario.poison == "item"
            if named or self._scenario.poison == "request":
                return Progress("failed", named=named, status="failed", error="poison")
        return None

    def _kind(self, where: Coordinates) -> str:
        return self._world.topics.kinds.get(where, "")

    def _verdict(self, where: Coordinates) -> Verdict | None:
        if self._kind(where) == "poison" and self._scenario.poison == "item":
            return REJECTED
        if self._world.calmed or self._dice.random() >= self._settings.unsure:
            return DELIVERED
        return self._dice.choice((LATER, None))

    def _found(self, batch: Batch, name: str, known: Collection[str], whole: bool) -> Said:
        for job in reversed(self.jobs.values()):
            if job.id in known:
                continue
            if not self._settings.nameless:
                if job.name == name and job.failure is None:
                    return Submitted(job.id)
            elif len(job.holds) == len(batch) or (not whole and len(job.holds) > len(batch)):
                if not job.over:
                    return Undecided(job.id)
                lines = self.lines(job)
                wanted = set(map(at, batch.records))
                if any(_at(line) in wanted for line in (lines[:1] if whole else lines)):
                    return Submitted(job.id)
        return None

    def _progress(self, job: str) -> Progress:
        found = self.jobs[job]
        if found.failure is not None:
            return found.failure
        return Progress("ended" if found.over else "working", total=len(found.holds))

    def lines(self, job: SimJob) -> Sequence[JobResult]:
        """Its results, in an order of their own; of a failed job those that its errors name."""
        said = []
        for where in sorted(job.holds, key=lambda where: hash((job.id, where.offset * 7919 % 101))):
            verdict = job.verdicts[where]
            if job.failure is not None:
                verdict = REJECTED if self._kind(where) == "poison" else None
            if verdict is not None:
                tp = TopicPartition(where.topic, where.partition)
                said.append(JobResult((tp, where.offset), verdict, b"answer of " + job.id.encode()))
        return said


def _at(line: JobResult) -> Coordinates:
    assert line.where is not None
    (topic, partition), offset = line.where
    return Coordinates(topic, partition, offset)

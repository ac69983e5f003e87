"""A world whose API makes jobs of batches: the same members, group, log and strikes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import trio

from sluiced.attempts import Attempts, RetrySettings
from sluiced.burial import Burial
from sluiced.gate import Gate
from sluiced.intake import Intake
from sluiced.jobs import Harvester, Jobs
from sluiced.metrics import Metrics

from .job_api import SimJobApi
from .job_audit import JobAudit
from .job_sink import SimAnswers, SimJobSink, SimOriginals
from .member import NAME, SimMember, wall
from .scenario import BURIAL_FAULTS, Odds, Scenario, dice, draw, some, window
from .world import World

FAULTS: Mapping[str, Mapping[str, float]] = {
    "submits": {
        "throttled": 0.2,
        "unavailable": 0.1,
        "unauthorised": 0.05,
        "request lost": 0.1,
        "answer lost": 0.3,
        "answer never comes": 0.1,
        "slow": 0.3,
    },
    "finds": {"throttled": 0.1, "unavailable": 0.1, "answer lost": 0.1, "slow": 0.2},
    "polls": {"throttled": 0.1, "unavailable": 0.2, "answer never comes": 0.05, "slow": 0.2},
    "jobs": {"queue full": 0.2, "fails": 0.4},
    "downloads": {"broken": 0.3, "doubled": 0.1, "unknown": 0.1},
    "answers": BURIAL_FAULTS,
    "originals": {"broken": 0.2},
}


@dataclass(frozen=True, slots=True)
class JobSettings:
    """`takes` is how long a job takes, more or less, in seconds; `unsure` how many of its records
    are to go again."""

    nameless: bool
    takes: float
    unsure: float
    most_jobs: int
    poll_every: float
    faults: Mapping[str, Odds]


def _draw(seed: int) -> tuple[Scenario, JobSettings]:
    d = dice(seed, "jobs")
    wild = d.random() < 0.9
    scenario = replace(
        draw(seed),
        records=int(10 ** d.uniform(1, 2.2)),
        members=d.choice((1, 2, 2, 3, 4)),
        identifies="batch",
        collapse=False,
        on_tombstone=d.choice(("skip", "skip", "dead-letter")),
        api_bytes=10_000_000,
        max_item_attempts=d.choice((2, 4)),
        metadata_limit=d.choice((4096, 400, 260)),
        retention=float("inf"),
    )
    settings = JobSettings(
        nameless=d.random() < 0.4,
        takes=d.choice((0.3, 2.0, 6.0)),
        unsure=d.choice((0.0, 0.1, 0.3)),
        most_jobs=d.choice((1, 2, 100)),
        poll_every=d.choice((0.1, 0.5)),
        faults={port: some(d, rates, wild=wild) for port, rates in FAULTS.items()},
    )
    return scenario, settings


class JobMember(SimMember):
    def make_sink(self) -> Any:
        assert isinstance(self.world, JobWorld)
        return SimJobSink(self, self.world)

    def attempts(
        self, retry: RetrySettings, burial: Burial, gate: Gate, metrics: Metrics
    ) -> Attempts:
        most = dice(self.world.scenario.seed, f"{self.name}/attempts").choice((1, 1, 4))
        retry = msgspec.structs.replace(retry, max_item_attempts=retry.max_item_attempts * most)
        return super().attempts(retry, burial, gate, metrics)

    def deliverer(
        self, attempts: Attempts, burial: Burial, metrics: Metrics, intake: Intake
    ) -> Jobs:
        world = self.world
        assert isinstance(world, JobWorld)
        originals = SimOriginals(self, world)
        answers = SimAnswers(self, world)
        harvester = Harvester(self.sink, originals, answers, burial, intake, metrics, wall)
        return Jobs(NAME, self.sink, originals, harvester, burial, attempts, metrics)


class JobWorld(World):
    audit: JobAudit
    patience = 3000.0

    def __init__(self, seed: int) -> None:
        scenario, self.settings = _draw(seed)
        super().__init__(scenario)

    @property
    def calmed(self) -> bool:
        return trio.current_time() >= self.scenario.calm

    def make_audit(self) -> JobAudit:
        return JobAudit(self)

    def make_api(self) -> SimJobApi:
        return SimJobApi(self)

    def make_member(self, name: str) -> JobMember:
        return JobMember(self, name, window(self.scenario, self._dice))

    def odds(self, port: str) -> Odds:
        return self.settings.faults.get(port) or super().odds(port)


make = JobWorld

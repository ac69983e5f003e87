"""What a seed stands for: how large the world is, how it is configured, and what goes wrong in it.

Each run has some of the faults and not the others, and each of them more or less often: faults
that are always there hide one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal, cast

from sluiced.record import TopicPartition
from sluiced.schedule import Active, Align
from sluiced.units import Duration, Size
from sluiced.window import WindowSettings

Identifies = Literal["item", "batch", "transaction", "none"]

# How often, by request, the API does what; see `api`.
API_FAULTS = {
    "throttled": 0.2,
    "unavailable": 0.1,
    "unauthorised": 0.05,
    "request lost": 0.1,
    "answer lost": 0.15,
    "answer never comes": 0.05,
    "slow": 0.1,
    "garbage": 0.1,
    "answer cut": 0.15,
    "list too short": 0.15,
    "list too long": 0.1,
    "items to be repeated": 0.25,
}
COMMIT_FAULTS = {
    "refused": 0.25,
    "reset before": 0.25,
    "reset after": 0.35,
    "slow": 0.2,
    "lost": 0.1,
}
BURIAL_FAULTS = {"not written": 0.3, "written in part": 0.3, "slow": 0.4}
FETCH_FAULTS = {"nothing": 0.1, "broken": 0.004, "stale": 0.1}
# How many of the records are not plain.
KINDS = {"tombstone": 0.2, "invalid": 0.2, "poison": 0.1, "gap": 0.2, "large": 0.04}

# What may set off a crash or a freeze: what a member has just seen, a time, or a number of steps.
MOMENTS = (
    "step",
    "step",
    "time",
    "sends",
    "answered",
    "commits",
    "committed",
    "fetched",
    "assigned",
    "revoking",
    "buries",
    "buried",
)


class Odds:
    """Draws one of several faults by the rates at which they occur, or ""."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        self.rates = dict(rates)

    def draw(self, dice: Random) -> str:
        left = dice.random()
        for name, rate in self.rates.items():
            left -= rate
            if left < 0:
                return name
        return ""


@dataclass(frozen=True, slots=True)
class Strike:
    """Something that happens to a member: at the `count`th `moment`, or that many seconds after
    the start, or after that many steps of any member; and then `steps` steps of its own later."""

    what: Literal["crash", "freeze", "stop"]
    moment: str
    count: float
    steps: int
    lasts: float  # until it goes on, or until another one takes its place


@dataclass(frozen=True, slots=True)
class Outage:
    start: float
    end: float
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Hours:
    """What `window.active` and `window.align` are to a world that lives for seconds.

    Records are released for the first `open` of every `every` seconds, and windows cut at multiples
    of `cut`."""

    every: float
    open: float
    cut: float

    def at(self, wall: float) -> bool:
        return wall % self.every < self.open

    def within(self, start: float, end: float) -> bool:
        """Whether records are released at any time between the two."""
        return self.at(start) or start // self.every < end // self.every

    def slot(self, wall: float) -> int:
        return int(wall // self.cut)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Times are in seconds. `calm` is when all faults end."""

    seed: int
    calm: float
    tps: tuple[TopicPartition, ...]
    records: int
    members: int
    poll: float  # for which a fetch waits; the longer, the faster the simulation
    joins: tuple[float, ...]
    strikes: tuple[Strike, ...]

    identifies: Identifies
    span: Literal["topics", "partition"]
    collapse: bool
    on_tombstone: Literal["skip", "dead-letter", "send"]
    memory: int
    max_in_flight: int
    auto: bool  # whether so many are only the most
    requests_per_second: int | None
    records_per_second: int | None  # of the whole group
    max_item_attempts: int
    give_up_after: float
    max_delay: float
    max_ratio: float
    drain: float

    session: float
    heartbeat: float
    rebalance: float  # for which the group waits for its members
    metadata_limit: int
    retention: float  # of offsets, once the group is empty

    api: Odds
    commits: Odds
    burials: Odds
    fetches: Odds
    api_outages: tuple[Outage, ...]
    broker_outages: tuple[Outage, ...]
    api_work: float  # that a request takes at most, if nothing is wrong
    api_records: int
    api_bytes: int
    request_timeout: float
    poison: Literal["request", "item", "none"]
    kinds: Mapping[str, float] = field(default_factory=dict)  # of records that are not plain
    active: Hours | None = None
    align: Hours | None = None

    @property
    def keeps_order(self) -> bool:
        """Whether nothing is configured that may overtake."""
        return (
            self.max_in_flight == 1
            and "items to be repeated" not in self.api.rates
            and math.isinf(self.give_up_after)
        )


def dice(seed: int, name: str) -> Random:
    """Chance of its own for each part of the world, so that one does not disturb another."""
    return Random(f"{seed}/{name}")


def draw(seed: int) -> Scenario:
    d, limits = dice(seed, "scenario"), dice(seed, "limits")
    calm = d.uniform(4, 12)
    drain = d.choice((0.5, 1.0, 3.0))
    wild = d.random() < 0.9  # and the others are a world without trouble
    span: Literal["topics", "partition"] = "partition" if d.random() < 0.35 else "topics"
    hours = dice(seed, "hours")  # of its own, so that older seeds are what they were
    every = hours.uniform(2, 8)
    # Members look at the clock once a second where nothing comes: shorter hours may be overlooked.
    times = Hours(every, max(1.5, every * hours.uniform(0.2, 0.8)), hours.uniform(0.3, 3))
    forgetful = d.random() < 0.06  # the group is empty for longer than offsets are kept
    return Scenario(
        seed=seed,
        calm=calm,
        tps=_partitions(d),
        records=int(10 ** d.uniform(1, 2.6)),
        members=1 if forgetful else d.choice((1, 1, 2, 2, 3, 4)),
        poll=d.choice((0.2, 1.0, 1.0)),
        joins=tuple(d.uniform(0, calm) for _ in range(d.choice((0, 0, 0, 1, 2))))
        if wild and not forgetful
        else (),
        strikes=_strikes(d, calm) if wild else (),
        identifies=d.choice(("batch",) * 8 + ("item", "none")),
        span=span,
        collapse=d.random() < 0.15,
        on_tombstone=d.choice(("skip", "skip", "dead-letter", "send")),
        memory=d.choice((8_000, 40_000, 200_000, 2**26, 2**26)),
        max_in_flight=d.choice((1, 1, 2, 3, 4)),
        requests_per_second=limits.choice((None, None, 10, 30)),
        auto=limits.random() < 0.3,
        records_per_second=limits.choice((None, None, 40, 100)),
        max_item_attempts=d.choice((2, 5, 5, 20)),
        give_up_after=d.choice((math.inf,) * 4 + (5.0,)),
        max_delay=d.choice((1.0, 3.0)),
        max_ratio=d.choice((1.0, 1.0, 0.3)),
        drain=drain,
        session=d.uniform(1, 3),
        heartbeat=d.uniform(0.05, 1),
        rebalance=drain * d.choice((0.5, 1.5, 1.5)) + 0.5,
        metadata_limit=d.choice((4096, 4096, 200)),
        retention=d.uniform(0.1, 1) if forgetful else math.inf,
        api=some(d, API_FAULTS, wild=wild),
        commits=some(d, COMMIT_FAULTS, wild=wild),
        burials=some(d, BURIAL_FAULTS, wild=wild),
        fetches=some(d, FETCH_FAULTS, wild=wild),
        api_outages=_outages(d, calm, ("unavailable", "unauthorised", "throttled", "request lost"))
        if wild
        else (),
        broker_outages=_outages(d, calm, ("",)) if wild else (),
        api_work=d.choice((0.01, 0.1, 1.0)),
        api_records=d.choice((10_000, 10_000, 30, 7)),
        api_bytes=d.choice((10_000_000, 10_000, 3_000)),
        request_timeout=d.uniform(0.5, 2),
        poison=d.choice(("request", "item", "none")),
        kinds=some(d, KINDS, wild=True).rates,
        active=times if hours.random() < 0.2 else None,
        align=times if hours.random() < 0.2 else None,
    )


def window(scenario: Scenario, d: Random) -> WindowSettings:
    """The settings of one life of a member: a daemon may be restarted with others."""
    return WindowSettings(
        max_records=d.choice((1, 2, 5, 5, 10, 40)),
        max_bytes=Size(d.choice((100, 2_000, 2**22, 2**22))),
        max_age=Duration(d.choice((0.05, 0.3, 1.0, 2.0))),
        span=scenario.span,
        collapse=scenario.collapse,
        active=cast("Active | None", scenario.active),
        align=cast("Align | None", scenario.align),
    )


def _partitions(d: Random) -> tuple[TopicPartition, ...]:
    count = d.choice((1, 1, 2, 2, 3, 4, 6))
    second = d.randint(1, count - 1) if count > 1 and d.random() < 0.3 else count
    return tuple(
        TopicPartition("a", i) if i < second else TopicPartition("b", i - second)
        for i in range(count)
    )


def _strikes(d: Random, calm: float) -> tuple[Strike, ...]:
    kinds: Iterable[Literal["crash", "freeze", "stop"]] = ("crash", "freeze", "stop")
    strikes = []
    for what in kinds:
        for _ in range(d.choice((0, 1, 2, 4, 6))):
            moment = d.choice(MOMENTS)
            if moment == "step":
                count = 10 ** d.uniform(0.5, 3)
            elif moment == "time":
                count = d.uniform(0, calm)
            else:
                count = 10 ** d.uniform(0, 1.3)
            lasts = d.choice((0.0, d.uniform(0, 1), d.uniform(1, 6)))
            steps = d.choice((0, 0, 1, 2, 3, 5, 8, 20))
            strikes.append(Strike(what, moment, count, steps, lasts))
    return tuple(strikes)


def some(d: Random, rates: Mapping[str, float], *, wild: bool) -> Odds:
    part = d.choice((0.0, 0.4, 0.7)) if wild else 0.0
    return Odds({n: rate * d.random() for n, rate in rates.items() if d.random() < part})


def _outages(d: Random, calm: float, kinds: tuple[str, ...]) -> tuple[Outage, ...]:
    outages = []
    for _ in range(d.choice((0, 0, 0, 1, 2))):
        start = d.uniform(0, calm)
        outages.append(Outage(start, min(calm, start + d.uniform(0.2, 3)), d.choice(kinds)))
    return tuple(outages)

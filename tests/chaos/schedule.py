"""What will be done to whom and when, drawn from a seed.

The seed fixes the blows, their order and their moments. It does not fix what the processes are
doing at that moment: the same seed is the same storm, never the same run.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, cycle, islice
from random import Random
from typing import Literal

from .proxy import Fault, Kind

Side = Literal["broker", "sink"]
Deed = Literal["kill", "freeze", "restart", "join", "leave", "kill broker", "network"]

_SIDES: tuple[Side, ...] = ("broker", "sink")

# The amounts that each kind of fault is drawn from, towards the broker and towards the sink.
_AMOUNTS: dict[Kind, dict[Side, tuple[float, float]]] = {
    "latency": {"broker": (0.01, 0.3), "sink": (0.01, 0.5)},  # seconds
    "slow": {"broker": (20_000, 200_000), "sink": (5_000, 50_000)},  # bytes per second
    "truncate": {"broker": (1, 2_000), "sink": (1, 600)},  # bytes of answers
}
_KINDS: tuple[Kind, ...] = ("latency", "cut", "reset", "slow", "truncate", "silence", "refuse")

# Every fault once on either side.
ALL_FAULTS = len(_KINDS) * len(_SIDES)

# A group of two grows to three, shrinks to one, and is two again.
_COMINGS: tuple[Deed, ...] = ("join", "leave", "leave", "join")

# Seconds that a fault of the network lasts. Longer ones towards the sink let batches pile up, of
# which a rebalance or a kill then has more to forget.
_OUTAGE: dict[Side, tuple[float, float]] = {"broker": (0.5, 4.0), "sink": (0.5, 8.0)}
_PAUSE = (0.0, 2.0)  # seconds until what was killed is started again
_UNTIL = 0.95  # part of the time after which nothing new is begun


@dataclass(frozen=True)
class Blow:
    """One thing that is done, `at` seconds after the start.

    `lasts` is how long a member is frozen, the network is at fault, or what was killed stays down.
    """

    at: float
    deed: Deed
    lasts: float = 0.0
    side: Side | None = None
    fault: Fault | None = None

    def __str__(self) -> str:
        what = f"network to {self.side}: {self.fault}" if self.fault else self.deed
        return f"{what}, for {self.lasts:.1f} s" if self.lasts else what


@dataclass(frozen=True)
class Storm:
    """How much of everything, over how many seconds. `freeze` is the longest sleep of a zombie,
    which starts from `freeze_from`, the session timeout and a little."""

    seconds: float
    kills: int
    freezes: int
    restarts: int
    joins: int
    broker_kills: int
    faults: int
    freeze_from: float = 7.0
    freeze: float = 12.0


def schedule(storm: Storm, seed: int) -> list[Blow]:
    """All blows in the order of their time. `joins` is as many leaves besides."""
    random = Random(seed)
    blows: list[Blow] = []

    def spread(deed: Deed, count: int, lasts: tuple[float, float] = (0, 0)) -> None:
        for at in _moments(random, count, storm.seconds):
            blows.append(Blow(at, deed, random.uniform(*lasts)))

    spread("kill", storm.kills, _PAUSE)
    spread("freeze", storm.freezes, (storm.freeze_from, storm.freeze))
    spread("restart", storm.restarts)
    spread("kill broker", storm.broker_kills, _PAUSE)
    for at, deed in zip(_moments(random, 2 * storm.joins, storm.seconds), cycle(_COMINGS)):
        blows.append(Blow(at, deed))
    faults = _faults(random, storm.faults)
    for at, (side, fault) in zip(_moments(random, len(faults), storm.seconds), faults, strict=True):
        blows.append(Blow(at, "network", random.uniform(*_OUTAGE[side]), side, fault))
    return sorted(blows, key=lambda blow: blow.at)


def _moments(random: Random, count: int, seconds: float) -> list[float]:
    """Ascending, one in each of `count` equal spans of the time, anywhere within it."""
    span = seconds * _UNTIL / max(1, count)
    return [span * (index + random.random()) for index in range(count)]


def _faults(random: Random, count: int) -> list[tuple[Side, Fault]]:
    """Each kind once before any comes again, and then on the other side; in a random order."""
    rounds = [[(kind, random.choice(_SIDES)) for kind in random.sample(_KINDS, len(_KINDS))]]
    other: dict[Side, Side] = {"broker": "sink", "sink": "broker"}
    rounds.append([(kind, other[side]) for kind, side in rounds[0]])
    return [
        (side, Fault(kind, random.uniform(*_AMOUNTS[kind][side]) if kind in _AMOUNTS else 0.0))
        for kind, side in islice(cycle(chain(*rounds)), count)
    ]

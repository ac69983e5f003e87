"""What batches that are through tell of the sink, under one setting of how many and how large."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

# Part of the answers that must be back-pressure for it to count, and how many of them at least.
PUSHED, FEWEST_PUSHES = 0.15, 2


class Landing(NamedTuple):
    """A batch that is through. `number` is that of its launch, `seconds` for how long it had its
    slot, of which it was `held` back by budgets of what it carries; `full` if it was not closed by
    its age. What a budget of requests takes counts as time at the sink: larger batches gain there.
    """

    number: int
    records: int
    seconds: float
    size: int = 0  # that its window was closed at; 0 where that was not why it was closed
    held: float = 0.0
    full: bool = True


@dataclass(slots=True)
class Measure:
    """What is seen under one setting of flights from number `first` on.

    With `first` unknown, it is that of the first one of the new `size`, and `mixed` launches later
    only such ones are at the sink: what came in between is forgotten then.
    """

    first: int | None
    began: float
    mixed: int = 0
    settled: bool = False
    flights: int = 0
    full: int = 0
    records: int = 0
    seconds: float = 0.0
    held: float = 0.0
    squares: tuple[float, float, float] = (0.0, 0.0, 0.0)  # sums of r², r·s and s²
    answers: int = 0
    pushes: int = 0
    timeouts: int = 0
    area: float = 0.0  # batches at the sink, over time

    def add(self, landing: Landing) -> None:
        if self.first is None:
            self.first = landing.number + self.mixed
        if landing.number >= self.first and not self.settled:
            self.settled = True
            self.flights = self.full = self.records = 0
            self.seconds = self.held = 0.0
            self.squares = (0.0, 0.0, 0.0)
        r, s = float(landing.records), max(landing.seconds, 1e-9)
        self.flights += 1
        self.full += landing.full
        self.records += landing.records
        self.seconds += s
        self.held += landing.held
        rr, rs, ss = self.squares
        self.squares = (rr + r * r, rs + r * s, ss + s * s)

    @property
    def rate(self) -> float:
        """Records that a batch delivers in a second of being at the sink."""
        return self.records / self.seconds

    @property
    def error(self) -> float:
        """The standard error of the rate, relative to it."""
        if self.records == 0 or self.flights < 2:
            return 1.0
        (rr, rs, ss), q = self.squares, self.rate
        residual = max(0.0, rr - 2 * q * rs + q * q * ss)
        return math.sqrt(residual * self.flights / (self.flights - 1)) / self.records

    @property
    def pushed(self) -> bool:
        return self.pushes >= FEWEST_PUSHES and self.pushes > PUSHED * self.answers

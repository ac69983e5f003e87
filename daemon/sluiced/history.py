"""What happened last, for whoever looks at the status page: a few batches and a few errors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from decimal import Decimal

from .batch import Batch
from .freshness import LATEST
from .metrics import BatchOutcome
from .outcome import RetryReason

BATCHES = 20
ERRORS = 5


@dataclass(frozen=True, slots=True)
class Landed:
    """A batch that is through. `at` is seconds since 1970, `seconds` what it took from its release.

    `delay` is how old its oldest record was then, in seconds, taken to be the first of one of its
    partitions; None where none of these has a time. `cost` is what its jobs have cost, as far as
    prices are known.
    """

    batch: str
    records: int
    bytes: int
    closed_by: str
    outcome: BatchOutcome
    attempts: int
    at: float
    seconds: float
    delay: float | None
    cost: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """What the sink said, `times` in a row; the last time at `at`, in seconds since 1970."""

    at: float
    reason: RetryReason
    text: str
    times: int = 1


class History:
    """Bounded, newest first."""

    def __init__(self) -> None:
        self.batches: deque[Landed] = deque(maxlen=BATCHES)
        self.errors: deque[Failure] = deque(maxlen=ERRORS)

    def landed(
        self, batch: Batch, outcome: BatchOutcome, attempts: int, *, at: float, seconds: float
    ) -> None:
        # The same bounds as for `visible_until`: what is no time says nothing.
        times = [record.timestamp for record in batch.firsts()]
        oldest = min((ms for ms in times if 0 <= ms <= LATEST), default=None)
        delay = None if oldest is None else max(0.0, at - oldest / 1000)
        size = batch.size
        self.batches.appendleft(
            Landed(
                batch.id, len(batch), size, batch.closed_by, outcome, attempts, at, seconds, delay
            )
        )

    def failed(self, reason: RetryReason, text: str, at: float) -> None:
        """The same again is one entry: an outage of hours must not hide what was before."""
        last = self.errors[0] if self.errors else None
        if last is not None and (last.reason, last.text) == (reason, text):
            self.errors[0] = replace(last, at=at, times=last.times + 1)
        else:
            self.errors.appendleft(Failure(at, reason, text))

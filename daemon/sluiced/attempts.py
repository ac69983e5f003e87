"""Attempts at the sink: when a request may go out, what its answer says of all, how long to wait.

What a batch is made of, and what becomes of it, is for those to say who make the requests:
`delivery`, and `jobs` where the API makes a job of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, TypeVar

import anyio
import structlog
from msgspec import Meta

from .batch import Batch
from .budgets import Cost, Ticket
from .burial import Halt
from .feedback import Feedback
from .gate import Gate
from .goodput import Landing
from .history import History
from .metrics import Metrics
from .outcome import Again, TooLarge
from .units import Duration, Patience, Settings

log = structlog.get_logger("sluiced.delivery")

T = TypeVar("T")

# This many failed attempts in a row, at whatever batches, are an outage and no longer a hiccup.
OUTAGE_AFTER = 3

# Seconds after which one that waits for a limit looks again: it may have been changed.
LOOK_AGAIN = 1.0


class RetrySettings(Settings, frozen=True):
    """[retry]"""

    first_delay: Duration = Duration(0.25)
    max_delay: Duration = Duration(60)
    give_up_after: Patience = Patience("inf")
    max_item_attempts: Annotated[int, Meta(ge=1)] = 5

    def __post_init__(self) -> None:
        if not 0 < self.first_delay <= self.max_delay:
            raise ValueError("first_delay must be more than 0s and not above max_delay")


@dataclass(slots=True)
class Flight:
    """What can be seen of a batch while it is being delivered."""

    batch: Batch
    started: float
    number: int = 0  # by which the gate knows it
    attempts: int = 0
    touched: float = 0.0
    delivered: int = 0
    buried: int = 0
    held: bool = False  # by a limit of the API's or of the user's, or until it may look again
    budgeted: float = 0.0  # seconds for which budgets have held it of what it carries
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def landed(self, now: float) -> Landing:
        """What the time that it took tells of the sink."""
        full = self.batch.closed_by in ("records", "bytes", "plan")
        size = len(self.batch) + len(self.batch.skipped)
        return Landing(
            self.number,
            self.delivered,
            now - self.started,
            size if self.batch.closed_by in ("records", "plan") else 0,
            self.budgeted,
            full,
        )


class SinkHealth:
    """Whether the sink answers. Shared by all batches in flight."""

    def __init__(self) -> None:
        self._failures = 0
        self.outage: str | None = None
        self.last_error: tuple[float, str] | None = None

    def answered(self) -> None:
        self._failures = 0
        if self.outage is not None:
            log.info("sink_recovered")
            self.outage = None

    def failed(self, answer: Again, wall: float) -> None:
        self.last_error = (wall, answer.error)
        if answer.reason == "throttled":
            return
        self._failures += 1
        if self.outage is None and (answer.outage or self._failures >= OUTAGE_AFTER):
            self.outage = answer.error
            log.error(
                "sink_outage",
                status=answer.status,
                error=answer.error,
                hint="Nothing is lost, and it is tried again. See to the API, or our credentials.",
            )


class Attempts:
    """What all requests to the sink share. `clock` gives seconds that only go forward, `wall`
    seconds since 1970."""

    def __init__(
        self,
        settings: RetrySettings,
        gate: Gate,
        halt: Halt,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        random: Random | None = None,
    ) -> None:
        self.settings = settings
        self.gate = gate
        self.clock = clock
        self.wall = wall
        self.random = random or Random()  # noqa: S311 - jitter, not cryptography
        self.health = SinkHealth()
        self.history = History()
        self._halt = halt
        self._metrics = metrics
        self._turn = anyio.Lock(fast_acquire=True)  # requests go out in the order of asking

    async def admitted(self, cost: Cost, flight: Flight) -> Ticket:
        """Returns once the gate lets a request of this cost through. `settle` must follow."""
        flight.held = True
        async with self._turn:
            await self._halt.passed()
            # Over and over: a hold may grow meanwhile, and a limit be changed.
            while (wait := self.gate.wait(cost, began := self.clock())).seconds:
                await anyio.sleep(min(wait.seconds, LOOK_AGAIN))
                seconds = self.clock() - began
                self._metrics.waited(wait.limit, seconds)
                if wait.limit.startswith(("records", "bytes", "tokens")):
                    flight.budgeted += seconds
                await self._halt.passed()
            # Given up in the very moment in which its wait was over, it would be sent in vain.
            await anyio.lowlevel.checkpoint_if_cancelled()
            flight.held = False
            return self.gate.use(cost, self.clock())

    def settle(self, ticket: Ticket, feedback: Feedback | None, *, sent: bool) -> None:
        """The request is over, whatever has come of it."""
        longest = float(self.settings.max_delay)
        self.gate.settle(ticket, feedback, self.clock(), longest, sent=sent)

    def told(self, feedback: Feedback | None) -> None:
        """What the API says of its limits, to a question that is not counted as a request."""
        self.gate.told(feedback, self.clock(), float(self.settings.max_delay))

    def heard(self, answer: T) -> T:
        """Notes what an answer says of the sink."""
        if isinstance(answer, Again):
            self.health.failed(answer, self.wall())
            self.history.failed(answer.reason, answer.error, self.wall())
            self._metrics.retry(answer.reason)
        elif not isinstance(answer, TooLarge) or answer.sent:
            self.health.answered()
        return answer

    def delay(self, failures: int, after: float | None = None) -> float:
        """Seconds to wait after so many failures in a row; `after` is what the API asks for."""
        delay = self.backoff(failures)
        if after is not None and after > 0:
            # What the API asks for, but no absurd wait; spread, since others were told the same.
            # A wait of nothing, or until a time that is over, would be no pause at all, and what a
            # sink makes of a date of the past may even be less than that, or no number.
            wish = min(after, self.settings.max_delay)
            delay = wish + self.random.uniform(0, self.settings.first_delay)
            self.gate.hold(self.clock() + delay)
        return delay

    async def pause(self, answer: Again, failures: int) -> None:
        """Waits before a request about a job is made again."""
        await self.wait(answer, self.delay(failures, answer.after))

    async def wait(self, answer: Again, delay: float) -> None:
        log.warning(
            "job_retry",
            reason=answer.reason,
            status=answer.status,
            error=answer.error,
            delay_seconds=round(delay, 3),
        )
        await anyio.sleep(delay)

    async def sleep(self, seconds: float) -> None:
        """About so long, and not all at once."""
        await anyio.sleep(self.random.uniform(seconds / 2, seconds))

    def backoff(self, failures: int) -> float:
        """Exponential with full jitter: a random part of the ceiling, which doubles each time."""
        settings = self.settings
        ceiling = min(settings.max_delay, settings.first_delay * 2 ** min(failures - 1, 32))
        return self.random.uniform(0, ceiling)

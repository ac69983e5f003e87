"""One batch, until every record is delivered or buried: attempt, split, bisect, retry."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Annotated

import anyio
import structlog
from msgspec import Meta

from .batch import Batch
from .burial import Burial
from .gate import Gate
from .metrics import BatchOutcome, Metrics
from .outcome import DELIVERED, Again, Answered, Fate, Outcome, Refused, TooLarge, Verdict
from .ports import DeadLetter, Reason, Sink
from .record import Record
from .units import Duration, Patience, Settings

log = structlog.get_logger("sluiced.delivery")

# This many failed attempts in a row, at whatever batches, are an outage and no longer a hiccup.
OUTAGE_AFTER = 3


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
    attempts: int = 0
    touched: float = 0.0
    delivered: int = 0
    buried: int = 0
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


@dataclass(slots=True)
class _Part:
    """Some records of a batch that share their history."""

    batch: Batch
    sent: int = 0  # requests that carried them
    judged: int = 0  # times the API answered "later" for each of them
    failures: int = 0  # attempts in a row that failed as a whole
    failing_since: float | None = None  # the first of them; an outage starts the count over


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
            log.error("sink_outage", status=answer.status, error=answer.error)


class Delivery:
    """Delivers batches. `clock` gives seconds that only go forward, `wall` seconds since 1970."""

    def __init__(
        self,
        settings: RetrySettings,
        sink: Sink,
        burial: Burial,
        gate: Gate,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        random: Random | None = None,
    ) -> None:
        self._settings = settings
        self._sink = sink
        self._burial = burial
        self._gate = gate
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._random = random or Random()  # noqa: S311 - jitter, not cryptography
        self.health = SinkHealth()

    async def deliver(self, flight: Flight) -> None:
        """Returns once every record of the batch is delivered or buried; never sooner.

        Parts are worked off in order, a part's own parts before the next one, so that what must
        stay in order does as far as the API's answers allow.
        """
        parts = deque([_Part(flight.batch)])
        while parts:
            part = parts.popleft()
            answer = await self._attempt(part, flight)
            parts.extendleft(reversed(await self._next(part, answer, flight)))
        outcome: BatchOutcome = (
            "delivered" if not flight.buried else "partial" if flight.delivered else "rejected"
        )
        self._metrics.batch(flight.batch.closed_by, outcome, len(flight.batch), flight.batch.size)

    async def _attempt(self, part: _Part, flight: Flight) -> Outcome:
        await self._burial.halt.passed()
        while (wait := self._gate.wait(self._clock())) > 0:  # a hold may grow meanwhile
            await anyio.sleep(wait)
            await self._burial.halt.passed()
        flight.attempts += 1
        flight.touched = self._clock()
        answer = await self._sink.send(part.batch)
        flight.touched = self._clock()
        if isinstance(answer, TooLarge) and not answer.sent:
            return answer  # it says nothing about the sink
        part.sent += 1
        if isinstance(answer, Again):
            self.health.failed(answer, self._wall())
        else:
            self.health.answered()
        return answer

    async def _next(self, part: _Part, answer: Outcome, flight: Flight) -> Sequence[_Part]:
        """What is left to do of a part after an answer, in order."""
        match answer:
            case Answered(verdicts):
                return await self._judged(part, verdicts, flight)
            case Again():
                return await self._again(part, answer, flight)
            case Refused() | TooLarge() if len(part.batch) > 1:
                log.info(
                    "batch_split", batch=part.batch.id, records=len(part.batch), error=answer.error
                )
                first, second = part.batch.halves()
                return [_Part(first, part.sent, part.judged), _Part(second, part.sent, part.judged)]
            case Refused(status, error):
                return await self._bury(
                    part, "rejected", Verdict(Fate.REJECTED, status, error), flight
                )
            case TooLarge(status, error):
                return await self._bury(
                    part, "too_large", Verdict(Fate.REJECTED, status, error), flight
                )

    async def _judged(
        self, part: _Part, verdicts: Sequence[Verdict], flight: Flight
    ) -> Sequence[_Part]:
        records = part.batch.records
        if len(verdicts) != len(records):
            raise ValueError("an Answered must hold one verdict for each record: use answered()")
        if verdicts.count(DELIVERED) == len(records):
            self._delivered(records, flight)
            return []
        pairs = list(zip(records, verdicts, strict=True))
        self._delivered([r for r, v in pairs if v.fate is Fate.DELIVERED], flight)
        rejected = [(r, v) for r, v in pairs if v.fate is Fate.REJECTED]
        later = [(r, v) for r, v in pairs if v.fate is Fate.RETRY]
        left: list[_Part] = []
        if rejected:
            left += await self._bury_records(part, "rejected", rejected, flight)
        if later and part.judged + 1 >= self._settings.max_item_attempts:
            left += await self._bury_records(part, "exhausted", later, flight)
        elif later:
            self._metrics.retry("status")
            rest = part.batch.only([r for r, _ in later])
            left.append(_Part(rest, part.sent, part.judged + 1))
            flight.touched = self._clock()
            await anyio.sleep(self._backoff(part.judged + 1))
        return left

    async def _again(self, part: _Part, answer: Again, flight: Flight) -> Sequence[_Part]:
        part.failures += 1
        self._metrics.retry(answer.reason)
        now = self._clock()
        if answer.outage:
            part.failing_since = None
        elif part.failing_since is None:
            part.failing_since = now
        since = part.failing_since
        if since is not None and now - since >= self._settings.give_up_after:
            verdict = Verdict(Fate.REJECTED, answer.status, answer.error)
            return await self._bury(part, "exhausted", verdict, flight)
        delay = self._backoff(part.failures)
        if answer.after is not None:
            # What the API asks for, but no absurd wait; spread, since others were told the same.
            wish = min(answer.after, self._settings.max_delay)
            delay = wish + self._random.uniform(0, self._settings.first_delay)
            self._gate.hold(now + delay)
        log.warning(
            "batch_retry",
            batch=part.batch.id,
            records=len(part.batch),
            attempt=flight.attempts,
            reason=answer.reason,
            status=answer.status,
            error=answer.error,
            delay_seconds=round(delay, 3),
        )
        await anyio.sleep(delay)
        return [part]

    def _backoff(self, failures: int) -> float:
        """Exponential with full jitter: a random part of the ceiling, which doubles each time."""
        ceiling = min(
            self._settings.max_delay, self._settings.first_delay * 2 ** min(failures - 1, 32)
        )
        return self._random.uniform(0, ceiling)

    def _delivered(self, records: Sequence[Record], flight: Flight) -> None:
        if not records:
            return
        flight.delivered += len(records)
        self._burial.delivered(len(records))
        for topic, count in _by_topic(records, flight.batch).items():
            self._metrics.delivered(topic, count)
        self._metrics.visible([r.timestamp for r in records], self._wall() * 1000)

    async def _bury(
        self, part: _Part, reason: Reason, verdict: Verdict, flight: Flight
    ) -> Sequence[_Part]:
        pairs = [(record, verdict) for record in part.batch.records]
        return await self._bury_records(part, reason, pairs, flight)

    async def _bury_records(
        self,
        part: _Part,
        reason: Reason,
        refused: Sequence[tuple[Record, Verdict]],
        flight: Flight,
    ) -> list[_Part]:
        """Nothing is left to do of records that are buried; the others start over."""
        letters = [
            DeadLetter(record, reason, verdict.error, part.sent, verdict.status, part.batch.id)
            for record, verdict in refused
        ]
        flight.touched = self._clock()
        if await self._burial.bury(letters):
            flight.buried += len(letters)
            return []
        return [_Part(part.batch.only([record for record, _ in refused]), part.sent)]


def _by_topic(records: Sequence[Record], batch: Batch) -> Counter[str]:
    if batch.topic is not None:
        return Counter({batch.topic: len(records)})
    return Counter(r.topic for r in records)

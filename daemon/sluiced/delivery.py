"""One batch, until every record is delivered or buried: attempt, split, bisect, retry."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import anyio
import structlog

from .adaptive import Push
from .attempts import Attempts, Flight
from .batch import Batch
from .budgets import Cost, Ticket
from .burial import Burial
from .metrics import BatchOutcome, Metrics
from .outcome import DELIVERED, Again, Answered, Fate, Outcome, Refused, TooLarge, Verdict
from .ports import DeadLetter, Reason, Sink
from .record import Record

log = structlog.get_logger("sluiced.delivery")

# The status by which an API says that it is the requests that are too many.
TOO_MANY_REQUESTS = "429"


@dataclass(slots=True)
class _Part:
    """Some records of a batch that share their history."""

    batch: Batch
    sent: int = 0  # requests that carried them
    judged: int = 0  # times the API answered "later" for each of them
    failures: int = 0  # attempts in a row that failed as a whole
    failing_since: float | None = None  # the first of them; an outage starts the count over
    cost: Cost | None = None


class Delivery:
    """Delivers batches."""

    def __init__(self, sink: Sink, burial: Burial, attempts: Attempts, metrics: Metrics) -> None:
        self.attempts, self.wall = attempts, attempts.wall
        self.health, self.history = attempts.health, attempts.history
        self._sink = sink
        self._burial = burial
        self._gate = attempts.gate
        self._metrics = metrics
        self._clock = attempts.clock

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
        batch, now = flight.batch, self._clock()
        self._metrics.batch(batch.closed_by, outcome, len(batch), batch.size)
        took = now - flight.started
        self.history.landed(batch, outcome, flight.attempts, at=self.wall(), seconds=took)

    async def _attempt(self, part: _Part, flight: Flight) -> Outcome:
        cost = part.cost = part.cost or self._gate.cost(part.batch)
        # Not what has been sent as it is: it must go again under its id.
        if not part.sent and len(part.batch) > 1 and (why := self._gate.budgets.excess(cost)):
            return TooLarge(error=why, sent=False)
        ticket = await self.attempts.admitted(cost, flight)
        flight.attempts += 1
        flight.touched = self._clock()
        answer = await self._sent(part.batch, ticket)
        flight.touched = self._clock()
        log.debug(
            "batch_answered",
            batch=part.batch.id,
            records=len(part.batch),
            ranges=part.batch.ranges,
            attempt=flight.attempts,
            answer=type(answer).__name__.lower(),
        )
        if isinstance(answer, TooLarge) and part.batch is flight.batch:
            self._gate.too_large(flight.number, len(part.batch), self._clock())
        if isinstance(answer, TooLarge) and not answer.sent:
            return answer  # it says nothing about the sink
        if (push := _push(answer)) != "unclear":
            self._gate.answered(flight.number, push, self._clock())
        part.sent += 1
        return self.attempts.heard(answer)

    async def _sent(self, batch: Batch, ticket: Ticket) -> Outcome:
        feedback, sent = None, True
        try:
            answer = await self._sink.send(batch)
            feedback, sent = answer.feedback, not isinstance(answer, TooLarge) or answer.sent
        finally:
            self.attempts.settle(ticket, feedback, sent=sent)
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
        # Being told to slow down is about the API: it uses up no attempt of a record.
        slowed = [r for r, v in pairs if _is_later(v) and v.status == TOO_MANY_REQUESTS]
        later = [(r, v) for r, v in pairs if _is_later(v) and v.status != TOO_MANY_REQUESTS]
        left: list[_Part] = []
        if rejected:
            left += await self._bury_records(part, "rejected", rejected, flight)
        if later and part.judged + 1 >= self.attempts.settings.max_item_attempts:
            left += await self._bury_records(part, "exhausted", later, flight)
            later = []
        again = []
        if later:
            self._metrics.retry("status")
            rest = part.batch.only([r for r, _ in later])
            again.append(_Part(rest, part.sent, part.judged + 1))
        if slowed:
            self._metrics.retry("throttled")
            rest = part.batch.only(slowed)
            again.append(_Part(rest, part.sent, part.judged, part.failures + 1))
        if again:
            flight.touched = self._clock()
            await anyio.sleep(self.attempts.backoff(max(p.failures or p.judged for p in again)))
        return left + again

    async def _again(self, part: _Part, answer: Again, flight: Flight) -> Sequence[_Part]:
        part.failures += 1
        now = self._clock()
        if answer.outage:
            part.failing_since = None
        elif part.failing_since is None:
            part.failing_since = now
        delay = self.attempts.delay(part.failures, answer.after)
        since = part.failing_since
        if since is not None and now - since >= self.attempts.settings.give_up_after:
            verdict = Verdict(Fate.REJECTED, answer.status, answer.error)
            return await self._bury(part, "exhausted", verdict, flight)
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
        flight.held = bool(answer.after)
        await anyio.sleep(delay)
        return [part]

    def _delivered(self, records: Sequence[Record], flight: Flight) -> None:
        if not records:
            return
        flight.delivered += len(records)
        self._burial.delivered(len(records))
        for topic, count in _by_topic(records, flight.batch).items():
            self._metrics.delivered(topic, count)
        self._metrics.visible([r.timestamp for r in records], self.wall() * 1000)

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


def _push(answer: Outcome) -> Push | Literal["unclear"] | None:
    """Whether an answer says that there is too much at the sink. One that never came because there
    was no connection, or that cannot be read, says neither yes nor no."""
    match answer:
        case Answered(verdicts):
            # An API may let a request through and put off what is in it, one by one.
            later = verdicts.count(DELIVERED) < len(verdicts) and any(map(_is_overload, verdicts))
            return "slow" if later else None
        case Again("timeout"):
            return "timeout"
        case Again("throttled" | "status", outage=False):
            return "slow"
        case Again():
            return "unclear"
    return None


def _is_overload(verdict: Verdict) -> bool:
    status = verdict.status
    return _is_later(verdict) and (status == TOO_MANY_REQUESTS or status[:1] == "5")


def _is_later(verdict: Verdict) -> bool:
    return verdict.fate is Fate.RETRY


def _by_topic(records: Sequence[Record], batch: Batch) -> Counter[str]:
    if batch.topic is not None:
        return Counter({batch.topic: len(records)})
    return Counter(r.topic for r in records)

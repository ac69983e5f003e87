"""Budgets: how many requests, records, bytes and tokens may go out in a second, minute, hour, day;
and what the API says about its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Annotated, Literal, NamedTuple, TypeAlias, get_args

from msgspec import Meta

from .batch import Batch
from .feedback import Allowance, Feedback
from .identity import tokens_of
from .sliding import LONGEST_PAUSE, PERIODS, Budget, Use, What
from .tokens import TokenCounter
from .units import Settings, Size

# Less than this many seconds is no wait: a clock may not even move by it.
SOON = 1e-6

# Seconds for which an allowance holds of which the API does not say how long it does.
UNTOLD_RESET = 1.0

# So many times the smallest limit of tokens is the most that a request counts for. No API takes one
# above its limit at all, and what a producer, or an answer, says may be any number.
MOST_TOKENS = 2

# What a wait is put down to that the API asks for.
SERVER = "server"

Count: TypeAlias = Annotated[int, Meta(ge=1)]


class BudgetSettings(Settings, frozen=True):
    """The part of [limits] that is about what goes out in a time."""

    requests_per_second: Count | None = None
    requests_per_minute: Count | None = None
    requests_per_hour: Count | None = None
    requests_per_day: Count | None = None
    records_per_second: Count | None = None
    records_per_minute: Count | None = None
    records_per_hour: Count | None = None
    records_per_day: Count | None = None
    bytes_per_second: Size | None = None
    bytes_per_minute: Size | None = None
    bytes_per_hour: Size | None = None
    bytes_per_day: Size | None = None
    tokens_per_second: Count | None = None
    tokens_per_minute: Count | None = None
    tokens_per_hour: Count | None = None
    tokens_per_day: Count | None = None
    tokens: str | None = None
    burst: Annotated[float, Meta(gt=0, le=1)] = 0.03
    share: Literal["member", "group"] = "member"

    def __post_init__(self) -> None:
        if self.tokens is not None:
            try:
                tokens_of(self.tokens)
            except ValueError as error:
                raise ValueError(f"tokens: {error}") from None
        for name, _, limit in self.budgets():
            if limit < 1:
                raise ValueError(f"{name} must be at least 1B")

    def budgets(self) -> Iterator[tuple[str, What, int]]:
        """The name, kind and limit of each that is set."""
        for what in get_args(What):
            for unit in PERIODS:
                name = f"{what}_per_{unit}"
                if (limit := getattr(self, name)) is not None:
                    yield name, what, int(limit)


class Cost(NamedTuple):
    """What one request uses up. Field names are the kinds of budgets."""

    records: int
    bytes: int
    tokens: int
    requests: int = 1


class Wait(NamedTuple):
    """Seconds until something may go out, and the name of what holds it back."""

    seconds: float
    limit: str = ""


NO_WAIT = Wait(0.0)


class _Told:
    """What is left by the API's own account, until its time is over or it says something newer."""

    def __init__(self, allowance: Allowance, open_: float, now: float, longest: float) -> None:
        reset = UNTOLD_RESET if allowance.reset is None else allowance.reset
        # What is under way may not have been counted yet.
        self._left = allowance.remaining - open_
        self._full = max(allowance.remaining, 1.0) if allowance.limit is None else allowance.limit
        used = self._full - allowance.remaining
        self._rate = used / reset if allowance.refills and reset > 0 else 0.0
        self._at = now
        self.until = now + min(reset, longest)

    def wait(self, amount: float, now: float) -> float:
        left = self._left + (now - self._at) * self._rate
        missing = min(amount, self._full) - left
        if missing <= 0 or now >= self.until:
            return 0.0
        over = self.until - now
        return min(over, missing / self._rate) if self._rate else over

    def use(self, amount: float) -> None:
        self._left -= amount


class Ticket(NamedTuple):
    """A request that was let through, and where it was written down."""

    cost: Cost
    uses: Sequence[tuple[Budget, Use]] = ()


class Budgets:
    """All budgets of a pipeline, and what the API says about its own.

    The hot path without any of either is a few comparisons a batch. Tokens are counted record by
    record only where there is a budget of them with a pointer.
    """

    def __init__(self, settings: BudgetSettings, now: float = 0.0) -> None:
        self.settings = settings
        self._fraction = 1.0
        self._budgets: dict[str, Budget] = {}
        self._told: dict[str, _Told] = {}
        self._open = Cost(0, 0, 0, 0)
        self._counter = TokenCounter(None)
        self.adopt(settings, now)

    def adopt(self, settings: BudgetSettings, now: float) -> None:
        """Other limits. What was used under a limit that only changes stays used."""
        former, self._budgets = self._budgets, {}
        shared = settings.share == "group"
        joins = shared and self.settings.share != "group"
        self.settings = settings
        for name, what, limit in settings.budgets():
            budget = former.get(name) or Budget(name, what, limit, settings.burst, now)
            # Of a day's limit a burst would take the better part of an hour to be made up for.
            most = min(settings.burst, LONGEST_PAUSE / budget.period) if shared else settings.burst
            budget.adopt(limit, most, self._part, now)
            if joins or (shared and name not in former):
                budget.start_over()
            self._budgets[name] = budget
        counts = any(budget.what == "tokens" for budget in self)
        pointer = settings.tokens if counts else None
        if pointer != self._counter.pointer:
            self._counter = TokenCounter(pointer)

    def share(self, fraction: float, now: float) -> None:
        """This member's part of what the limits are for the whole group."""
        changed, self._fraction = fraction != self._fraction, fraction
        self.adopt(self.settings, now)
        if self.settings.share == "group" and changed:
            for budget in self:
                budget.start_over()

    @property
    def _part(self) -> float:
        return self._fraction if self.settings.share == "group" else 1.0

    def __iter__(self) -> Iterator[Budget]:
        return iter(self._budgets.values())

    def least(self, what: What) -> float:
        """The smallest limit of this kind, infinite where there is none."""
        return min((b.limit for b in self if b.what == what), default=float("inf"))

    def cost(self, batch: Batch, tokens: int | None = None) -> Cost:
        """`tokens` is an estimate that knows more than the size of the values; what records say of
        themselves goes before it."""
        if tokens is None or self._counter.pointer is not None:
            tokens = self._counter.of(batch.records, batch.size)
        return Cost(len(batch), batch.size, self._plausible(tokens))

    def _plausible(self, tokens: int) -> int:
        """What is absurd would hold the line for ever."""
        most = MOST_TOKENS * min((b.whole for b in self if b.what == "tokens"), default=inf)
        return tokens if tokens <= most else int(most)

    def excess(self, cost: Cost) -> str | None:
        """What is wrong with a request that no budget of tokens can ever let through. By the
        group's limit, so that every member and every run cuts a batch in the same way."""
        for budget in self:
            if budget.what == "tokens" and cost.tokens > budget.whole:
                return f"{cost.tokens} tokens, and limits.{budget.name} is {budget.whole:.0f}"
        return None

    def wait(self, cost: Cost, now: float) -> Wait:
        """How long a request of this cost has to wait, if no other one goes before it."""
        longest = NO_WAIT
        for budget in self._budgets.values():
            amount = getattr(cost, budget.what)
            if amount and (seconds := budget.wait(amount, now)) > longest.seconds:
                longest = Wait(seconds, budget.name)
        for what, told in self._told.items():
            if (seconds := told.wait(getattr(cost, what), now)) > longest.seconds:
                longest = Wait(seconds, SERVER)
        return longest if longest.seconds >= SOON else NO_WAIT

    def use(self, cost: Cost, now: float) -> Ticket:
        """A request of this cost goes out."""
        self._add(cost, 1)
        for what in [what for what, told in self._told.items() if told.until <= now]:
            del self._told[what]
        for what, told in self._told.items():
            told.use(getattr(cost, what))
        if not self._budgets:
            return Ticket(cost)
        return Ticket(cost, [(b, b.use(getattr(cost, b.what), now)) for b in self])

    def settle(
        self, ticket: Ticket, feedback: Feedback | None, now: float, longest: float, sent: bool
    ) -> None:
        """It is over. What the API says of its own limits counts for `longest` seconds at most;
        what was never sent costs nothing."""
        self._add(ticket.cost, -1)
        if not sent:
            for budget, use in ticket.uses:
                budget.correct(use, -getattr(ticket.cost, budget.what))
        if feedback is not None and feedback.tokens is not None:
            self._correct(ticket, feedback.tokens)
        self.told(feedback, now, longest)

    def told(self, feedback: Feedback | None, now: float, longest: float) -> None:
        """What the API says of its own limits, to whatever it was asked."""
        for allowance in () if feedback is None else feedback.allowances:
            open_ = getattr(self._open, allowance.what)
            self._told[allowance.what] = _Told(allowance, open_, now, longest)

    def _correct(self, ticket: Ticket, tokens: int) -> None:
        tokens = self._plausible(tokens)
        self._counter.learn(ticket.cost.tokens, tokens)
        for budget, use in ticket.uses:
            if budget.what == "tokens":
                budget.correct(use, tokens - ticket.cost.tokens)

    def _add(self, cost: Cost, sign: int) -> None:
        o = self._open
        self._open = Cost(
            o.records + sign * cost.records,
            o.bytes + sign * cost.bytes,
            o.tokens + sign * cost.tokens,
            o.requests + sign * cost.requests,
        )

"""What `[limits]` and the API's own account let through, by the daemon's own gate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from math import inf
from typing import NamedTuple

import anyio

from ...attempts import LOOK_AGAIN
from ...batch import Batch
from ...budgets import Budgets, BudgetSettings, Ticket, Wait
from ...gate import Gate, LimitSettings
from ...outcome import Again, Outcome, TooLarge
from ...sliding import PERIODS, Budget


class Ceiling(NamedTuple):
    """The most records a second that limits let through, and the name of the lowest one."""

    rate: float
    limit: str = ""


class Each(NamedTuple):
    """What one record uses up, on the average. Field names are the kinds of budgets."""

    records: float
    bytes: float
    tokens: float

    @classmethod
    def of(cls, settings: BudgetSettings, batch: Batch) -> Each:
        """As the budgets count this batch."""
        cost = Budgets(settings).cost(batch)
        return cls(1.0, cost.bytes / len(batch), cost.tokens / len(batch))


class Allowed:
    """Lets requests through one after the other, each when it may go. `longest` is for how long the
    API may hold them by its own account, in seconds, and `held` for how long what has held them."""

    def __init__(self, settings: LimitSettings, each: Each, *, longest: float) -> None:
        self._gate = Gate(settings, anyio.current_time())
        self._each = each
        self._longest = longest
        self._turn = anyio.Lock(fast_acquire=True)
        self.held: defaultdict[str, float] = defaultdict(float)

    async def admitted(self, batch: Batch, over: Callable[[Wait], bool]) -> Ticket | None:
        """Once a request with this batch may go; None where by then it is `over`, which is told
        how long is still to be waited. `settle` must follow a ticket."""
        cost = self._gate.cost(batch)
        async with self._turn:
            while True:
                wait = self._gate.wait(cost, began := anyio.current_time())
                if over(wait):
                    return None
                if not wait.seconds:
                    return self._gate.use(cost, began)
                await anyio.sleep(min(wait.seconds, LOOK_AGAIN))
                self.held[wait.limit] += anyio.current_time() - began

    def settle(self, ticket: Ticket, outcome: Outcome) -> None:
        """What the API has said counts for the requests to come."""
        now = anyio.current_time()
        sent = not isinstance(outcome, TooLarge) or outcome.sent
        self._gate.settle(ticket, outcome.feedback, now, self._longest, sent=sent)
        if isinstance(outcome, Again) and outcome.after:
            self._gate.hold(now + min(outcome.after, self._longest))

    def ceiling(self, size: int) -> Ceiling:
        """With requests of `size` records."""
        return min(
            (Ceiling(_pace(b) * size / self._amount(b, size), b.name) for b in self._counting),
            default=Ceiling(inf),
        )

    def needed(self, size: int, requests: int) -> Wait:
        """How long limits take to let so many requests of `size` records through, from nothing."""
        found = (Wait(self._amount(b, size) * requests / _pace(b), b.name) for b in self._counting)
        return max(found, default=Wait(0.0))

    @property
    def largest(self) -> float:
        """The most records of a request that fit into every limit; at least one."""
        fitting = (b.limit // self._amount(b, 1) for b in self._counting if b.what != "requests")
        return max(1.0, min(fitting, default=inf))

    @property
    def _counting(self) -> list[Budget]:
        return [b for b in self._gate.budgets if self._amount(b, 1)]

    def _amount(self, budget: Budget, size: int) -> float:
        if budget.what == "requests":
            return 1.0
        each: float = getattr(self._each, budget.what)
        return each * size


def _pace(budget: Budget) -> float:
    """Of what it limits, in a second."""
    return budget.limit / PERIODS[budget.name.rpartition("_")[2]]

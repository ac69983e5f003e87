"""What jobs are likely to cost, and what they have cost: counted by model, and told in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal

import anyio
import structlog

from .metrics import Basis, Metrics
from .prices import Prices, Usage, added, known_as, total
from .record import Record

log = structlog.get_logger("sluiced.spending")

# The name under which all models are counted that the configuration does not name.
OTHER = "other"
PAGE = 1000  # records that are looked at between two turns of the other tasks
# Models without a price that are remembered, so as not to be told of again.
REMEMBERED = 100


class Spending:
    """`model` is that of all requests, where the configuration says so. It and those with a price
    are counted by name, and no others, so that no record can make up a name of its own.

    `expects` says what requests for these records are likely to take.
    """

    def __init__(
        self,
        prices: Prices,
        metrics: Metrics,
        model: str = "",
        expects: Callable[[Sequence[Record]], Iterable[Usage]] = lambda records: (),
    ) -> None:
        self._expects = expects
        self._prices = prices
        self._metrics = metrics
        self._model = model
        self._models = [*prices.models, *([model] if model and model not in prices.models else [])]
        self._without: set[str] = set()
        metrics.models((*self._models, OTHER), priced=bool(prices))

    def cost(self, usages: Iterable[Usage]) -> Decimal | None:
        """Of what has a price; None if nothing has."""
        return total(self._prices, map(self._named, usages))

    async def estimate(self, records: Sequence[Record]) -> list[Usage]:
        """What they are likely to take, by model; other tasks have their turn meanwhile."""
        found: list[Usage] = []
        for start in range(0, len(records), PAGE):
            found = added([*found, *self._expects(records[start : start + PAGE])])
            await anyio.lowlevel.checkpoint()
        return found

    def expected(self, usages: Iterable[Usage]) -> dict[str, int | str]:
        """These requests were submitted. Returns what the log says of them."""
        return self._counted("estimated", usages)

    def used(self, usages: Iterable[Usage]) -> dict[str, int | str]:
        """These requests were answered. Returns what the log says of them."""
        return self._counted("reported", map(self._named, usages))

    def _named(self, usage: Usage) -> Usage:
        """Answers that are images do not say which model has made them."""
        return usage if usage.model else replace(usage, model=self._model)

    def _counted(self, basis: Basis, usages: Iterable[Usage]) -> dict[str, int | str]:
        usages = list(usages)
        for usage in usages:
            cost = self._prices.cost(usage)
            if cost is None and usage.model:
                self._unpriced(usage.model)
            label = known_as(usage.model, self._models) or OTHER
            self._metrics.spent(label, basis, usage.input, usage.output, float(cost or 0))
        if not usages:
            return {}
        return said(usages, total(self._prices, usages))

    def _unpriced(self, model: str) -> None:
        model = model[:80]  # a record may call it anything
        if not self._prices or model in self._without or len(self._without) >= REMEMBERED:
            return
        self._without.add(model)
        log.warning(
            "model_without_price",
            model=model,
            hint="Its tokens are counted, and its cost is not. Add it to [prices].",
        )


def said(usages: Iterable[Usage], cost: Decimal | None) -> dict[str, int | str]:
    """As fields of a log line."""
    usages = list(usages)
    fields: dict[str, int | str] = {
        "input_tokens": sum(usage.input for usage in usages),
        "output_tokens": sum(usage.output for usage in usages),
    }
    return fields if cost is None else {**fields, "cost": money(cost)}


def money(amount: Decimal) -> str:
    """To the millionth, and with as few zeros behind it as can be: "12.50", "0.000123"."""
    text = f"{amount:.6f}".rstrip("0")
    whole, _, part = text.partition(".")
    return f"{whole}.{part:0<2}"

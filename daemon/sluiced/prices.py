"""What tokens cost, by the table in the configuration: exact, in the currency of that table."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from .units import Settings

PER = Decimal(1_000_000)  # tokens that a price is for

# The provider says which version has answered: gpt-4.1-mini-2025-04-14 is a gpt-4.1-mini.
_VERSION = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2}|\d{4})", re.ASCII)


class Price(Decimal):
    """An amount of money as it is written: 0.1 is a tenth, and not the float next to it."""

    @classmethod
    def parse(cls, amount: object) -> Price:
        text = str(amount) if isinstance(amount, int | float | str) else ""
        try:
            price = cls(text)
        except InvalidOperation:
            price = cls("NaN")
        if not price.is_finite() or price < 0:
            raise ValueError('expected an amount of money such as 0.2 or "0.2", not below 0')
        return price


class PriceSettings(Settings, frozen=True):
    """[prices.MODEL]: what a job is charged for a million tokens that go in, and that come out,
    and for each request besides."""

    input: Price = Price(0)
    output: Price = Price(0)
    request: Price = Price(0)


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests to a model, and the tokens that go in and come out of it.

    Of estimates, `open` is how many requests set no bound to what comes out; it is not in `output`.
    """

    model: str
    requests: int = 0
    input: int = 0
    output: int = 0
    open: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Of the same model."""
        return Usage(
            self.model,
            self.requests + other.requests,
            self.input + other.input,
            self.output + other.output,
            self.open + other.open,
        )


class Prices:
    """The table."""

    def __init__(self, table: Mapping[str, PriceSettings]) -> None:
        self._table = table

    def __bool__(self) -> bool:
        return bool(self._table)

    @property
    def models(self) -> list[str]:
        return list(self._table)

    def cost(self, usage: Usage) -> Decimal | None:
        """None for a model that is not in the table."""
        if (name := known_as(usage.model, self._table)) is None:
            return None
        price = self._table[name]
        tokens = usage.input * price.input + usage.output * price.output
        return tokens / PER + usage.requests * price.request


def added(usages: Iterable[Usage]) -> list[Usage]:
    """One for each model."""
    sums: dict[str, Usage] = {}
    for usage in usages:
        sums[usage.model] = sums.get(usage.model, Usage(usage.model)) + usage
    return list(sums.values())


def known_as(model: str, names: Collection[str]) -> str | None:
    """Which of these names is a model's: its own, or that without the date of its version."""
    if model in names:
        return model
    for name in names:
        if model.startswith(name) and _VERSION.fullmatch(model[len(name) :]):
            return name
    return None


def total(prices: Prices, usages: Iterable[Usage]) -> Decimal | None:
    """Of what has a price; None if nothing has."""
    costs = [cost for usage in usages if (cost := prices.cost(usage)) is not None]
    return sum(costs, Decimal(0)) if costs else None

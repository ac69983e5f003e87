"""What requests are likely to take, and what that costs: exact, and known before it is spent."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluiced.prices import Price, Prices, PriceSettings, Usage, known_as, total
from sluiced.sinks import estimate
from sluiced.spending import money
from sluiced.units import decode

CHAT = "/v1/chat/completions"


def table(**models: Any) -> Prices:
    kind = dict[str, PriceSettings]
    return Prices(msgspec.convert(models, kind, dec_hook=decode))


def test_a_price_is_what_is_written_and_not_the_float_next_to_it() -> None:
    prices = table(m={"input": 0.1, "output": "0.4", "request": 1})
    assert prices.cost(Usage("m", 0, 3, 0)) == Decimal("0.0000003")
    assert prices.cost(Usage("m", 2, 1_000_000, 500_000)) == Decimal("2.3")


@given(st.lists(st.integers(0, 10**9), max_size=20))
def test_what_parts_cost_is_what_the_whole_costs(tokens: list[int]) -> None:
    prices = table(m={"input": 0.07})
    parts = [Usage("m", 1, n) for n in tokens]
    whole = prices.cost(Usage("m", len(tokens), sum(tokens)))
    assert (total(prices, parts) or 0) == whole


@pytest.mark.parametrize("amount", ["a lot", -1, True, float("inf"), "nan", None, [1]])
def test_what_is_no_amount_of_money_is_refused(amount: Any) -> None:
    with pytest.raises(ValueError, match="expected an amount of money"):
        Price.parse(amount)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4.1-mini", "gpt-4.1-mini"),
        ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("gpt-4-0613", "gpt-4"),
        ("gpt-4.1-nano", None),
        ("gpt-4-turbo", None),
        ("claude-haiku-4-5-large", None),
        ("gpt-4-5", None),
        ("gpt-4-0613-preview", None),
        ("", None),
    ],
)
def test_a_model_is_known_by_its_name_or_by_a_dated_version(
    model: str, expected: str | None
) -> None:
    assert known_as(model, ["gpt-4", "gpt-4.1-mini", "claude-haiku-4-5"]) == expected


def test_a_model_without_a_price_costs_nothing_that_is_known() -> None:
    prices = table(m={"input": 1})
    assert prices.cost(Usage("other", 1, 5)) is None
    assert total(prices, [Usage("other", 1, 5)]) is None
    assert total(prices, [Usage("other", 1, 5), Usage("m", 1, 5)]) == Decimal("0.000005")
    assert total(table(), [Usage("m", 1, 5)]) is None


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0.00"),
        ("12.5", "12.50"),
        ("0.000123", "0.000123"),
        ("0.0000004", "0.00"),
        ("7", "7.00"),
    ],
)
def test_money_is_shown_to_the_millionth(amount: str, text: str) -> None:
    assert money(Decimal(amount)) == text


# Estimates


def of(body: dict[str, Any], endpoint: str = CHAT) -> Usage:
    return estimate.of(json.dumps(body, separators=(",", ":")).encode(), endpoint)


def test_every_four_bytes_that_a_model_reads_are_a_token() -> None:
    assert of({"model": "m", "input": "x" * 38, "max_output_tokens": 5}) == Usage("m", 1, 10, 5)
    assert of({"model": "m", "metadata": "x" * 400, "max_tokens": 5}) == Usage("m", 1, 0, 5)
    parts = ("messages", "input", "prompt", "system", "instructions", "tools", "response_format")
    for name in parts:
        assert of({name: "x" * 38}).input == 10, name


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_what_comes_out_is_what_the_body_allows_at_most(name: str) -> None:
    assert of({"model": "m", name: 70}) == Usage("m", 1, 0, 70)
    assert of({"model": "m", name: 70, "n": 3}) == Usage("m", 1, 0, 210)


def test_without_a_bound_nothing_is_said_of_what_comes_out() -> None:
    assert of({"model": "m"}) == Usage("m", 1, 0, 0, open=1)
    assert of({"model": "m", "input": ""}, "/v1/embeddings") == Usage("m", 1, 1, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"model":5,"messages":[1,2]}',
        b'{"max_tokens":"many"}',
        b'{"input":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    ],
    ids=["a list", "a wrong model", "a wrong bound", "nested deeply"],
)
def test_a_body_that_makes_no_sense_counts_as_text(body: bytes) -> None:
    assert estimate.of(body, CHAT) == Usage("", 1, -(-len(body) // 4), 0, open=1)


@pytest.mark.parametrize("most", [-1, 2**53, 10**400], ids=["less", "more", "much more"])
def test_a_bound_that_no_answer_can_have_is_none(most: int) -> None:
    found = of({"model": "m", "max_tokens": most, "messages": []})
    assert (found.output, found.open) == (0, 1)


def test_requests_are_added_up_by_model() -> None:
    bodies = [b'{"model":"%b","max_tokens":3,"input":"xx"}' % m for m in (b"a", b"b", b"a")]
    assert estimate.of_all(bodies, CHAT) == [Usage("a", 2, 2, 6), Usage("b", 1, 1, 3)]

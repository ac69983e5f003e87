"""Which dead letters the daemon sends back by itself, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeRecord
from sluiced.redrive.due import OLDEST, Due
from sluiced.redrive.letter import Letter, parse
from strategies import steady

DIED = datetime(2026, 3, 1, 12, tzinfo=UTC)
AFTER = timedelta(minutes=15)
RULE = Due("pages-to-cms", frozenset({"pages", "posts"}), AFTER, max_redrives=3)


def letter(**changes: str | None) -> Letter:
    """One of ours that is due after a quarter of an hour; None takes a header away."""
    headers: dict[str, str | None] = {
        "__connect.errors.topic": "pages",
        "__connect.errors.partition": "1",
        "__connect.errors.offset": "7",
        "sluiced.reason": "rejected",
        "sluiced.group": "pages-to-cms",
        "sluiced.failed_at": DIED.isoformat(),
        "sluiced.redrives": "2",
    }
    for name, text in changes.items():
        key = f"sluiced.{name}" if f"sluiced.{name}" in headers else f"__connect.errors.{name}"
        headers[key] = text
    kept = [(name, text.encode()) for name, text in headers.items() if text is not None]
    return parse(FakeRecord("pages.dead", headers=kept))


@pytest.mark.parametrize(
    ("age", "verdict"),
    [
        (timedelta(0), "later"),
        (AFTER - timedelta(milliseconds=1), "later"),
        (AFTER, "now"),
        (OLDEST, "now"),
        (OLDEST + timedelta(milliseconds=1), "never"),
        (timedelta(hours=-1), "later"),  # another daemon's clock is ahead
    ],
)
def test_a_letter_is_due_from_its_time_until_it_may_have_been_forgotten(
    age: timedelta, verdict: str
) -> None:
    assert RULE.verdict(letter(), DIED + age) == verdict


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "now"),
        ({"reason": "exhausted"}, "now"),
        ({"topic": "posts"}, "now"),
        ({"redrives": None}, "now"),
        ({"reason": "invalid"}, "never"),
        ({"reason": "too_large"}, "never"),
        ({"reason": "something new"}, "never"),
        ({"redrives": "3"}, "never"),
        ({"redrives": "4"}, "never"),
        ({"group": "another"}, "never"),
        ({"group": None}, "never"),
        ({"topic": "another"}, "never"),
        ({"offset": None}, "never"),
        ({"reason": None}, "never"),  # not written by sluiced
    ],
)
def test_only_what_may_be_taken_another_time_and_has_not_been_sent_too_often_goes_back(
    changes: dict[str, str | None], verdict: str
) -> None:
    assert RULE.verdict(letter(**changes), DIED + AFTER) == verdict


def test_a_letter_that_is_never_due_does_not_make_others_wait() -> None:
    """Also before its time: whoever reads the topic waits at what is due later."""
    assert RULE.verdict(letter(reason="invalid"), DIED) == "never"


@steady
@given(st.lists(st.integers(0, 10 * 86_400), min_size=1).map(sorted))
def test_a_letter_is_first_not_due_then_due_and_then_left(seconds: list[int]) -> None:
    verdicts = [RULE.verdict(letter(), DIED + timedelta(seconds=s)) for s in seconds]
    order = ["later", "now", "never"]
    assert verdicts == sorted(verdicts, key=order.index)

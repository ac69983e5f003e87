from __future__ import annotations

import pytest

from fakes import P0, P1
from sluiced.freshness import Freshness


def test_nothing_is_known_before_anything_is_committed() -> None:
    fresh = Freshness()
    fresh.settled(P0, 9, 1000)
    assert fresh.until(P0) is None


def test_what_is_settled_counts_once_everything_before_it_is() -> None:
    fresh = Freshness()
    fresh.settled(P0, 19, 2000)
    fresh.advance(P0, 19)
    assert fresh.until(P0) is None
    fresh.settled(P0, 9, 1000)
    fresh.advance(P0, 19)
    assert fresh.until(P0) == 1000
    fresh.advance(P0, 20)
    assert fresh.until(P0) == 2000


def test_a_producer_whose_clock_runs_backwards_does_not_take_it_back() -> None:
    fresh = Freshness()
    fresh.settled(P0, 9, 2000)
    fresh.settled(P0, 19, 1000)
    fresh.advance(P0, 20)
    assert fresh.until(P0) == 2000


@pytest.mark.parametrize("timestamp", [-1, 10**18, 2**63 - 1, 1_700_000_000_000_000])
def test_a_timestamp_that_is_no_time_says_nothing(timestamp: int) -> None:
    fresh = Freshness()
    fresh.settled(P0, 9, 1000)
    fresh.settled(P0, 19, timestamp)
    fresh.advance(P0, 20)
    assert fresh.until(P0) == 1000


def test_partitions_are_apart_and_a_revoked_one_is_forgotten() -> None:
    fresh = Freshness()
    for tp, time in ((P0, 1000), (P1, 2000)):
        fresh.settled(tp, 9, time)
        fresh.advance(tp, 10)
    fresh.settled(P0, 19, 5000)
    fresh.forget([P0])
    fresh.advance(P0, 20)
    assert (fresh.until(P0), fresh.until(P1)) == (None, 2000)

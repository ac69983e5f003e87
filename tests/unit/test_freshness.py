from __future__ import annotations

import pytest

from fakes import P0, P1
from sluiced.freshness import Freshness, Pace


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


def test_what_is_settled_behind_a_batch_that_is_stuck_does_not_pile_up() -> None:
    fresh = Freshness()
    for n in range(1, 20_000):
        fresh.settled(P0, 10 * n + 9, n)
    assert len(fresh._pending[P0]) <= 1000
    for n in (0, 1, 500, 19_998):
        fresh.advance(P0, 10 * n + 10)
        assert (fresh.until(P0) or 0) <= n, "nothing is said to be visible that is not"
    fresh.advance(P0, 200_000)
    assert fresh.until(P0) == 19_999


def test_partitions_are_apart_and_a_revoked_one_is_forgotten() -> None:
    fresh = Freshness()
    for tp, time in ((P0, 1000), (P1, 2000)):
        fresh.settled(tp, 9, time)
        fresh.advance(tp, 10)
    fresh.settled(P0, 19, 5000)
    fresh.forget([P0])
    fresh.advance(P0, 20)
    assert (fresh.until(P0), fresh.until(P1)) == (None, 2000)


# --- how long it takes ----------------------------------------------------------------------------


def pace(*looks: tuple[float, int, int]) -> Pace:
    """Looks at one partition: the time, the end of its log and its checkpoint."""
    made = Pace()
    for now, end, checkpoint in looks:
        made.look(now, {P0: end}, {P0: checkpoint})
    return made


def test_nothing_waits_is_caught_up_also_before_any_rate_is_known() -> None:
    assert pace().catch_up(0) == 0
    assert pace((0, 10, 0)).rates() is None
    assert pace((0, 10, 0)).catch_up(10) is None


def test_the_backlog_shrinks_by_what_is_done_less_what_is_written() -> None:
    made = pace((0, 1000, 0), (10, 1020, 100))
    assert made.rates() == (2.0, 10.0)
    assert made.catch_up(80) == 10


@pytest.mark.parametrize("done", [0, 10, 20])
def test_who_does_no_more_than_is_written_never_catches_up(done: int) -> None:
    assert pace((0, 1000, 0), (10, 1020, done)).catch_up(100) is None


def test_only_the_last_minute_counts() -> None:
    looks = [(t, 1000, 10 * t if t <= 60 else 600 + (t - 60)) for t in range(0, 121, 5)]
    assert pace(*looks).rates() == (0.0, 1.0)


def test_rates_of_all_partitions_are_summed() -> None:
    made = Pace()
    made.look(0, {P0: 10, P1: 10}, {P0: 0, P1: 0})
    made.look(5, {P0: 20, P1: 10}, {P0: 10, P1: 5})
    assert made.rates() == (2.0, 3.0)


def test_another_assignment_begins_anew() -> None:
    made = pace((0, 1000, 0), (10, 1020, 100))
    made.look(15, {P1: 1000}, {P1: 0})
    assert made.rates() is None
    made = pace((0, 1000, 0), (10, 1020, 100))
    made.forget()
    assert made.rates() is None

"""The storm: what was ordered, all of it, and the same again from the same seed."""

from __future__ import annotations

from collections import Counter
from random import Random

from brokers.base import Message

from .records import Kind, kind_of, message
from .schedule import ALL_FAULTS, Storm, schedule

STORM = Storm(
    seconds=100, kills=7, freezes=2, restarts=3, joins=2, broker_kills=1, faults=ALL_FAULTS
)


def test_everything_ordered_is_done_once_and_in_order_of_time() -> None:
    blows = schedule(STORM, seed=1)
    deeds = Counter(blow.deed for blow in blows)
    assert deeds == {
        "kill": 7,
        "freeze": 2,
        "restart": 3,
        "join": 2,
        "leave": 2,
        "kill broker": 1,
        "network": ALL_FAULTS,
    }
    assert [blow.at for blow in blows] == sorted(blow.at for blow in blows)
    assert blows[0].at >= 0
    assert blows[-1].at < STORM.seconds
    assert [blow.deed for blow in blows if blow.deed in ("join", "leave")] == [
        *("join", "leave", "leave", "join")
    ]


def test_every_fault_comes_once_on_either_side_and_the_first_half_has_every_kind() -> None:
    faults = [(b.side, b.fault.kind) for b in schedule(STORM, seed=2) if b.fault]
    assert len(set(faults)) == ALL_FAULTS
    assert len({kind for _, kind in faults[: ALL_FAULTS // 2]}) == ALL_FAULTS // 2


def test_a_frozen_member_sleeps_past_its_session() -> None:
    sleeps = [blow.lasts for blow in schedule(STORM, seed=3) if blow.deed == "freeze"]
    assert all(sleep > 6 for sleep in sleeps)


def test_the_same_seed_is_the_same_storm_and_another_is_not() -> None:
    assert schedule(STORM, seed=4) == schedule(STORM, seed=4)
    assert schedule(STORM, seed=4) != schedule(STORM, seed=5)


def test_records_are_of_every_kind_and_can_be_told_apart_from_their_values() -> None:
    random = Random(0)
    made = [message(number, 6, random) for number in range(5000)]
    kinds = Counter(kind_of(m.value) for m in made)
    assert set(kinds) == set(Kind) - {Kind.REFUSED_LINE}  # of prompts alone
    assert kinds[Kind.GOOD] > 0.97 * len(made)
    assert {m.partition for m in made} == set(range(6))
    assert isinstance(made[0], Message)
    assert [m.key for m in made[:2]] == [b"0", b"1"]

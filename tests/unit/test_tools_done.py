"""What has been redriven is remembered exactly, and in little room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluiced.redrive.done import LONGEST, Done
from strategies import steady

pieces = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), max_size=20)


@steady
@given(prefix=st.integers(0, 40), pieces=pieces)
def test_it_knows_what_was_added_and_nothing_else(
    prefix: int, pieces: list[tuple[int, int]]
) -> None:
    done, known = Done(prefix), set(range(prefix))
    for first, length in pieces:
        done.add(first, first + length - 1)
        known |= set(range(first, first + length))
    assert {offset for offset in range(80) if offset in done} == known
    assert done.prefix == min(set(range(80)) - known), "the prefix is as long as it can be"
    flat = [bound for each in done.ranges for bound in each]
    assert all(b > a + 1 for a, b in zip(flat[1::2], flat[2::2], strict=False))
    assert done.end == max(known, default=-1) + 1
    assert Done.of(done.prefix, done.metadata()) == done


def test_metadata_is_never_empty_so_that_one_sees_whether_it_is_kept() -> None:
    assert Done(7).metadata() == "sluiced-redrive1:"
    assert Done.of(7, "") == Done(7)


def test_a_copy_is_one_of_its_own() -> None:
    done = Done(0, [(5, 6)])
    done.copy().add(8, 9)
    assert done == Done(0, [(5, 6)])


def test_every_other_letter_of_a_hundred_thousand_fits_into_the_metadata() -> None:
    done = Done(0, [(n, n) for n in range(1, 100_000, 2)])
    assert len(done.metadata()) < LONGEST


@pytest.mark.parametrize(
    "foreign", ["x", "sluiced1:abc", "sluiced-redrive1:!", "sluiced-redrive1:AAAA"]
)
def test_metadata_of_others_is_refused(foreign: str) -> None:
    with pytest.raises(ValueError, match=r"^it (was|is)"):
        Done.of(0, foreign)

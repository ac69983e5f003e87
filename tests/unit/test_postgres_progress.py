"""How far a partition is, held against a set of offsets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluiced.sinks.postgres.progress import Progress

OFFSETS = range(40)
ranges = st.tuples(st.integers(0, 39), st.integers(0, 6)).map(lambda r: (r[0], min(39, sum(r))))
steps = st.lists(st.one_of(st.integers(0, 40), st.lists(ranges, max_size=3)), max_size=12)


def after(taken: list[int | list[tuple[int, int]]]) -> tuple[Progress, set[int]]:
    """What the steps make of nothing, and the same as a set."""
    progress, done = Progress(0), set[int]()
    for step in taken:
        if isinstance(step, int):
            progress = progress.advanced(step)
            done |= set(range(step))
        else:
            progress = progress.with_done(step)
            done |= {n for first, last in step for n in range(first, last + 1)}
    return progress, done


@given(steps)
def test_it_holds_exactly_what_was_done(taken: list[int | list[tuple[int, int]]]) -> None:
    progress, done = after(taken)
    assert {n for n in OFFSETS if progress.holds(n)} == done
    assert progress.position == next(n for n in range(41) if n not in done)
    ends = [progress.position - 1, *(last for _, last in progress.done)]
    assert all(first > end + 1 for end, (first, _) in zip(ends, progress.done, strict=False)), (
        "ranges that touch are one"
    )


@given(steps)
def test_its_text_is_read_back(taken: list[int | list[tuple[int, int]]]) -> None:
    progress, _ = after(taken)
    assert Progress.read(progress.position, progress.text) == progress


@given(steps, steps)
def test_one_includes_another_that_has_nothing_more(
    one: list[int | list[tuple[int, int]]], other: list[int | list[tuple[int, int]]]
) -> None:
    (left, more), (right, less) = after(one), after(other)
    assert left.includes(right) == (less <= more)


def test_the_text_is_for_people_too() -> None:
    assert Progress(3).with_done([(9, 9), (5, 6), (3, 3)]).text == "5-6,9-9"
    assert Progress(3).with_done([(9, 9), (3, 3)]).position == 4


@pytest.mark.parametrize("text", ["x", "1", "1-", "1-2,", "-"])
def test_a_text_that_is_none_of_ours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        Progress.read(0, text)

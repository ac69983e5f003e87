from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeRecord
from sluiced.tokens import TokenCounter


def count(counter: TokenCounter, *values: bytes | None) -> int:
    records = [FakeRecord(value=value) for value in values]
    return counter.of(records, sum(len(v or b"") for v in values))


def test_without_a_pointer_four_bytes_are_a_token() -> None:
    assert count(TokenCounter(None), b"x" * 400, b"y" * 401) == 201


def test_with_a_pointer_a_record_says_itself_how_many_it_takes() -> None:
    assert count(TokenCounter("/max_tokens"), b'{"max_tokens":300}', b'{"max_tokens":1.5}') == 302


@pytest.mark.parametrize(
    "value", [b"{}", b"not JSON", b'{"n":true}', b'{"n":"9"}', b'{"n":-1}', b'{"n":1e300}', b"[1]"]
)
def test_a_record_without_a_number_there_counts_by_its_bytes(value: bytes) -> None:
    assert count(TokenCounter("/n"), value) == -(-len(value) // 4)


def test_a_tombstone_has_no_tokens() -> None:
    assert count(TokenCounter("/n"), None) == 0


def test_what_is_estimated_follows_what_is_reported() -> None:
    counter = TokenCounter(None)
    for _ in range(60):
        estimate = count(counter, b"x" * 4000)
        counter.learn(estimate, 2500)
    assert count(counter, b"x" * 4000) == pytest.approx(2500, rel=0.01)


def test_what_a_record_says_of_itself_is_not_corrected() -> None:
    counter = TokenCounter("/n")
    for _ in range(60):
        counter.learn(100, 10)
    assert count(counter, b'{"n":100}') == 100


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=200))
def test_absurd_reports_keep_an_estimate_within_sixteen_times(
    reports: list[tuple[int, int]],
) -> None:
    counter = TokenCounter(None)
    for estimate, reported in reports:
        counter.learn(estimate, reported)
    assert 1000 / 16 <= count(counter, b"x" * 4000) <= 1000 * 16 + 1

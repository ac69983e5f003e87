"""Answers of which no more becomes objects than pointers ask for."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluiced.identity import resolve
from sluiced.sinks.document import at, document_of, lines_of, opened
from sluiced.sinks.words import UnclearError
from strategies import steady

MIB = 1024**2
NOTHING = b" " * MIB  # before a document: it means the same and is a large one

names = st.sampled_from(["a", "b", "0", "1"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


def thoroughly(value: Any) -> Any:
    """With all that is in it opened."""
    match opened(value):
        case list() as items:
            return [thoroughly(item) for item in items]
        case dict() as fields:
            return {name: thoroughly(field) for name, field in fields.items()}
        case plain:
            return plain


@steady
@given(value=values, pointer=st.lists(names, max_size=3))
def test_a_pointer_finds_the_same_in_a_large_answer_as_in_any_other(
    value: Any, pointer: list[str]
) -> None:
    body = msgspec.json.encode(value)
    found: list[Any] = []
    for document in (document_of(body), document_of(bytearray(NOTHING + body))):
        try:
            found.append(thoroughly(at(document, tuple(pointer))))
        except LookupError:
            found.append(LookupError)
    try:
        expected = resolve(value, tuple(pointer))
    except LookupError:
        expected = LookupError
    assert found == [expected, expected]


def test_what_lies_beside_the_way_of_a_pointer_takes_no_memory() -> None:
    beside = b",".join([b'{"code":200,"field":"title of a page"}'] * 30_000)
    body = b'{"usage":{"total":7},"items":[{"s":200,"why":[%b]}]}' % beside
    tracemalloc.start()
    try:
        document = document_of(body)
        assert at(document, ("usage", "total")) == 7
        assert [at(item, ("s",)) for item in at(document, ("items",))] == [200]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < MIB, "and all of it would be five times as much"


@pytest.mark.parametrize("body", [b"[%b]" % (b"1," * 1_000_000 + b"1"), b"1\n" * 1_000_000])
def test_a_level_of_more_values_than_it_may_take_bytes_is_not_opened(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UnclearError, match="more than 65536"):
            opened(document_of(body)) if body[:1] == b"[" else lines_of(body)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * MIB


def test_commas_further_down_do_not_count_as_values() -> None:
    numbers = b",".join([b"0.5"] * 1536)
    body = b'{"data":[%b]}' % b",".join([b'{"embedding":[%b],"index":0}' % numbers] * 500)
    data = at(document_of(body), ("data",))
    assert len(data) == 500
    assert at(data[499], ("embedding", "1535")) == 0.5


@pytest.mark.parametrize("body", [b'{"a":1,}', b'{"a":[1,2}', b"", b"no", b'{"a":"\xff"}'])
def test_a_large_answer_that_is_no_json_is_unclear_where_it_is_read(body: bytes) -> None:
    with pytest.raises(UnclearError, match="not JSON"):
        at(document_of(NOTHING + body), ("a",))

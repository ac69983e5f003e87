"""A request's body made of a small record and a table of the configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeRecord
from sluiced.sinks.prompt import Prompt


def record(value: bytes | None, key: bytes | None = b"k1", **keys: Any) -> FakeRecord:
    return FakeRecord("prompts", 3, 7, value, key, **keys)


def made(table: dict[str, Any], value: Any, **keys: Any) -> Any:
    raw = value if isinstance(value, bytes | None) else json.dumps(value).encode()
    return json.loads(Prompt(table).body(record(raw, **keys)))


def text(template: str, value: Any, **keys: Any) -> Any:
    return made({"content": template}, value, **keys)["content"]


def objection(template: str, value: Any, **keys: Any) -> str:
    raw = value if isinstance(value, bytes | None) else json.dumps(value).encode()
    found = Prompt({"content": template}).objection(record(raw, **keys))
    assert found is not None
    return found


def test_a_body_is_the_table_with_a_records_texts_in_its_holes() -> None:
    table = {
        "model": "m",
        "max_tokens": 20,
        "temperature": 0.5,
        "store": False,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Tell me of $value/name, in ${value/the country}."},
        ],
    }
    body = Prompt(table).body(record(b'{"name":"Ulm","the country":"Germany"}'))

    assert body == (
        b'{"model":"m","max_tokens":20,"temperature":0.5,"store":false,"messages":['
        b'{"role":"system","content":"Be brief."},'
        b'{"role":"user","content":"Tell me of Ulm, in Germany."}]}'
    )


@given(st.text(), st.text())
def test_a_text_comes_through_whatever_it_holds_and_changes_only_its_own_place(
    name: str, other: str
) -> None:
    table = {"content": '"$value/name"\n$value/other$$', "last": "$value/name"}
    value = {"name": name, "other": other}
    whole = f'"{name}"\n{other}$'
    assert made(table, value) == {"content": whole, "last": name}
    raw = json.dumps(value, ensure_ascii=False).encode()
    assert made(table, raw) == {"content": whole, "last": name}


@pytest.mark.parametrize(
    ("template", "value", "expected"),
    [
        ("$value", "hello", "hello"),
        ("$value", b' {"a": 1.50}\n', '{"a": 1.50}'),
        ("$value/a", b'{"a": 12345678901234567890123}', "12345678901234567890123"),
        ("$value/a", {"a": True}, "true"),
        ("$value/a", b'{"a": [1,  "x"]}', '[1,  "x"]'),
        ("$value/a/1/b", {"a": [0, {"b": "deep"}]}, "deep"),
        ("$value/a.", {"a": "x"}, "x."),
        ("$value/a-b", {"a": "x"}, "x-b"),
        ("${value/a-b}", {"a-b": "x"}, "x"),
        ("${value/}", {"": "x"}, "x"),
        ("$value/a~1b~0", {"a/b~": "x"}, "x"),
        ("$topic/$partition/$offset at $timestamp", "", "prompts/3/7 at 5"),
        ("$topic/x", "", "prompts/x"),
        ("$key: $header.lang", "", "k1: de"),
        ("${key}s", "", "k1s"),
        ("5 $$ of $$value", "", "5 $ of $value"),
    ],
)
def test_a_placeholder_becomes(template: str, value: Any, expected: str) -> None:
    headers = [("lang", b"en"), ("lang", b"de")]
    assert text(template, value, headers=headers, timestamp=5) == expected


@pytest.mark.parametrize("value", [b'["a", "b"]', b"12.50", b"null", b'{"x":"$key"}', b'"\\u00e9"'])
def test_json_goes_in_as_it_is_written(value: bytes) -> None:
    assert Prompt({"a": "$json"}).body(record(value)) == b'{"a":' + value + b"}"
    assert Prompt({"a": "$json/b"}).body(record(b'{"b":' + value + b"}")) == b'{"a":' + value + b"}"


@pytest.mark.parametrize(
    ("template", "value", "expected"),
    [
        ("$value/a/b", {"a": {}}, "the value has nothing at /a/b, and sink.prompt needs it"),
        ("$value/a/b", {"a": "text"}, "the value has nothing at /a/b, and sink.prompt needs it"),
        ("$json/a/2", {"a": [0, 1]}, "the value has nothing at /a/2, and sink.prompt needs it"),
        ("$value/a", {"a": None}, "the value has null at /a, where sink.prompt needs a text"),
        (
            "$value",
            None,
            "a tombstone is no prompt; set [record] on_tombstone to skip or dead-letter",
        ),
    ],
)
def test_a_record_without_what_is_asked_for_is_told_so_by_its_pointer(
    template: str, value: Any, expected: str
) -> None:
    assert objection(template, value) == expected
    assert objection(f"x{template}" if "json" not in template else template, value) == expected


@pytest.mark.parametrize("lone", [b'"\\ud800"', b'"\\ud800x"', b'"\\udc00 and more"'])
def test_half_a_surrogate_pair_is_no_text(lone: bytes) -> None:
    assert objection("$value/a", b'{"a":' + lone + b"}").startswith("the ")
    assert "/a" in objection("$value/a", b'{"a":' + lone + b"}")


def test_a_key_or_header_must_be_there_and_be_utf_8() -> None:
    assert objection("$key", "", key=None) == "the record has no key, and sink.prompt holds $key"
    assert "the key is not UTF-8 at byte 1" in objection("$key", "", key=b"a\xff")
    assert objection("$header.lang", "") == (
        "the record has no header lang, and sink.prompt holds $header.lang"
    )
    assert "not UTF-8" in objection("$header.lang", "", headers=[("lang", b"\xed\xa0\x80")])


def test_a_text_that_is_no_json_is_put_in_whole() -> None:
    prompt = Prompt({"input": "Q: $value"}, json=False)
    assert json.loads(prompt.body(record('say "é"\n'.encode()))) == {"input": 'Q: say "é"\n'}
    with pytest.raises(ValueError, match=r'input: \$value/a needs \[record\] format = "json"'):
        Prompt({"input": "$value/a"}, json=False)
    with pytest.raises(ValueError, match=r'\$json needs \[record\] format = "json"'):
        Prompt({"input": "$json"}, json=False)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"messages": [{"content": "$name"}]}, r"messages\[0\]\.content: there is no placeholder"),
        ({"a": "costs 5$"}, r'a: a dollar sign stands alone; .* "\$\$" for a dollar sign'),
        ({"a": "$header."}, r"no placeholder \$header"),
        ({"a": "${key/x}"}, "only value and json take a pointer"),
        ({"a": "${value"}, "a dollar sign stands alone"),
        ({"a": "all of $json/x"}, r"a: \$json stands for a whole JSON value"),
        ({"a": "$json/x$json/y"}, r"\$json stands for a whole JSON value"),
        ({"a": {"b": float("nan")}}, r"a\.b: nan cannot be written as JSON"),
        ({"a": float("inf")}, "a: inf cannot"),
    ],
)
def test_a_table_that_makes_no_body_is_refused_by_its_place(table: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Prompt(table)


def test_a_date_is_put_in_quotes_or_refused() -> None:
    import tomllib

    with pytest.raises(ValueError, match=r"day: 2026-01-02 cannot be written as JSON; put it in q"):
        Prompt(tomllib.loads("day = 2026-01-02"))

from __future__ import annotations

import json
import time
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.api import batch_of, http_settings
from fakes import FakeRecord
from sluiced.identity import COORDINATES, identity
from sluiced.intake import Format
from sluiced.record import Record
from sluiced.sinks.http import HttpSink
from strategies import steady

EVERYTHING = (
    '{"v":$value,"s":$value_string,"b":$value_base64,"k":$key,"i":$id,"t":$topic,'
    '"p":$partition,"o":$offset,"ts":$timestamp,"h":$header.trace,"%d%":"100%"}'
)
LINES = {"separator": "\n", "envelope": "$items\n"}


def sink(format: Format = "json", id: str = COORDINATES, **keys: Any) -> HttpSink:  # noqa: A002
    return HttpSink(http_settings(**keys), "pages", identity(id), format=format)


def encoded(records: list[Record], **options: Any) -> bytes:
    return sink(**options).encode(batch_of(records))


def test_the_values_go_in_as_they_are() -> None:
    values = [b'{"a": 1}', b"2", b'"\xc3\xbc%s"']
    records: list[Record] = [FakeRecord(offset=n, value=v) for n, v in enumerate(values)]
    assert encoded(records) == b'[{"a": 1},2,"\xc3\xbc%s"]'
    assert encoded(records[:1]) == b'[{"a": 1}]'


def test_constant_text_around_the_value_is_repeated_for_each() -> None:
    body = {"item": '{"op":"$$set","n":"5%","doc":$value}', "envelope": '{"a":[$items],"b":"$$%"}'}
    made = encoded([FakeRecord(offset=n, value=b"%d" % n) for n in range(2)], body=body)
    assert made == (
        b'{"a":[{"op":"$set","n":"5%","doc":0},{"op":"$set","n":"5%","doc":1}],"b":"$%"}'
    )


@pytest.mark.parametrize("item", ["$value", '{"k":$key,"v":$value}'])
def test_the_envelope_may_tell_what_is_in_it(item: str) -> None:
    envelope = '{"text":"$items_count of $name","all":[$items],"id":"$batch_id","n":$items_count}'
    batch = batch_of(3)
    made = json.loads(sink(body={"item": item, "envelope": envelope}).encode(batch))
    assert len(made.pop("all")) == 3
    assert made == {"text": "3 of pages", "id": batch.id, "n": 3}


def test_an_id_may_stand_in_a_path() -> None:
    records: list[Record] = [FakeRecord(offset=n, key=k) for n, k in enumerate((b"a/b c", b"7"))]
    body = {"item": '{"path":"/posts/$id_url","id":$id}'}
    items = json.loads(encoded(records, id="$key", body=body))
    assert items == [
        {"path": "/posts/a%2Fb%20c", "id": "a/b c"},
        {"path": "/posts/7", "id": "7"},
    ]
    assert sink(id="$key", body={"item": "$id_url"}).objection(FakeRecord(key=None))
    assert http_settings(body={"item": "$id_url"}).identified_by == "item"


def test_every_placeholder_stands_for_its_part_of_the_record() -> None:
    record = FakeRecord(
        "pages", 3, 7, b'{"x":1}', b'k"1', 1234, [("trace", b"first"), ("trace", b"l\nast")]
    )
    (item,) = json.loads(encoded([record], body={"item": EVERYTHING}))
    assert item == {
        "v": {"x": 1},
        "s": '{"x":1}',
        "b": b64encode(b'{"x":1}').decode(),
        "k": 'k"1',
        "i": "pages-3-7",
        "t": "pages",
        "p": 3,
        "o": 7,
        "ts": 1234,
        "h": "l\nast",
        "%d%": "100%",
    }


def test_what_a_record_does_not_have_is_null() -> None:
    tombstone = FakeRecord(value=None, key=None, timestamp=-1)
    (item,) = json.loads(encoded([tombstone], body={"item": EVERYTHING}))
    assert {name for name, value in item.items() if value is None} == set("vsbkh") | {"ts"}
    assert encoded([tombstone]) == b"[null]"


def test_the_id_is_the_one_of_the_record_settings() -> None:
    record = FakeRecord(value=b'{"slug":"a/b"}')
    assert encoded([record], id="/slug", body={"item": "$id"}) == b'["a/b"]'


texts = st.text().map(str.encode)
json_records = st.builds(
    FakeRecord,
    topic=st.from_regex(r"[a-zA-Z0-9._-]{1,20}", fullmatch=True),
    offset=st.integers(0, 2**63 - 1),
    value=st.none()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ).flatmap(
        lambda value: st.sampled_from(
            [
                json.dumps(value, indent=indent, ensure_ascii=e).encode()
                for indent in (None, 1)
                for e in (True, False)
            ]
        )
    ),
    key=st.none() | texts,
    timestamp=st.integers(-1, 2**62),
    headers=st.lists(st.tuples(st.sampled_from(["trace", "other"]), texts), max_size=3),
)


def _without_surrogates(record: FakeRecord) -> bool:
    return b"\\ud" not in (record.value or b"")


@given(st.lists(json_records.filter(_without_surrogates), min_size=1, max_size=5))
@steady
def test_a_json_template_makes_json_of_any_records(records: list[FakeRecord]) -> None:
    body = {"item": EVERYTHING}
    made = sink(body=body)
    assert [made.objection(record) for record in records] == [None] * len(records)
    batch = batch_of(list(records))
    items = json.loads(made.encode(batch))
    assert len(items) == len(records)
    for item, record in zip(items, batch.records, strict=True):
        assert item["v"] == (None if record.value is None else json.loads(record.value))
        assert item["s"] == (None if record.value is None else record.value.decode())
        assert item["k"] == (None if record.key is None else record.key.decode())
        assert (item["t"], item["o"]) == (record.topic, record.offset)
    lines = sink(body={"item": EVERYTHING, **LINES}).encode(batch).split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["v"] for line in lines] == [item["v"] for item in items]


@pytest.mark.parametrize("item", ["$value", '{"id":$id,"v":$value}'])
@pytest.mark.parametrize("how", [LINES, {"separator": "", "item_end": "\n"}])
def test_a_value_on_several_lines_is_put_on_one(item: str, how: dict[str, str]) -> None:
    end = how.get("item_end", "")
    body = {"item": item + end, "separator": how["separator"], "envelope": "$items"}
    records: list[Record] = [
        FakeRecord(offset=0, value=b'{\r\n "a": "x\\ny"\n}'),
        FakeRecord(offset=1, value=b"[\r1]"),
    ]
    made = encoded(records, body=body)
    lines = made.removesuffix(b"\n").split(b"\n")
    assert len(lines) == 2
    assert b"\r" not in made
    values = [json.loads(line) for line in lines]
    assert [v["v"] if "id" in item else v for v in values] == [{"a": "x\ny"}, [1]]


def test_a_lone_carriage_return_is_a_line_break_too() -> None:
    assert encoded([FakeRecord(value=b"[\r1]")], body=LINES) == b"[ 1]\n"


def test_line_breaks_are_kept_where_they_separate_nothing() -> None:
    assert encoded([FakeRecord(value=b"[\n1]")]) == b"[[\n1]]"


def test_an_item_of_two_lines_stays_one() -> None:
    """Elasticsearch's _bulk: what to do, and the document, each on a line."""
    body = {"item": '{"index":{"_id":$id}}\n$value', **LINES}
    records: list[Record] = [FakeRecord(offset=n, value=b"{\n}") for n in range(2)]
    assert encoded(records, body=body) == (
        b'{"index":{"_id":"pages-0-0"}}\n{ }\n{"index":{"_id":"pages-0-1"}}\n{ }\n'
    )


BAD = b"\xff"


@pytest.mark.parametrize(
    ("options", "bad", "good", "word"),
    [
        ({"body": {"item": "$key"}}, {"key": BAD}, {"key": None}, "$key"),
        (
            {"body": {"item": "$header.a"}},
            {"headers": [("a", b"ok"), ("a", BAD)]},
            {"headers": [("a", BAD), ("a", b"ok"), ("b", BAD)]},
            "$header.a",
        ),
        (
            {"body": {"item": "$value_string"}, "format": "bytes"},
            {"value": BAD},
            {"value": None},
            "$value_string",
        ),
        (
            {"body": LINES, "format": "text"},
            {"value": b"two\nlines"},
            {"value": b"one line"},
            "newline",
        ),
        ({"body": {"item": "$id"}, "id": "$key"}, {"key": None}, {"key": b"k"}, "no key"),
        (
            {"response": {"items": "", "status": "/s", "id": "/i"}, "id": "/slug"},
            {"value": b"{}"},
            {"value": b'{"slug":1}'},
            "/slug",
        ),
        (
            {"response": {"on_error": {"items": "", "status": "/s", "id": "/i"}}, "id": "/slug"},
            {"value": b"{}"},
            {"value": b'{"slug":1}'},
            "/slug",
        ),
        (
            {
                "response": {"items": "", "status": "/s", "id": "/i"},
                "id": "/slug",
                "body": {"item": '{"k":$key,"v":$value}'},
            },
            {"value": b"{}"},
            {"value": b'{"slug":1}'},
            "/slug",
        ),
    ],
    ids=str,
)
def test_a_record_that_the_template_cannot_hold_is_objected_to(
    options: dict[str, Any], bad: dict[str, Any], good: dict[str, Any], word: str
) -> None:
    made = sink(**options)
    assert made.objections_needed
    text = made.objection(FakeRecord(**bad))
    assert text is not None
    assert word in text
    assert made.objection(FakeRecord(**good)) is None
    made.encode(batch_of([FakeRecord(**good)]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"body": LINES},
        {"format": "text"},
        {"format": "bytes", "body": {"item": "$value_base64"}},
        {"format": "text", "body": {"item": "$value_string", **LINES}},
        {"body": {"item": '{"id":$id,"t":$topic,"o":$offset,"v":$value}'}},
        {"response": {"items": "", "status": "/s", "id": "/i"}},
    ],
    ids=str,
)
def test_no_record_is_looked_at_where_nothing_can_go_wrong(options: dict[str, Any]) -> None:
    assert not sink(**options).objections_needed


@pytest.mark.parametrize(
    ("body", "milliseconds"), [({}, 1.0), (LINES, 2.0)], ids=["array", "lines"]
)
def test_a_window_of_plain_values_is_encoded_in_the_blink_of_a_join(
    body: dict[str, str], milliseconds: float
) -> None:
    """The best of many rounds, so that a busy machine says nothing about the code."""
    value = b'{"n":%s}' % (b"7" * 244)
    made = sink(body=body, max_records=5000)
    batch = batch_of([FakeRecord(offset=n, value=value) for n in range(5000)])
    rounds = []
    for _ in range(50):
        started = time.perf_counter()
        made.encode(batch)
        rounds.append(time.perf_counter() - started)
    assert min(rounds) * 1000 < milliseconds

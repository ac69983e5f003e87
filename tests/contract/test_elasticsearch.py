"""The sink of type "elasticsearch": the requests it makes, and what it makes of answers that a
healthy server does not give. What a healthy one does is in integration/test_opensearch.py."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from contract.api import answering, api, batch_of, saying, socket_server
from fakes import FakeRecord
from search.sink import BY_KEY, built, opened, settings
from sluiced.intake import RecordSettings
from sluiced.outcome import DELIVERED, Again, Answered, Fate, Outcome, Refused, TooLarge, Verdict
from sluiced.record import Record
from sluiced.sinks.settings import Line

pytestmark = pytest.mark.anyio

DAY = 24 * 60 * 60 * 1000
TWO: list[Record] = [FakeRecord(offset=n, key=b"k%d" % n) for n in range(2)]


def record(offset: int = 0, **attributes: Any) -> FakeRecord:
    return FakeRecord(**{"offset": offset, "key": b"k%d" % offset, **attributes})


def body(*records: Record, by: RecordSettings = BY_KEY, **keys: Any) -> bytes:
    return built(settings(**keys), by).encode(batch_of(records))


def item(status: int, type: str = "", action: str = "index", reason: str = "why") -> Any:  # noqa: A002
    error = {"error": {"type": type, "reason": reason}} if type else {}
    return {action: {"status": status, **error}}


async def outcome(items: list[Any], *records: Record, **keys: Any) -> Outcome:
    """What becomes of records, or of as many as there are items, for an answer of these items."""
    sent = records or [record(n) for n in range(len(items))]
    async with (
        api(answering(200, {"items": items})) as server,
        opened(settings(server.url.removesuffix("/bulk"), **keys)) as sink,
    ):
        return await sink.send(batch_of(sent))


# Requests


def test_a_record_is_what_to_do_and_the_document() -> None:
    assert body(record(1, value=b'{"n":1}'), record(2, value=b"{\n}")) == (
        b'{"index":{"_id":"k1"}}\n{"n":1}\n{"index":{"_id":"k2"}}\n{ }\n'
    )


def test_a_version_is_the_offset() -> None:
    assert body(record(7), version="offset") == (
        b'{"index":{"_id":"k7","version":7,"version_type":"external"}}\n{}\n'
    )


def test_an_update_creates_what_is_missing() -> None:
    assert body(record(7, value=b'{"n":1}'), action="update") == (
        b'{"update":{"_id":"k7"}}\n{"doc":{"n":1},"doc_as_upsert":true}\n'
    )


@pytest.mark.parametrize("action", ["index", "create", "update"])
def test_a_tombstone_is_a_deletion_in_its_place(action: str) -> None:
    lines = body(record(1), record(2, value=None), record(3), action=action).splitlines()
    assert lines[2] == b'{"delete":{"_id":"k2"}}'
    assert [list(json.loads(lines[n])) for n in (0, 3)] == [[action], [action]]
    assert len(lines) == 5


def test_a_deletion_has_a_version_too() -> None:
    assert body(record(7, value=None), version="offset") == (
        b'{"delete":{"_id":"k7","version":7,"version_type":"external"}}\n'
    )


def test_with_a_pattern_every_action_names_its_index() -> None:
    records = [record(1, timestamp=DAY - 1), record(2, timestamp=DAY), record(3, value=None)]
    lines = body(*records, index="x$$-$topic-$year.$month.$day").splitlines()
    assert lines[0] == b'{"index":{"_index":"x$-pages-1970.01.01","_id":"k1"}}'
    assert lines[2] == b'{"index":{"_index":"x$-pages-1970.01.02","_id":"k2"}}'
    assert json.loads(lines[4])["delete"]["_index"].startswith("x$-pages-20")


def test_the_same_batch_makes_the_same_bytes() -> None:
    records = [record(n, timestamp=n * DAY, value=None if n % 3 else b"{}") for n in range(20)]
    sink = built(settings(index="$topic-$day"))
    assert sink.encode(batch_of(records)) == sink.encode(batch_of(records))


async def test_the_request_goes_to_the_index_with_headers_and_parameters() -> None:
    async with (
        api(answering(200, {"items": [item(201)]})) as server,
        opened(
            settings(
                server.url.replace("/bulk", "/behind/a/proxy/"),
                "über$$1",
                headers={"X-Opaque-Id": "$batch_id"},
                parameters={"pipeline": "clean me"},
            )
        ) as sink,
    ):
        batch = batch_of([record()])
        assert await sink.send(batch) == Answered([DELIVERED])
    [request] = server.requests
    assert request.raw_path.startswith("/behind/a/proxy/%C3%BCber%241/_bulk?")
    assert request.query["pipeline"] == "clean me"
    assert request.query["filter_path"].startswith("error,items.*.status,")
    assert request.content_type == "application/x-ndjson"
    assert request.headers["X-Opaque-Id"] == batch.id


async def test_a_body_may_be_compressed() -> None:
    async with (
        api(answering(200, {"items": [item(201)]})) as server,
        opened(settings(server.url.removesuffix("/bulk"), compression="gzip")) as sink,
    ):
        await sink.send(batch_of([record()]))
    assert server.requests[0].headers["Content-Encoding"] == "gzip"


def test_it_is_known_by_its_documents_whatever_the_headers_say() -> None:
    by = settings(headers={"X-Opaque-Id": "$batch_id"})
    assert (by.identified_by, built(by).identifies) == ("item", "item")


async def test_with_a_pattern_no_index_stands_in_the_path() -> None:
    async with (
        api(answering(200, {"items": [item(201)]})) as server,
        opened(settings(server.url.removesuffix("/bulk"), "$topic")) as sink,
    ):
        await sink.send(batch_of([record()]))
    assert server.requests[0].path == "/_bulk"


def test_a_preview_is_the_request() -> None:
    lines = list(built(settings()).preview(batch_of([record(value=b'{"n":1}')])))
    assert lines[0].startswith("POST /pages/_bulk?filter_path=")
    assert lines[-2:] == ['{"index":{"_id":"k0"}}', '{"n":1}']


# Records that are never sent


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (b"x" * 512, None),
        (b"\xc3\xa9" * 257, "the record's id has 514 bytes, and an _id at most 512"),
        (b"x" * 513, "the record's id has 513 bytes, and an _id at most 512"),
        (b"", "the record's id is empty, and an _id may not be"),
        (None, "the record has no key"),
        (b"\xff", "the record's key is not UTF-8"),
    ],
)
def test_an_id_that_the_server_would_refuse_is_objected_to(key: bytes, why: str | None) -> None:
    said = built(settings()).objection(FakeRecord(key=key))
    assert (said or "").startswith(why or "")
    assert (said is None) == (why is None)


@pytest.mark.parametrize(
    ("timestamp", "fits"),
    [(0, True), (253_402_300_799_999, True), (-1, False), (253_402_300_800_000, False)],
)
def test_a_day_needs_a_timestamp_that_has_one(timestamp: int, fits: bool) -> None:
    sink = built(settings(index="pages-$year"))
    dated = record(timestamp=timestamp)
    assert (sink.objection(dated) is None) == fits
    if fits:
        assert sink.encode(batch_of([dated]))
    assert built(settings()).objection(dated) is None


def test_coordinates_are_always_an_id() -> None:
    assert not built(settings(), RecordSettings()).objections_needed


# Answers


DONE = [
    item(200),
    item(201),
    item(201, action="create"),
    item(409, "version_conflict_engine_exception", "create"),
    item(200, action="update"),
    item(200, action="delete"),
    item(404, action="delete"),
    item(404, "index_not_found_exception", "delete"),
]


async def test_what_is_there_or_is_gone_is_delivered() -> None:
    assert await outcome(DONE) == Answered([DELIVERED] * len(DONE))


@pytest.mark.parametrize("action", ["index", "delete"])
async def test_a_conflict_of_versions_is_delivered_and_any_other_goes_again(action: str) -> None:
    conflict = [item(409, "version_conflict_engine_exception", action)]
    assert await outcome(conflict, version="offset") == Answered([DELIVERED])
    again = Verdict(Fate.RETRY, "409", "version_conflict_engine_exception: why")
    assert await outcome(conflict) == Answered([again])


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (400, Fate.REJECTED),
        (404, Fate.REJECTED),
        (413, Fate.REJECTED),
        (429, Fate.RETRY),
        (500, Fate.RETRY),
        (502, Fate.RETRY),
    ],
)
async def test_an_item_is_judged_by_its_status(status: int, fate: Fate) -> None:
    said = await outcome([item(201), item(status, "some_exception")])
    assert said == Answered([DELIVERED, Verdict(fate, str(status), "some_exception: why")])


async def test_the_reason_of_a_rejection_holds_what_caused_it() -> None:
    error = {"type": "mapper_parsing_exception", "reason": "failed to parse"}
    error["caused_by"] = {"reason": "For\ninput"}  # type: ignore[assignment]
    said = await outcome([{"index": {"status": 400, "error": error}}])
    text = "mapper_parsing_exception: failed to parse: For input"
    assert said == Answered([Verdict(Fate.REJECTED, "400", text)])


@pytest.mark.parametrize(
    ("status", "type_", "outage"),
    [
        (404, "index_not_found_exception", True),
        (400, "index_closed_exception", True),
        (403, "cluster_block_exception", True),
        (403, "security_exception", True),
        (401, "security_exception", True),
        (503, "unavailable_shards_exception", False),
    ],
)
async def test_trouble_of_an_index_is_no_verdict_on_any_record(
    status: int, type_: str, outage: bool
) -> None:
    said = await outcome([item(201), item(400, "mapper_parsing_exception"), item(status, type_)])
    assert isinstance(said, Again)
    assert (said.status, said.outage) == (str(status), outage)
    assert said.error.startswith(f"{type_}: why; ")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[]",
        b'{"items":{}}',
        b'{"items":[]}',
        b'{"items":[{"index":{"status":201}}]}',
        b'{"items":[{"index":{"status":201}},{"index":{"status":201}},{"index":{"status":201}}]}',
        b'{"items":[{"index":{"status":201}},{}]}',
        b'{"items":[{"index":{"status":201}},null]}',
        b'{"items":[{"index":{"status":201}},{"index":{}}]}',
        b'{"items":[{"index":{"status":201}},{"index":{"status":"201"}}]}',
        b'{"items":[{"index":{"status":201}},{"index":{"status":302}}]}',
        b'{"items":[{"index":{"status":201},"create":{"status":201}}]}',
        b'{"items":[{"index":{"status":201}},{"index":{"status":201',
        b'{"items":[{"index":{"status":201}},{"\xff":{"status":201}}]}',
        b'{"items":' + b"[" * 50_000,
    ],
)
async def test_an_answer_that_does_not_say_what_became_of_each_record_is_unknown(
    answer: bytes,
) -> None:
    async with (
        api(answering(200, answer)) as server,
        opened(settings(server.url.removesuffix("/bulk"))) as sink,
    ):
        said = await sink.send(batch_of(TWO))
    assert isinstance(said, Again)
    assert said.reason == "unknown"
    assert said.error.startswith("the server answered 200, but ")


async def test_an_answer_that_is_cut_short_is_unknown() -> None:
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"items":[{"index":{"status":201}}]}'
    async with (
        socket_server(saying(head)) as url,
        opened(settings(url.removesuffix("/bulk"))) as sink,
    ):
        said = await sink.send(batch_of([record()]))
    assert said == Again("unknown", "the answer was cut short", "200")


def refusal(type_: str) -> dict[str, Any]:
    return {"error": {"type": type_, "reason": "why"}, "status": 400}


@pytest.mark.parametrize(
    ("status", "answer", "outage"),
    [
        (400, {"error": "no handler found for uri [/x/_bulk] and method [POST]"}, True),
        (404, refusal("resource_not_found_exception"), True),
        (405, {"error": "Incorrect HTTP method"}, True),
        (406, {"error": "Content-Type header [] is not supported"}, True),
        (415, b"<html>", True),
        (401, refusal("security_exception"), True),
        (403, refusal("security_exception"), True),
        (429, refusal("circuit_breaking_exception"), False),
        (500, refusal("illegal_state_exception"), False),
        (503, refusal("cluster_block_exception"), False),
    ],
)
async def test_what_is_wrong_with_the_whole_holds_the_stream(
    status: int, answer: Any, outage: bool
) -> None:
    async with (
        api(answering(status, answer)) as server,
        opened(settings(server.url.removesuffix("/bulk"))) as sink,
    ):
        said = await sink.send(batch_of(TWO))
    assert isinstance(said, Again)
    assert (said.status, said.outage) == (str(status), outage)


async def test_a_request_that_is_refused_for_its_content_is_bisected() -> None:
    async with (
        api(answering(400, refusal("x_content_parse_exception"))) as server,
        opened(settings(server.url.removesuffix("/bulk"))) as sink,
    ):
        said = await sink.send(batch_of(TWO))
    assert said == Refused("400", "the API answered 400: why")


async def test_a_request_that_is_too_large_is_split() -> None:
    async with (
        api(answering(413)) as server,
        opened(settings(server.url.removesuffix("/bulk"))) as sink,
    ):
        assert isinstance(await sink.send(batch_of(TWO)), TooLarge)


# A sink that is replaced


async def test_its_successor_goes_by_the_new_settings_and_knows_the_old_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEY", "hunter2")
    before = settings(headers={"Authorization": {"env": "KEY"}})
    async with opened(before) as sink:
        said = [item(400, "bad", reason="you sent hunter2")]
        async with api(answering(200, {"items": said})) as server:
            after = settings(server.url.removesuffix("/bulk"))
            heir = sink.successor(after)
            await heir.open()
            judged = await heir.send(batch_of([record()]))
            await heir.close()
    assert judged == Answered([Verdict(Fate.REJECTED, "400", "bad: you sent ***")])


# Settings


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"url": "http://h?pipeline=x"}, "what follows a ? belongs into parameters"),
        ({"url": "http://h/$topic"}, "url is the address of the server alone"),
        ({"url": "ftp://h"}, "url must start with http:// or https://"),
        ({"url": "http://u:p@h"}, "url must not hold a user or a password"),
        ({"index": ""}, "index: an index needs a name"),
        ({"index": "Pages"}, "index: the name of an index holds no upper-case letters"),
        ({"index": "a,b"}, "index: the name of an index cannot hold ','"),
        ({"index": "_all"}, "index: the name of an index cannot begin with '_'"),
        ({"index": "é" * 128}, "index: the name of an index has at most 255 bytes"),
        ({"index": "pages-$date"}, "index: there is no placeholder $date here"),
        ({"version": "offset", "action": "create"}, "version: the server takes one with action"),
        ({"parameters": {"filter_path": "took"}}, "parameters: filter_path decides"),
        ({"parameters": {"api_key": "x"}}, "looks like a secret"),
        ({"headers": {"Authorization": "x"}}, "Authorization is taken for a secret"),
        ({"compression": "zstd"}, "Invalid enum value 'zstd'"),
        ({"timeout": "0s"}, "timeout must be more than 0s"),
    ],
)
def test_settings_that_cannot_work_are_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        settings(**keys)
    assert why in str(caught.value)


def problems(line: Line, **keys: Any) -> list[str]:
    return [f"{p.level} {p.key}" for p in settings(**keys).problems(line)]


def test_a_topic_that_no_index_may_be_named_after_is_an_error() -> None:
    line = Line("pages", ["pages", "Articles"])
    assert problems(line, index="$topic") == ["error sink.index"]
    assert problems(line, index="pages") == []


def test_documents_that_are_not_checked_to_be_json_are_an_error() -> None:
    line = Line("pages", ["pages"], RecordSettings(format="text"))
    assert problems(line) == ["error record.format"]


@pytest.mark.parametrize("id_", ["$topic-$partition-$offset", "/slug"])
def test_tombstones_that_name_no_document_are_warned_of(id_: str) -> None:
    line = Line("pages", ["pages"], RecordSettings(id=id_, on_tombstone="send"))
    assert problems(line) == ["warning record.on_tombstone"]


def test_tombstones_that_look_in_the_index_of_their_own_day_are_warned_of() -> None:
    line = Line("pages", ["pages"], BY_KEY)
    assert problems(line, index="pages-$year") == ["warning record.on_tombstone"]
    assert problems(line, index="$topic") == []


def test_versions_of_several_topics_in_one_index_are_warned_of() -> None:
    line, one = (Line("pages", topics, RecordSettings(id="$key")) for topics in (["a", "b"], ["a"]))
    assert problems(one, version="offset") == []
    assert problems(line, version="offset") == ["warning sink.version"]
    assert problems(line, version="offset", index="$topic") == []
    assert problems(line) == []


def test_a_secret_in_the_clear_is_warned_of() -> None:
    keys = {"url": "http://search.example.com", "headers": {"Authorization": {"env": "KEY"}}}
    assert problems(Line("pages", ["pages"]), **keys) == ["warning sink.url"]

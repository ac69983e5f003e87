"""What the HTTP sink makes of what an API answers, asked of a real server."""

from __future__ import annotations

import time
from email.utils import format_datetime, formatdate
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.api import answering, api, batch_of, http_settings, opened, records
from fakes import FakeRecord
from sluiced.identity import COORDINATES, identity
from sluiced.outcome import DELIVERED, Again, Answered, Fate, Outcome, Refused, TooLarge, Verdict
from sluiced.sinks.items import LONGEST_TEXT, NOT_JUDGED
from sluiced.sinks.response import Answer, ResponseReader, retry_after
from strategies import steady

pytestmark = pytest.mark.anyio

STATUS = {"items": "/responses", "status": "/status", "error": "/error"}
BY_ID = {**STATUS, "id": "/id"}
NOW = 1_700_000_000.0
NOTHING = b" " * 1024**2


async def asked(
    status: int,
    body: Any = b"",
    headers: dict[str, str] | None = None,
    *,
    of: int = 3,
    response: dict[str, Any] | None = None,
    **keys: Any,
) -> Outcome:
    async with (
        api(answering(status, body, headers)) as server,
        opened(http_settings(server.url, response=response or {}, **keys)) as sink,
    ):
        return await sink.send(batch_of(of))


def read(response: dict[str, Any], body: Any, status: int = 200, of: int = 3) -> Outcome:
    """The same without a network, for what is said in the body alone: in a small answer and, after
    a megabyte of nothing, in a large one."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    settings = http_settings(response=response)
    reader = ResponseReader(settings, identity(COORDINATES), lambda text: text, lambda: NOW)
    outcome = reader.outcome(batch_of(of), Answer(status, {}, raw))
    assert reader.outcome(batch_of(of), Answer(status, {}, NOTHING + raw)) == outcome
    return outcome


def fates(outcome: Outcome) -> str:
    """A letter for each record: Delivered, reTry, Rejected."""
    assert isinstance(outcome, Answered), outcome
    letters = {Fate.DELIVERED: "d", Fate.RETRY: "t", Fate.REJECTED: "r"}
    return "".join(letters[verdict.fate] for verdict in outcome.verdicts)


def unknown(outcome: Outcome) -> str:
    assert isinstance(outcome, Again), outcome
    assert outcome.reason == "unknown"
    assert not outcome.outage
    return outcome.error


@pytest.mark.parametrize("response", [{"error": "/error"}, STATUS])
def test_an_explanation_that_is_no_text_is_no_bug(response: dict[str, Any]) -> None:
    said = b'{"responses":[{"status":400,"error":{"why":"\xff"}}],"error":{"why":"\xff"}}'
    settings = http_settings(response=response)
    reader = ResponseReader(settings, identity(COORDINATES), lambda text: text, lambda: NOW)
    outcome = reader.outcome(batch_of(1), Answer(400, {}, NOTHING + said))
    assert isinstance(outcome, Answered if response is STATUS else Refused)
    assert "why" in str(outcome)


# The HTTP status answers for all


@pytest.mark.parametrize("status", [200, 201, 202, 204, 207, 226])
async def test_without_items_any_2xx_delivers_the_batch(status: int) -> None:
    body = b"" if status == 204 else b"anything"
    assert await asked(status, body) == Answered([DELIVERED] * 3)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_unknown_and_not_followed(status: int) -> None:
    respond = answering(status, b"", {"Location": "/elsewhere"})
    async with api(respond) as server, opened(http_settings(server.url)) as sink:
        assert "sink.url" in unknown(await sink.send(batch_of(1)))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("response", [{}, STATUS])
async def test_refused_credentials_are_an_outage(status: int, response: dict[str, Any]) -> None:
    outcome = await asked(status, {"responses": [{"status": 422}] * 3}, response=response)
    assert isinstance(outcome, Again)
    assert (outcome.outage, outcome.status) == (True, str(status))
    assert "sink.headers" in outcome.error


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504, 507, 520, 599])
@pytest.mark.parametrize("response", [{}, STATUS])
async def test_a_server_in_trouble_is_asked_again(status: int, response: dict[str, Any]) -> None:
    outcome = await asked(status, {"responses": [{"status": 422}] * 3}, response=response)
    assert isinstance(outcome, Again)
    assert (outcome.reason, outcome.status, outcome.outage) == ("status", str(status), False)


async def test_a_status_may_be_added_to_what_is_asked_again() -> None:
    assert isinstance(await asked(423, response={"retry": [423]}), Again)
    assert isinstance(await asked(423), Refused)
    throttled_by_403 = await asked(403, response={"retry": [403]})
    assert isinstance(throttled_by_403, Again)
    assert not throttled_by_403.outage


@pytest.mark.parametrize("status", [408, 425, 500])
async def test_what_is_no_verdict_by_its_nature_is_asked_again_in_no_list(status: int) -> None:
    assert isinstance(await asked(status, response={"retry": []}), Again)


async def test_delivered_is_about_items_where_there_are_items() -> None:
    response = {**STATUS, "delivered": [200, 409]}
    assert isinstance(await asked(409, b"nothing of it", response=response), Refused)


async def test_429_is_throttling_even_where_retry_does_not_name_it() -> None:
    for retry in ([429], [503]):
        outcome = await asked(429, headers={"Retry-After": "3"}, response={"retry": retry})
        assert isinstance(outcome, Again)
        assert (outcome.reason, outcome.after) == ("throttled", 3)


@pytest.mark.parametrize("response", [{}, STATUS])
async def test_413_asks_for_a_smaller_request(response: dict[str, Any]) -> None:
    outcome = await asked(413, response=response)
    assert isinstance(outcome, TooLarge)
    assert (outcome.status, outcome.sent) == ("413", True)


async def test_409_is_still_in_flight_only_where_a_key_is_sent() -> None:
    assert isinstance(await asked(409), Refused)
    outcome = await asked(409, idempotency_header="Idempotency-Key")
    assert isinstance(outcome, Again)
    assert outcome.status == "409"


async def test_without_items_delivered_may_name_a_4xx_of_the_whole_batch() -> None:
    """Some APIs answer 409 to a transaction id that they have already."""
    response = {"delivered": [200, 409]}
    for keys in ({}, {"idempotency_header": "Idempotency-Key"}):
        assert fates(await asked(409, response=response, **keys)) == "ddd"
    assert fates(await asked(204, response=response)) == "ddd"


@pytest.mark.parametrize("status", [400, 404, 405, 409, 410, 415, 422, 451])
async def test_any_other_4xx_refuses_the_batch(status: int) -> None:
    outcome = await asked(status)
    assert isinstance(outcome, Refused)
    assert outcome.status == str(status)


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({"error": {"message": "no title"}}, "/error/message", "no title"),
        ({"error": {"code": 7}}, "/error", '{"code":7}'),
        (b"plain words\r\n of a proxy", "", "plain words of a proxy"),
        (b"\x1b[2Jgone\x00", "", "?[2Jgone?"),
        (b"<html>", "/error", None),
        ({"detail": "x"}, "/error", None),
        ({"error": None}, "/error", None),
    ],
)
async def test_the_reason_of_a_refusal_is_what_error_points_to(
    body: Any, pointer: str, said: str | None
) -> None:
    outcome = await asked(400, body, response={"error": pointer})
    assert isinstance(outcome, Refused)
    assert outcome.error == "the API answered 400" + (f": {said}" if said else "")


async def test_without_error_nothing_of_an_answer_is_shown() -> None:
    outcome = await asked(400, b"your record was: private")
    assert isinstance(outcome, Refused)
    assert "private" not in outcome.error
    assert "sink.response error" in outcome.error


async def test_an_explanation_is_cut_to_a_length_that_a_log_line_takes() -> None:
    outcome = await asked(400, {"error": "x" * 9000}, response={"error": "/error"})
    assert isinstance(outcome, Refused)
    assert outcome.error.endswith(": " + "x" * LONGEST_TEXT)


# Retry-After


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "120"}, 120),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, 0),
        ({"retry-after": "Tue, 14 Nov 2023 23:15:00 +0100"}, 100),
        ({"retry-after": "Tue, 14 Nov 2023 22:15:00"}, 100),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "Fri, 99 Foo 9999 99:99:99 GMT"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers, NOW) == (seconds if seconds is None else pytest.approx(seconds))


def test_a_date_without_a_zone_is_universal_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert retry_after({"retry-after": "Tue, 14 Nov 2023 22:15:00"}, NOW) == 100
    time.tzset()


@given(
    st.text(max_size=40)
    | st.floats().map(str)
    | st.integers().map(str)
    | st.datetimes().map(format_datetime)
)
@steady
def test_no_retry_after_breaks_the_sink(text: str) -> None:
    after = retry_after({"retry-after": text, "retry-after-ms": text}, NOW)
    assert after is None or after >= 0


async def test_a_date_in_retry_after_is_relative_to_the_wall_clock() -> None:
    date = formatdate(time.time() + 50, usegmt=True)
    outcome = await asked(503, headers={"Retry-After": date})
    assert isinstance(outcome, Again)
    assert outcome.after is not None
    assert 40 < outcome.after <= 50


# Items in request order


async def test_each_item_is_judged_by_its_status() -> None:
    items = [{"status": 201}, {"status": 422, "error": "no title"}, {"status": 503, "error": {}}]
    outcome = await asked(200, {"responses": items}, response=STATUS)
    assert outcome == Answered(
        [DELIVERED, Verdict(Fate.REJECTED, "422", "no title"), Verdict(Fate.RETRY, "503", "{}")]
    )


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        *((s, "d") for s in (200, 204, "201")),
        *((s, "t") for s in (408, 429, 503, 599, "500")),
        *((s, "r") for s in (400, 404, 409, 499, "422", "failed", "", "-1", True, False)),
    ],
)
def test_a_status_means_what_its_class_says_where_no_list_names_it(status: Any, fate: str) -> None:
    assert fates(read(STATUS, {"responses": [{"status": status}]}, of=1)) == fate


def test_the_classes_have_their_bounds() -> None:
    items = {"responses": [{"status": s} for s in (400, 499, 500, 599)]}
    assert fates(read({**STATUS, "retry": []}, items, of=4)) == "rrtt"


def test_the_lists_go_before_the_classes() -> None:
    shape = {**STATUS, "delivered": [409, "created", 0], "retry": [404, "busy", 500]}
    statuses = [409, "created", 0, 404, "busy", "unheard of"]
    items = {"responses": [{"status": s} for s in statuses]}
    assert fates(read(shape, items, of=6)) == "dddttr"


@pytest.mark.parametrize("status", [100, 206, 302, 600, 0, -1, 2.5, "307", 10**30])
def test_a_number_that_means_nothing_makes_the_answer_unknown(status: Any) -> None:
    items = {"responses": [{"status": 200}, {"status": status}]}
    error = unknown(read(STATUS, items, of=2))
    assert "delivered or retry" in error
    assert str(status)[:5] in error


@pytest.mark.parametrize("item", [{}, {"status": None}, {"status": {}}, {"status": []}, 7, "ok"])
def test_an_item_without_a_status_makes_the_answer_unknown(item: Any) -> None:
    assert "sink.response status" in unknown(read(STATUS, {"responses": [item]}, of=1))


@pytest.mark.parametrize("count", [0, 1, 2, 4, 100])
async def test_a_list_that_is_too_short_or_too_long_is_unknown(count: int) -> None:
    outcome = await asked(200, {"responses": [{"status": 200}] * count}, response=STATUS)
    assert f"{count} records of 3" in unknown(outcome)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b'{"responses":[',
        b'{"responses":[{"status":200},{"status":200},{"status":200}]}}',
        b'\xff{"responses":[]}',
        b"[" * 100_000,
        b'{"responses":null}',
        b'{"responses":3}',
        b'{"responses":"ddd"}',
        b'{"answers":[{"status":200},{"status":200},{"status":200}]}',
        b'[{"status":200},{"status":200},{"status":200}]',
        b"null",
        b'{"responses":[{"status":%s},{"status":200},{"status":200}]}' % (b"9" * 5000),
    ],
    ids=range(13),
)
async def test_a_2xx_that_is_not_the_configured_shape_is_unknown(body: bytes) -> None:
    unknown(await asked(200, body, response=STATUS))


async def test_the_content_type_of_an_answer_decides_nothing() -> None:
    body = {"responses": [{"status": 200}] * 3}
    for kind in ("text/html", "application/octet-stream", "nonsense; charset=utf-7"):
        outcome = await asked(207, body, {"Content-Type": kind}, response=STATUS)
        assert fates(outcome) == "ddd"


def test_a_null_in_the_list_is_a_record_that_goes_again() -> None:
    items = {"responses": [{"status": 200}, None, {"status": 400}]}
    outcome = read(STATUS, items)
    assert isinstance(outcome, Answered)
    assert list(outcome.verdicts)[1] == NOT_JUDGED
    assert fates(outcome) == "dtr"


def test_items_may_be_the_whole_answer_or_deep_inside() -> None:
    items = [{"status": 200}, {"status": 400}]
    assert fates(read({**STATUS, "items": ""}, items, of=2)) == "dr"
    deep = {"a/b": {"~": [{"x": items}]}}
    assert fates(read({**STATUS, "items": "/a~1b/~0/0/x"}, deep, of=2)) == "dr"


async def test_lines_are_the_list_of_an_ndjson_answer() -> None:
    shape = {"format": "ndjson", "status": "/status"}
    lines = b'{"status":200}\n{"status":404}\nnull\n'
    assert fates(await asked(200, lines, response=shape)) == "drt"
    assert fates(await asked(200, lines.rstrip(), response=shape)) == "drt"
    for cut in (b'{"status":200}\n', lines[:-9], b'{"status":200}\n{"status":4'):
        unknown(await asked(200, cut, response=shape))


def test_without_status_an_item_is_judged_by_whether_it_has_an_error() -> None:
    shape = {"items": "/responses", "error": "/error"}
    items = {"responses": [{"id": 1}, {"error": None}, {"error": "too long"}, None]}
    outcome = read(shape, items, of=4)
    assert fates(outcome) == "ddrt"
    assert isinstance(outcome, Answered)
    assert outcome.verdicts[2] == Verdict(Fate.REJECTED, "", "too long")
    assert fates(read(shape, items, status=422, of=4)) == "ttrt"


# Items by index


def test_an_object_names_items_by_their_index() -> None:
    items = {"responses": {"2": {"status": 422}, "0": {"status": 200}, "1": None}}
    assert fates(read(STATUS, items)) == "dtr"


def test_an_index_that_is_not_named_was_delivered_only_if_the_answer_is_2xx() -> None:
    items = {"responses": {"1": {"status": 422}}}
    assert fates(read(STATUS, items)) == "drd"
    assert fates(read(STATUS, items, status=400)) == "trt"
    assert fates(read(STATUS, {"responses": {}})) == "ddd"


@pytest.mark.parametrize("key", ["3", "-1", "01", "1.0", "x", "", "²", "9" * 5000])
def test_a_key_that_is_no_index_makes_the_answer_unknown(key: str) -> None:
    unknown(read(STATUS, {"responses": {key: {"status": 422}}}))


# Items by id


def named(*ids: Any, status: int = 200) -> dict[str, Any]:
    return {"responses": [{"id": id_, "status": status} for id_ in ids]}


def test_ids_may_come_in_any_order() -> None:
    answer = named("pages-0-2", "pages-0-0", "pages-0-1")
    answer["responses"][0]["status"] = 422
    assert fates(read(BY_ID, answer)) == "ddr"


@pytest.mark.parametrize(
    "ids",
    [
        ("pages-0-0", "pages-0-1"),
        ("pages-0-0", "pages-0-1", "pages-0-1"),
        ("pages-0-0", "pages-0-1", "pages-0-3"),
        ("pages-0-0", "pages-0-1", "pages-0-2", "pages-0-2"),
        ("pages-0-0", "pages-0-1", "pages-0-2", "stranger"),
        ("pages-0-0", "pages-0-1", None),
        ("pages-0-0", "pages-0-1", {}),
        (),
    ],
)
async def test_unknown_repeated_and_missing_ids_make_the_answer_unknown(ids: Any) -> None:
    unknown(await asked(200, named(*ids), response=BY_ID))


def test_ids_are_compared_as_text() -> None:
    settings = http_settings(response=BY_ID)
    reader = ResponseReader(settings, identity("/n"), lambda text: text, lambda: NOW)
    body = msgspec.json.encode(named(2, "1", 0))
    assert fates(reader.outcome(batch_of(3), Answer(200, {}, body))) == "ddd"


def test_records_that_share_an_id_are_answered_in_turn() -> None:
    reader = ResponseReader(
        http_settings(response=BY_ID), identity("$key"), lambda text: text, lambda: NOW
    )
    batch = batch_of(records(2, key=b"same"))
    answer = named("same", "same")
    answer["responses"][1]["status"] = 422
    body = msgspec.json.encode(answer)
    assert fates(reader.outcome(batch, Answer(200, {}, body))) == "dr"


def test_a_null_among_ids_stands_for_one_of_those_left_out() -> None:
    answer = named("pages-0-2", "pages-0-0")
    answer["responses"].append(None)
    assert fates(read(BY_ID, answer)) == "dtd"
    answer["responses"].append(None)
    unknown(read(BY_ID, answer))


# Errors with a shape of their own


async def test_a_4xx_that_judges_items_is_no_refusal_of_the_batch() -> None:
    items = {"responses": [{"status": 200}, {"status": 422, "error": "bad"}, {"status": 429}]}
    assert fates(await asked(400, items, response=STATUS)) == "drt"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nope",
        {"responses": []},
        {"responses": {}},
        {"responses": [{"status": 422}]},
        {"responses": [{"status": 422}] * 4},
        {"responses": [{"status": 302}] * 3},
        {"error": "nope"},
    ],
)
async def test_a_4xx_without_readable_items_is_bisected(body: Any) -> None:
    assert isinstance(await asked(422, body, response=STATUS), Refused)


async def test_answers_other_than_2xx_may_have_a_shape_of_their_own() -> None:
    response = {**STATUS, "on_error": {"items": "/errors", "error": "/why"}}
    ok = {"responses": [{"status": 200}] * 3}
    assert fates(await asked(200, ok, response=response)) == "ddd"
    errors = {"errors": {"1": {"why": "no title"}}}
    outcome = await asked(422, errors, response=response)
    assert outcome == Answered([NOT_JUDGED, Verdict(Fate.REJECTED, "", "no title"), NOT_JUDGED])
    assert isinstance(await asked(422, ok, response=response), Refused)


async def test_an_error_map_of_plain_texts_is_readable() -> None:
    response = {"on_error": {"items": "/errors", "error": ""}}
    outcome = await asked(422, {"errors": {"0": "no title"}}, response=response)
    assert isinstance(outcome, Answered)
    assert outcome.verdicts[0] == Verdict(Fate.REJECTED, "", "no title")
    assert fates(await asked(200, response=response)) == "ddd"


async def test_the_shape_of_errors_may_be_a_text_alone() -> None:
    response = {**STATUS, "on_error": {"error": "/message"}}
    outcome = await asked(422, {"message": "no"}, response=response)
    assert outcome == Refused("422", "the API answered 422: no")


# Items that tell their position, and items about some of the records alone

POSITIONED = {"items": "/errors", "index": "/index", "error": "/message"}
SOME = {**POSITIONED, "partial": True}


def failed(*indexes: Any) -> dict[str, Any]:
    return {"errors": [{"index": n, "message": f"bad {n}"} for n in indexes]}


def test_items_may_tell_their_position_in_any_order() -> None:
    shape = {**STATUS, "index": "/n"}
    items = [{"n": 2, "status": 422}, {"n": "0", "status": 200}, {"n": 1, "status": 503}]
    assert fates(read(shape, {"responses": items})) == "dtr"


def test_positions_are_all_there_and_once_unless_the_items_are_partial() -> None:
    for indexes in ((), (1,), (0, 1), (0, 1, 1), (0, 1, 2, 2)):
        assert "position" in unknown(read(POSITIONED, failed(*indexes)))
    assert fates(read(POSITIONED, failed(2, 0, 1))) == "rrr"


def test_whoever_is_not_among_the_failed_was_delivered_only_if_the_answer_is_2xx() -> None:
    outcome = read(SOME, failed(1))
    assert outcome == Answered([DELIVERED, Verdict(Fate.REJECTED, "", "bad 1"), DELIVERED])
    assert fates(read(SOME, failed(2, 0), status=207)) == "rdr"
    assert fates(read(SOME, failed(1), status=400)) == "trt"


@pytest.mark.parametrize("body", [{"errors": []}, {"errors": None}, {}, {"count": 3}])
def test_where_only_failures_are_named_there_may_be_none(body: Any) -> None:
    assert fates(read(SOME, body)) == "ddd"
    assert isinstance(read(SOME, body, status=400), Refused)


@pytest.mark.parametrize("body", [b"", b"OK", [], "x", None, {"errors": "none"}, {"errors": 0}])
def test_an_answer_that_is_no_such_object_is_still_unknown(body: Any) -> None:
    unknown(read(SOME, body))


@pytest.mark.parametrize("index", [3, -1, "01", 1.5, "x", None, True, {}, "9" * 5000])
def test_a_position_that_is_none_makes_the_answer_unknown(index: Any) -> None:
    assert "sink.response index" in unknown(read(SOME, failed(0, index)))
    assert "sink.response index" in unknown(read(POSITIONED, failed(0, index, 1)))


def test_of_several_errors_of_one_record_the_gravest_counts() -> None:
    shape = {"items": "", "index": "/n", "status": "/s", "partial": True}
    for statuses in ((503, 422, 200), (200, 422, 503), (422, 503)):
        assert fates(read(shape, [{"n": 1, "s": s} for s in statuses])) == "drd"
    assert fates(read(shape, [{"n": 1, "s": 200}, {"n": 1, "s": 503}])) == "dtd"
    assert fates(read(shape, [{"n": 1, "s": 200}], status=400)) == "tdt"


def test_failures_may_be_named_by_id() -> None:
    shape = {"items": "/errors", "id": "/id", "error": "/why", "partial": True}
    errors = {"errors": [{"id": "pages-0-1", "why": "no title"}]}
    assert fates(read(shape, errors)) == "drd"
    assert fates(read(shape, errors, status=422)) == "trt"
    assert fates(read(shape, {})) == "ddd"
    unknown(read(shape, {"errors": [{"id": "pages-0-9", "why": "who?"}]}))
    unknown(read(shape, {"errors": [{"why": "who?"}]}))


def test_a_failure_of_an_id_that_records_share_is_of_all_of_them() -> None:
    shape = {"items": "", "id": "/id", "error": "/why", "partial": True}
    settings = http_settings(response=shape)
    reader = ResponseReader(settings, identity("$key"), lambda text: text, lambda: NOW)
    batch = batch_of([FakeRecord(offset=n, key=k) for n, k in enumerate((b"a", b"b", b"a"))])
    answer = Answer(200, {}, b'[{"id":"a","why":"no title"}]')
    assert fates(reader.outcome(batch, answer)) == "rdr"


# One word for the whole batch

WORD = {"status": "/state", "error": "/why", "delivered": ["done", 1], "retry": ["busy", 503]}
CODE = {"on_error": {"status": "/code", "error": "/why", "delivered": ["THERE"], "retry": ["BUSY"]}}


def test_a_2xx_may_hold_the_word_that_counts() -> None:
    assert fates(read(WORD, {"state": "done"})) == "ddd"
    assert fates(read(WORD, {"state": 1})) == "ddd"
    later = read(WORD, {"state": "busy", "why": "a queue"})
    assert isinstance(later, Again)
    assert (later.reason, later.error) == ("status", "the API answered 200: a queue")
    assert read(WORD, {"state": "bad", "why": "no title"}) == Refused(
        "200", "the API answered 200: no title"
    )
    assert isinstance(read(WORD, {"state": 404}), Refused)
    assert isinstance(read(WORD, {"state": 599}), Again)


@pytest.mark.parametrize("body", [b"", b"OK", {}, {"state": None}, {"state": []}, {"state": 2}])
def test_a_2xx_without_the_word_is_unknown(body: Any) -> None:
    unknown(read(WORD, body))


def test_the_word_may_be_the_whole_answer_in_plain_text() -> None:
    shape = {
        "status": "",
        "delivered": ["ok"],
        "on_error": {"status": "", "error": "", "rejected": ["Code: 469.*"]},
    }
    assert fates(read(shape, b"ok\n")) == "ddd"
    assert isinstance(read(shape, b"not ok"), Refused)
    unknown(read(shape, b"\n"))
    assert isinstance(read(shape, b"Code: 469. It violates", 500), Refused)
    assert isinstance(read(shape, b"Code: 999. Zookeeper", 500), Again)


def test_a_failure_in_a_2xx_may_be_told_apart_by_a_second_word() -> None:
    again = {"status": "/error", "retry": ["slow"], "delivered": ["duplicate"]}
    shape = {"status": "/ok", "delivered": ["true"], "error": "/error", "on_error": again}
    assert fates(read(shape, {"ok": True, "error": "slow"})) == "ddd"
    later = read(shape, {"ok": False, "error": "slow"})
    assert isinstance(later, Again)
    assert later.error == "the API answered 200: slow"
    assert isinstance(read(shape, {"ok": False, "error": "bad"}), Refused)
    assert isinstance(read(shape, {"ok": False, "error": "duplicate"}), Refused)
    assert fates(read(shape, {"ok": False, "error": "duplicate"}, of=1)) == "d"


def test_a_failure_in_a_2xx_is_explained_by_its_own_pointer() -> None:
    shape = {**WORD, "on_error": {"error": "/message"}}
    no = {"state": "bad", "why": "no title", "message": "another"}
    assert read(shape, no) == Refused("200", "the API answered 200: no title")
    assert read(shape, no, 400) == Refused("400", "the API answered 400: another")
    assert read({"status": "/state"}, no) == Refused(
        "200", "the API answered 200; set sink.response error to where its answers say why"
    )


def test_a_word_of_failure_in_a_2xx_may_come_with_the_records_to_blame() -> None:
    blame = {"items": "/errors", "id": "/id", "error": "/why", "partial": True}
    shape = {"status": "/state", "delivered": ["done"], "on_error": blame}
    errors = [{"id": "pages-0-1", "why": "no title"}]
    assert fates(read(shape, {"state": "failed", "errors": errors})) == "trt"
    assert fates(read(shape, {"state": "done", "errors": errors})) == "ddd"
    assert isinstance(read(shape, {"state": "failed"}), Refused)


@pytest.mark.parametrize("status", [400, 403, 409, 500])
def test_the_word_of_an_error_goes_before_its_status(status: int) -> None:
    shape = {"on_error": {**CODE["on_error"], "rejected": ["BAD", "Invalid*"]}}
    assert isinstance(read(shape, {"code": "BUSY"}, status), Again)
    for word in ("BAD", "Invalid title"):
        assert isinstance(read(shape, {"code": word, "why": "w"}, status), Refused)
    outage = read(shape, {"code": "OTHER"}, 403)
    assert isinstance(outage, Again)
    assert outage.outage
    assert isinstance(read(shape, {"code": "OTHER"}, 500), Again)
    assert isinstance(read(shape, {"code": "OTHER"}, 400), Refused)
    assert isinstance(read(shape, b"<html>", 400), Refused)


@pytest.mark.parametrize("word", ["BAD", "THERE"])
def test_throttling_and_a_request_too_large_are_what_they_are(word: str) -> None:
    shape = {"on_error": {**CODE["on_error"], "rejected": ["BAD"]}}
    assert isinstance(read(shape, {"code": word}, 429, of=1), Again)
    assert isinstance(read(shape, {"code": word}, 413, of=1), TooLarge)


def test_there_already_is_a_delivery_only_of_a_record_that_was_sent_alone() -> None:
    """The others of a batch may be missing: the error was about one of them."""
    assert isinstance(read(CODE, {"code": "THERE"}, 400, of=2), Refused)
    assert fates(read(CODE, {"code": "THERE"}, 400, of=1)) == "d"


def test_the_longest_beginning_of_a_word_counts() -> None:
    shape = {
        **STATUS,
        "delivered": ["ok*"],
        "retry": ["ok but*", "slow"],
        "rejected": ["ok but b*"],
    }
    statuses = ["ok", "okay", "ok but later", "ok but bad", "slow", "slowly", "*", "not ok"]
    items = {"responses": [{"status": s} for s in statuses]}
    assert fates(read(shape, items, of=8)) == "ddtrtrrr"


async def test_a_status_may_be_a_verdict_although_it_is_5xx() -> None:
    response = {"rejected": [500], "retry": [503]}
    assert isinstance(await asked(500, response=response), Refused)
    assert isinstance(await asked(503, response=response), Again)
    items = {"responses": [{"status": 500}, {"status": 502}]}
    assert fates(read({**STATUS, **response}, items, of=2)) == "rt"
    # About an item it says nothing of the whole answer.
    assert isinstance(await asked(500, response={**STATUS, **response}), Again)


# Whatever comes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["responses", "status", "id", "error", "0", "1"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
shapes = st.sampled_from(
    [
        {},
        STATUS,
        BY_ID,
        {**STATUS, "items": ""},
        {"items": "", "error": ""},
        {"format": "ndjson", "status": "/status"},
        {"on_error": {"items": "", "error": ""}},
        {"status": "/status"},
        {"on_error": {"status": "/status", "rejected": ["*"]}},
        {**STATUS, "index": "/id"},
        {**STATUS, "index": "/id", "partial": True},
        {**BY_ID, "partial": True},
    ]
)


@given(shapes, st.integers(200, 599), st.binary() | json_values.map(msgspec.json.encode))
@steady
def test_every_answer_is_an_outcome_with_a_verdict_for_every_record(
    shape: dict[str, Any], status: int, body: bytes
) -> None:
    outcome = read(shape, body, status=status, of=2)
    if isinstance(outcome, Answered):
        assert len(outcome.verdicts) == 2
        for verdict in outcome.verdicts:
            assert len(verdict.error) <= LONGEST_TEXT


def test_a_record_is_never_delivered_by_an_answer_to_another_batch() -> None:
    reader = ResponseReader(
        http_settings(response=BY_ID), identity(COORDINATES), lambda text: text, lambda: NOW
    )
    body = msgspec.json.encode(named("pages-0-0", "pages-0-1"))
    other = batch_of([FakeRecord(offset=7), FakeRecord(offset=8)])
    unknown(reader.outcome(other, Answer(200, {}, body)))

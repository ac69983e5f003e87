"""The examples for well-known APIs, each against a server that does what that API's documentation
says. Directus has tests of its own, against Directus."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from contract.api import Api, Respond, api, batch_of
from fakes import FakeRecord
from sluiced.config import load
from sluiced.identity import identity
from sluiced.outcome import DELIVERED, Again, Answered, Fate, Outcome, Refused, Verdict
from sluiced.record import Record
from sluiced.sinks.http import HttpSink
from sluiced.sinks.http_settings import HttpSettings

pytestmark = pytest.mark.anyio

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for config in CONFIGS.glob("*.toml"):
        for name in re.findall(r'credential = "(.+?)"', config.read_text()):
            (tmp_path / name).write_text("token")


async def sent(name: str, server: Api, records: list[Record]) -> Outcome:
    """The batch, sent as the example says, but to this server."""
    config = load(CONFIGS / f"{name}.toml")
    settings = config.sink
    assert isinstance(settings, HttpSettings)
    here = server.url.removesuffix("/bulk")
    response = settings.response
    if response.follow is not None:
        url = response.follow.url.replace(settings.origin, here)
        follow = msgspec.structs.replace(response.follow, url=url, interval=0.001)
        response = msgspec.structs.replace(response, follow=follow)
    url = settings.url.replace(settings.origin, here)
    settings = msgspec.structs.replace(settings, url=url, response=response)
    sink = HttpSink(settings, config.name, identity(config.record.id), format=config.record.format)
    await sink.open()
    try:
        return await sink.send(batch_of(records))
    finally:
        await sink.close()


def of(*values: Any) -> list[Record]:
    return [FakeRecord(offset=n, value=json.dumps(v).encode()) for n, v in enumerate(values)]


def fates(outcome: Outcome) -> str:
    """A letter for each record: Delivered, reTry, Rejected."""
    assert isinstance(outcome, Answered), outcome
    letters = {Fate.DELIVERED: "d", Fate.RETRY: "t", Fate.REJECTED: "r"}
    return "".join(letters[verdict.fate] for verdict in outcome.verdicts)


def asked(server: Api, index: int = -1) -> tuple[str, str]:
    request = server.requests[index]
    return request.method, request.path_qs


async def test_wordpress_answers_for_each_post_in_an_envelope() -> None:
    async def respond(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Basic token"
        body = await request.json()
        assert body["validation"] == "normal"
        paths = [(r["method"], r["path"]) for r in body["requests"]]
        assert paths == [("PUT", f"/wp/v2/posts/{n}") for n in (7, 8, 9)]
        error = {"code": "rest_post_invalid_id", "message": "Invalid post ID.", "data": {}}
        busy = {"code": "db_update_error", "message": "Could not update post in the database."}
        answers = [
            {"body": {"id": 7}, "status": 200, "headers": {}},
            {"body": error, "status": 404, "headers": {}},
            {"body": busy, "status": 500, "headers": {}},
        ]
        return web.json_response({"responses": answers}, status=207)

    async with api(respond) as server:
        posts = of(*({"id": n, "title": "x"} for n in (7, 8, 9)))
        outcome = await sent("wordpress-batch", server, posts)
        assert asked(server) == ("POST", "/wp-json/batch/v1")
    assert isinstance(outcome, Answered)
    assert fates(outcome) == "drt"
    assert outcome.verdicts[1].error == "Invalid post ID."


async def test_wordpress_refuses_a_request_as_a_whole() -> None:
    error = {"code": "rest_invalid_param", "message": "Invalid parameter(s): requests"}

    async def respond(request: web.Request) -> web.Response:
        return web.json_response(error, status=400)

    async with api(respond) as server:
        outcome = await sent("wordpress-batch", server, of({"id": 1}))
    assert outcome == Refused("400", "the API answered 400: Invalid parameter(s): requests")


def sanity(*, positions: bool) -> Respond:
    """All or nothing. Some errors tell which mutations are to blame, others do not."""

    async def respond(request: web.Request) -> web.Response:
        body = await request.json()
        assert re.fullmatch("[0-9a-f]{32}", body["transactionId"])
        documents = [mutation["createOrReplace"] for mutation in body["mutations"]]
        bad = [n for n, document in enumerate(documents) if "_type" not in document]
        if not bad:
            return web.json_response({"transactionId": body["transactionId"], "results": []})
        error = {"type": "mutationError", "description": "The mutation(s) failed"}
        items = [{"error": {"type": "x", "description": "no _type"}, "index": n} for n in bad]
        return web.json_response(
            {"error": {**error, "items": items if positions else []}}, status=400
        )

    return respond


async def test_sanity_does_all_mutations_or_none() -> None:
    good, bad = {"_id": "a", "_type": "article"}, {"_id": "b"}
    async with api(sanity(positions=True)) as server:
        assert fates(await sent("sanity-mutations", server, of(good, good))) == "dd"
        outcome = await sent("sanity-mutations", server, of(good, bad, good))
        assert asked(server)[1] == "/v2024-01-01/data/mutate/production"
    assert isinstance(outcome, Answered)
    assert fates(outcome) == "trt"
    assert outcome.verdicts[1] == Verdict(Fate.REJECTED, "", "no _type")


async def test_sanity_names_no_mutation() -> None:
    good, bad = {"_id": "a", "_type": "article"}, {"_id": "b"}
    async with api(sanity(positions=False)) as server:
        assert isinstance(await sent("sanity-mutations", server, of(good, bad)), Refused)


async def test_a_batch_is_the_same_transaction_each_time() -> None:
    async with api(sanity(positions=True)) as server:
        for _ in range(2):
            await sent("sanity-mutations", server, of({"_id": "a", "_type": "article"}))
    first, second = (json.loads(body)["transactionId"] for body in server.bodies)
    assert first == second


def contentful(failing: str | None = None, refused: int | None = None) -> Respond:
    """Actions that are done on the third time of asking."""
    asked = 0

    async def respond(request: web.Request) -> web.Response:
        nonlocal asked
        assert request.headers["Authorization"] == "Bearer token"
        root = "/spaces/SPACE/environments/master/bulk_actions"
        if request.method == "POST":
            assert request.path == f"{root}/publish"
            assert request.content_type == "application/vnd.contentful.management.v1+json"
            entities = (await request.json())["entities"]
            assert entities["sys"] == {"type": "Array"}
            assert len(entities["items"]) <= 200
            if refused is not None:
                return web.json_response({"sys": {"type": "Error"}}, status=refused)
            return web.json_response({"sys": {"id": "action1", "status": "created"}}, status=201)
        assert request.path == f"{root}/actions/action1"
        asked += 1
        action: dict[str, Any] = {"sys": {"id": "action1", "status": "inProgress"}}
        if asked < 3:
            return web.json_response(action)
        action["sys"]["status"] = "succeeded"
        if failing is not None:
            action["sys"]["status"] = "failed"
            entity = {"sys": {"type": "Link", "linkType": "Entry", "id": failing}}
            error = {"sys": {"type": "Error", "id": "InvalidEntry"}}
            details = {"errors": [{"entity": entity, "error": error}]}
            action["error"] = {"sys": {"id": "BulkActionFailed"}, "details": details}
        return web.json_response(action)

    return respond


def links(*ids: str) -> list[Record]:
    return of(*({"sys": {"type": "Link", "linkType": "Entry", "id": i, "version": 1}} for i in ids))


async def test_contentful_is_asked_until_it_has_published() -> None:
    async with api(contentful()) as server:
        assert fates(await sent("contentful-publish", server, links("a", "b"))) == "dd"
    assert [r.method for r in server.requests] == ["POST", "GET", "GET", "GET"]


async def test_contentful_names_the_entries_to_blame() -> None:
    async with api(contentful(failing="b")) as server:
        outcome = await sent("contentful-publish", server, links("a", "b", "c"))
    assert fates(outcome) == "trt"


@pytest.mark.parametrize("status", [409, 429])
async def test_contentful_has_too_many_actions_at_once(status: int) -> None:
    async with api(contentful(refused=status)) as server:
        outcome = await sent("contentful-publish", server, links("a"))
    assert isinstance(outcome, Again)
    assert len(server.requests) == 1


class ClickHouse:
    """Inserts whole blocks or nothing, and leaves out a block whose token it has."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.tokens: set[str] = set()

    async def respond(self, request: web.Request) -> web.Response:
        assert request.headers["X-ClickHouse-Key"] == "token"
        query = request.query
        assert query["query"] == "INSERT INTO events FORMAT JSONEachRow"
        assert query["wait_end_of_query"] == "1"
        body = await request.read()
        body = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
        rows = [json.loads(line) for line in body.splitlines()]
        for row in rows:
            if "lost" in row:
                return self.error(404, 60, "Table default.events does not exist")
            if "broken" in row:
                return self.error(500, 469, "Constraint `c` is violated at row 1")
            if not isinstance(row.get("n", 0), int):
                return self.error(400, 27, f"Cannot parse input: private {row}")
        if query["insert_deduplication_token"] not in self.tokens:
            self.rows += rows
            self.tokens.add(query["insert_deduplication_token"])
        return web.Response()

    @staticmethod
    def error(status: int, code: int, text: str) -> web.Response:
        return web.Response(status=status, text=f"Code: {code}. DB::Exception: {text}. (NAME)")


async def test_clickhouse_has_a_batch_once() -> None:
    clickhouse = ClickHouse()
    async with api(clickhouse.respond) as server:
        for _ in range(2):
            assert fates(await sent("clickhouse", server, of({"n": 1}, {"n": 2}))) == "dd"
    assert clickhouse.rows == [{"n": 1}, {"n": 2}]


async def test_clickhouse_refuses_the_insert_and_what_it_repeats_is_not_shown() -> None:
    async with api(ClickHouse().respond) as server:
        for value in ({"n": "x"}, {"broken": 1}):
            outcome = await sent("clickhouse", server, of({"n": 1}, value))
            assert isinstance(outcome, Refused)
            assert "private" not in outcome.error
        later = await sent("clickhouse", server, of({"lost": 1}))
    assert isinstance(later, Again)


async def test_slack_gets_one_message_of_many_lines() -> None:
    async def respond(request: web.Request) -> web.Response:
        message = await request.json()
        assert request.headers["Authorization"] == "Bearer token"
        lines = [block["text"]["text"] for block in message["blocks"]]
        assert message["text"] == f"{len(lines)} notices"
        error = {"x": "ratelimited", "": "invalid_blocks"}.get(lines[0])
        return web.json_response({"ok": False, "error": error} if error else {"ok": True})

    notices: list[Record] = [FakeRecord(offset=n, value=b'say "%d"' % n) for n in range(3)]
    async with api(respond) as server:
        assert fates(await sent("slack-messages", server, notices)) == "ddd"
        blocks = json.loads(server.bodies[0])["blocks"]
        assert blocks[2]["text"] == {"type": "plain_text", "text": 'say "2"'}
        refused = await sent("slack-messages", server, [FakeRecord(value=b"")])
        assert refused == Refused("200", "the API answered 200: invalid_blocks")
        later = await sent("slack-messages", server, [FakeRecord(value=b"x")])
    assert isinstance(later, Again)
    assert later.error == "the API answered 200: ratelimited"


async def test_typesense_answers_line_by_line() -> None:
    async def respond(request: web.Request) -> web.Response:
        assert request.headers["X-TYPESENSE-API-KEY"] == "token"
        assert request.query["action"] == "upsert"
        documents = [json.loads(line) for line in (await request.read()).splitlines()]
        answers = [
            {"success": True}
            if "title" in document
            else {
                "success": False,
                "error": "Field `title` has been declared in the schema, but is not found.",
                "document": json.dumps(document),
                "code": 400,
            }
            for document in documents
        ]
        return web.Response(text="\n".join(map(json.dumps, answers)))

    async with api(respond) as server:
        articles = of({"id": "1", "title": "A"}, {"id": "2"}, {"id": "3", "title": "C"})
        outcome = await sent("typesense-import", server, articles)
    assert fates(outcome) == "drd"
    assert isinstance(outcome, Answered)
    assert outcome.verdicts[1].error.startswith("Field `title`")


def meilisearch(end: dict[str, Any]) -> Respond:
    states = iter(["enqueued", "processing"])

    async def respond(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer token"
        if request.method == "POST":
            return web.json_response({"taskUid": 17, "status": "enqueued"}, status=202)
        assert request.path == "/tasks/17"
        state = next(states, None)
        return web.json_response({"uid": 17, "error": None, "status": state} if state else end)

    return respond


async def test_meilisearch_is_asked_until_it_has_indexed() -> None:
    async with api(meilisearch({"status": "succeeded"})) as server:
        outcome = await sent("meilisearch-documents", server, of({"id": 1}, {"id": 2}))
    assert fates(outcome) == "dd"
    assert [r.method for r in server.requests] == ["POST", "GET", "GET", "GET"]


async def test_meilisearch_fails_all_of_a_task() -> None:
    error = {"message": "Document identifier `a b` is invalid", "code": "invalid_document_id"}
    async with api(meilisearch({"status": "failed", "error": error})) as server:
        outcome = await sent("meilisearch-documents", server, of({"id": 1}, {"id": "a b"}))
    assert outcome == Refused("200", f"the API answered 200: {error['message']}")


async def test_meilisearch_is_told_to_drop_a_task_and_gets_it_again() -> None:
    async with api(meilisearch({"status": "canceled"})) as server:
        outcome = await sent("meilisearch-documents", server, of({"id": 1}))
    assert isinstance(outcome, Again)


async def test_bigquery_names_the_rows_that_failed_and_no_others() -> None:
    async def respond(request: web.Request) -> web.Response:
        body = await request.json()
        assert body["skipInvalidRows"] is True
        assert body["rows"][0]["insertId"] == "pages-0-0"
        reasons = [row["json"].get("fails") for row in body["rows"]]
        errors = [
            {"index": n, "errors": [{"reason": reason, "message": f"because {reason}"}]}
            for n, reason in enumerate(reasons)
            if reason
        ]
        answer = {"kind": "bigquery#tableDataInsertAllResponse"}
        return web.json_response(answer | ({"insertErrors": errors} if errors else {}))

    async with api(respond) as server:
        assert fates(await sent("bigquery-insertall", server, of({}, {}))) == "dd"
        rows = of({}, {"fails": "invalid"}, {"fails": "backendError"}, {})
        outcome = await sent("bigquery-insertall", server, rows)
    assert isinstance(outcome, Answered)
    assert list(outcome.verdicts) == [
        DELIVERED,
        Verdict(Fate.REJECTED, "invalid", "because invalid"),
        Verdict(Fate.RETRY, "backendError", "because backendError"),
        DELIVERED,
    ]

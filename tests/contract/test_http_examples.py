"""The examples in configs/, each against an API that behaves as the example says it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cramjam
import msgspec
import pytest
from aiohttp import web

from contract.api import api, batch_of, read_request, socket_server
from fakes import FakeRecord
from sluiced.config import Config, load
from sluiced.identity import identity
from sluiced.outcome import DELIVERED, Answered, Fate, Outcome, Refused, Verdict
from sluiced.record import Record
from sluiced.sinks.http import HttpSink

pytestmark = pytest.mark.anyio

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PAGES_API_TOKEN", "token")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name in ("ingest-key", "cms-token", "search-key"):
        (tmp_path / name).write_text("token")
    return lambda name: load(CONFIGS / f"{name}.toml")


async def sent(config: Config, url: str, records: list[Record]) -> Outcome:
    """The batch, sent as the example says, but to this address with the example's query."""
    _, _, query = config.sink.url.partition("?")
    settings = msgspec.structs.replace(config.sink, url=f"{url}?{query}")
    sink = HttpSink(settings, config.name, identity(config.record.id), format=config.record.format)
    await sink.open()
    try:
        return await sink.send(batch_of(records))
    finally:
        await sink.close()


async def test_json_array(example: Any) -> None:
    async def respond(request: web.Request) -> web.Response:
        pages = await request.json()
        assert request.headers["Idempotency-Key"]
        if any("title" not in page for page in pages):
            return web.json_response({"error": {"message": "no title"}}, status=422)
        return web.Response(status=202)

    good, bad = FakeRecord(value=b'{"title":"a"}'), FakeRecord(offset=1)
    async with api(respond) as server:
        assert await sent(example("http-json-array"), server.url, [good]) == Answered([DELIVERED])
        outcome = await sent(example("http-json-array"), server.url, [good, bad])
    assert outcome == Refused("422", "the API answered 422: no title")


async def test_ndjson(example: Any) -> None:
    async def talk(reader: Any, writer: Any) -> None:
        head, body = (await read_request(reader)).split(b"\r\n\r\n", 1)
        assert b"X-Api-Key: token" in head
        lines = bytes(cramjam.zstd.decompress(body)).splitlines()
        words = {1: {"status": "ok"}, 2: {"status": "duplicate"}, 3: {"status": "busy"}}
        answers = [
            words.get(json.loads(line)["event"]["n"], {"status": "invalid", "detail": "no n"})
            for line in lines
        ]
        text = b"\n".join(json.dumps(answer).encode() for answer in answers)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(text))
        writer.write(b"Connection: close\r\n\r\n" + text)

    events: list[Record] = [FakeRecord(offset=n, value=b'{\n"n":%d}' % n) for n in range(1, 5)]
    async with socket_server(talk) as url:
        outcome = await sent(example("http-ndjson"), url, events)
    assert outcome == Answered(
        [
            DELIVERED,
            DELIVERED,
            Verdict(Fate.RETRY, "busy"),
            Verdict(Fate.REJECTED, "invalid", "no n"),
        ]
    )


async def test_per_item_status(example: Any) -> None:
    async def respond(request: web.Request) -> web.Response:
        wrapped = (await request.json())["requests"]
        if long := [n for n, item in enumerate(wrapped) if len(item["id"]) > 5]:
            return web.json_response(
                {"errors": {str(n): "slug too long" for n in long}}, status=422
            )
        answers = [
            {"id": item["id"], "status": 201}
            if "title" in item["body"]
            else {"id": item["id"], "status": 422, "body": {"message": "no title"}}
            for item in wrapped
        ]
        return web.json_response({"responses": answers[::-1]})

    good = FakeRecord(value=b'{"slug":"a","title":"A"}')
    bad = FakeRecord(offset=1, value=b'{"slug":"b"}')
    long = FakeRecord(offset=2, value=b'{"slug":"cccccc","title":"C"}')
    async with api(respond) as server:
        config = example("http-per-item-status")
        outcome = await sent(config, server.url, [good, bad])
        assert outcome == Answered([DELIVERED, Verdict(Fate.REJECTED, "422", "no title")])
        refused = await sent(config, server.url, [good, bad, long])
    assert isinstance(refused, Answered)
    assert [v.fate for v in refused.verdicts] == [Fate.RETRY, Fate.RETRY, Fate.REJECTED]
    assert refused.verdicts[2].error == "slug too long"

"""APIs of jobs that answer what makes no sense: never a bug of ours, and never taken for a word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web

from contract.api import Respond, api
from contract.test_job_sinks import NAME, TOPIC, batch_of
from sluiced.outcome import Again
from sluiced.ports import BrokenResultsError, Progress, Submitted, Undecided
from sluiced.sinks.anthropic_batch import AnthropicBatch
from sluiced.sinks.items import LONGEST_TEXT
from sluiced.sinks.job_settings import AnthropicBatchSettings, OpenAIBatchSettings
from sluiced.sinks.openai_batch import OpenAIBatch
from sluiced.sinks.settings import Line
from sluiced.units import decode

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("kind", ["openai", "anthropic"])]

LATER = 4_000_000_000  # seconds since 1970
DEEP = b"[" * 3000 + b"]" * 3000
ODD = (1, -1, 10**400, "x", [], [1], ["x"], [[]], {}, {"total": None}, {"total": "x"}, {"a": []})
INNER = ([1], [None], [{"line": []}], [{"line": "x", "message": {}}], {}, "x")
KEYS = (
    *("id", "status", "processing_status", "results_url", "created_at", "request_counts"),
    *("errors", "metadata", "data", "cancel_initiated_at", "error", "output_file_id"),
)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "sk-secret")


@asynccontextmanager
async def opened(kind: str, respond: Respond) -> AsyncIterator[Any]:
    types: tuple[Any, Any] = (
        (OpenAIBatchSettings, OpenAIBatch)
        if kind == "openai"
        else (AnthropicBatchSettings, AnthropicBatch)
    )
    async with api(respond) as server:
        table = {"type": f"{kind}-batch", "api_key": {"env": "API_KEY"}, "base_url": server.url}
        sink = types[1](msgspec.convert(table, types[0], dec_hook=decode), Line("pages", [TOPIC]))
        await sink.open()
        try:
            yield sink
        finally:
            await sink.close()


def always(document: Any) -> Respond:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(document))

    return respond


def job(**fields: Any) -> dict[str, Any]:
    usual = {"id": "b", "status": "completed", "processing_status": "ended", "results_url": "x"}
    return {**usual, "created_at": LATER, "request_counts": {"total": 3}, "metadata": {}, **fields}


async def results_of(sink: Any) -> list[Any]:
    return [found async for found in sink.results("b")]


async def test_an_answer_that_comes_in_pieces_is_read_to_its_end(kind: str) -> None:
    first = anyio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        raw = msgspec.json.encode(job(padding="x" * 1000))
        response = web.StreamResponse(headers={"Content-Length": str(len(raw))})
        await response.prepare(request)
        await response.write(raw[:50])
        with anyio.move_on_after(0.2):
            await first.wait()
        await response.write(raw[50:])
        return response

    async with opened(kind, respond) as sink:
        progress = await sink.poll("b")
    assert isinstance(progress, Progress), progress
    assert progress.state == "ended"


@pytest.mark.parametrize("where", KEYS)
async def test_what_stands_in_the_place_of_something_else_is_no_bug(kind: str, where: str) -> None:
    document: dict[str, Any] = {}

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(document))

    odds = [*ODD, *({"data": inner} for inner in INNER), None]
    async with opened(kind, respond) as sink:
        for odd in odds:
            for status in ("completed", "failed"):
                broken = job() | {"status": status, where: odd}
                document.clear()
                document.update({"data": [broken]} | broken)
                said = await sink.poll("b")
                assert isinstance(said, Progress | Again), odd
                if isinstance(said, Progress):
                    assert 0 <= said.done < 2**53
                    assert 0 <= said.total < 2**53
                    assert said.created is None or said.created < 2**53
                found = await sink.find(batch_of(), NAME, ())
                assert isinstance(found, Submitted | Undecided | Again), odd
                assert isinstance(await sink.submit(batch_of(), NAME), Submitted | Again), odd
                assert await sink.cancel("b") is None
                with suppress(BrokenResultsError):
                    await results_of(sink)


@pytest.mark.parametrize(
    "said", [{"data": None}, {"x": 1}, {"data": {}}, {"data": [None]}, {"data": [{"id": 1}]}]
)
async def test_a_list_that_is_none_does_not_prove_that_there_is_no_job(
    kind: str, said: dict[str, Any]
) -> None:
    async with opened(kind, always(said)) as sink:
        found = await sink.find(batch_of(), NAME, ())
    assert isinstance(found, Again)
    assert found.reason == "unknown"


async def test_a_list_that_begins_over_and_over_is_left(kind: str) -> None:
    page = {"data": [job(id="x", request_counts={"total": 1}), job(id="y")], "has_more": True}
    page["data"][1]["request_counts"] = {"total": 1}
    async with opened(kind, always(page)) as sink:
        with anyio.fail_after(30):
            found = await sink.find(batch_of(), NAME, ())
    assert isinstance(found, Again)
    assert "over again" in found.error


@pytest.mark.parametrize("silent", ["/files", "/batches"])
async def test_what_was_made_without_an_id_is_no_job(kind: str, silent: str) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": []})
        return web.json_response({"x": 1} if request.path.endswith(silent) else job())

    async with opened(kind, respond) as sink:
        said = await sink.submit(batch_of(), NAME)
    if (kind, silent) == ("anthropic", "/files"):  # there are none
        assert isinstance(said, Submitted)
        return
    assert isinstance(said, Again)
    assert said.doubtful == (silent == "/batches"), "it may have been made all the same"


@pytest.mark.parametrize("raw", [DEEP, b'"\xff"'], ids=["deep", "no text"])
async def test_a_line_that_cannot_be_read_breaks_the_results_off(kind: str, raw: bytes) -> None:
    line = b'{"custom_id":"x","result":{"type":"succeeded","message":%b},"response":%b}\n'
    content = line % (raw, b'{"status_code":200,"body":%b}' % raw)
    if raw != DEEP:  # then what is passed on unread may hold anything
        content = content.replace(b'"x"', raw)

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.path.endswith(("/content", "/results")):
            return web.Response(body=content)
        if request.path.endswith("/batches"):
            return web.json_response({"data": [job()]})
        return web.json_response(job(output_file_id="f"))

    async with opened(kind, respond) as sink:
        with pytest.raises(BrokenResultsError):
            await results_of(sink)
        if kind == "anthropic":  # which tells by its results whose a job is
            assert isinstance(await sink.find(batch_of(), NAME, ()), Again)


@pytest.mark.parametrize("count", [-1, 10**400], ids=["less", "much more"])
async def test_a_number_of_tokens_that_can_be_none_is_not_counted(kind: str, count: int) -> None:
    usage = {"input_tokens": count, "output_tokens": 7}
    answer = {"model": "m", "usage": usage}
    name = {"custom_id": "x"}
    line = {**name, "response": {"status_code": 200, "body": answer}}
    if kind == "anthropic":
        line = {**name, "result": {"type": "succeeded", "message": answer}}

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.path.endswith(("/content", "/results")):
            return web.Response(body=msgspec.json.encode(line))
        return web.json_response(job(output_file_id="f"))

    async with opened(kind, respond) as sink:
        [found] = await results_of(sink)
    assert (found.input_tokens, found.output_tokens) == (0, 7)


LONG = "x" * 10**6 + " sk-secret"


async def test_a_word_for_what_went_wrong_is_as_short_as_an_explanation(kind: str) -> None:
    error = {"code": LONG, "message": "no", "line": 1}
    failed = {"custom_id": "x", "error": error}
    if kind == "anthropic":
        said = {"type": "errored", "error": {"error": {"type": LONG}}}
        failed = {"custom_id": "x", "result": said}
    document = job(output_file_id="f")

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.path.endswith(("/content", "/results")):
            return web.Response(body=msgspec.json.encode(failed))
        return web.Response(body=msgspec.json.encode(document))

    async with opened(kind, respond) as sink:
        [found] = await results_of(sink)
        assert len(found.verdict.status) <= LONGEST_TEXT
        document = job(status="failed", processing_status=LONG, errors={"data": [error]})
        progress = await sink.poll("b")
        assert len(progress.status) <= LONGEST_TEXT
        if kind == "openai":
            [named] = await results_of(sink)
            assert len(named.verdict.status) <= LONGEST_TEXT

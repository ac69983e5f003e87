"""The provider's book must be right, since the audit believes it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import anyio
import pytest

from sluiced.tools.demo.provider import Pace, served

from .book import Book, Booked, digest
from .provider import ProviderProcess, StormyAnthropic, StormyOpenAI
from .sink import Coordinates
from .weather import Weather

pytestmark = pytest.mark.anyio

HEADERS = {"X-Api-Key": "k", "anthropic-version": "2023-06-01"}
BODY = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def openai() -> AsyncIterator[tuple[StormyOpenAI, Any]]:
    provider = StormyOpenAI(0)
    provider.weather.calm = True
    async with served(provider) as url, aiohttp.ClientSession(f"{url}/v1/", headers=HEADERS) as api:
        yield provider, api


async def _uploaded(api: Any, bodies: Sequence[dict[str, Any]]) -> str:
    lines = [
        {"custom_id": f"x-1-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for n, body in enumerate(bodies)
    ]
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", "\n".join(map(json.dumps, lines)).encode(), filename="f.jsonl")
    async with api.post("files", data=form) as answer:
        return str((await answer.json())["id"])


async def _created(api: Any, bodies: Sequence[dict[str, Any]]) -> tuple[int, Any]:
    asked = {"completion_window": "24h", "endpoint": "/v1/chat/completions"}
    asked["input_file_id"] = await _uploaded(api, bodies)
    async with api.post("batches", json=asked) as answer:
        return answer.status, await answer.json()


async def _over(api: Any, path: str, ended: Sequence[str]) -> None:
    with anyio.fail_after(20):
        while True:
            async with api.get(path) as answer:
                state = await answer.json()
                if state.get("status", state.get("processing_status")) in ended:
                    return
            await anyio.sleep(0.02)


def _said(job: Booked) -> dict[Coordinates, str]:
    return {place: said for place, (said, _) in job.said.items()}


async def test_the_book_has_what_was_said_of_each_line_and_its_answer(
    openai: tuple[StormyOpenAI, Any],
) -> None:
    provider, api = openai
    _, job = await _created(api, [BODY, {**BODY, "poison": "item"}])
    assert _said(provider.book().jobs[0]) == {(1, 0): "working", (1, 1): "working"}
    await _over(api, f"batches/{job['id']}", ["completed"])
    [booked] = provider.book().jobs
    assert _said(booked) == {(1, 0): "done", (1, 1): "refused"}
    async with api.get(f"batches/{job['id']}") as answer:
        output = (await answer.json())["output_file_id"]
    async with api.get(f"files/{output}/content") as answer:
        [line] = [line for line in (await answer.read()).splitlines() if b"x-1-0" in line]
    [body] = line.split(b'"body":')[1:]
    assert booked.said[1, 0][1] == digest(body.removesuffix(b'},"error":null}'))
    assert booked.ended is not None
    assert booked.created < booked.ended


async def test_a_line_that_validation_names_is_refused_and_the_others_may_come_again(
    openai: tuple[StormyOpenAI, Any],
) -> None:
    provider, api = openai
    _, job = await _created(api, [BODY, {**BODY, "poison": "line"}])
    await _over(api, f"batches/{job['id']}", ["failed"])
    [booked] = provider.book().jobs
    assert (booked.status, _said(booked)) == ("failed", {(1, 0): "again", (1, 1): "refused"})


async def test_what_expired_may_come_again_and_a_job_without_an_end_is_at_work(
    openai: tuple[StormyOpenAI, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, api = openai
    monkeypatch.setattr(Weather, "pace", lambda _: Pace(working=60, expires=0.05))
    _, job = await _created(api, [BODY])
    await _over(api, f"batches/{job['id']}", ["expired"])
    assert [_said(job) for job in provider.book().jobs] == [{(1, 0): "again"}]


async def test_a_creation_that_is_refused_leaves_its_file_and_the_book_tells(
    openai: tuple[StormyOpenAI, Any],
) -> None:
    provider, api = openai
    status, _ = await _created(api, [BODY, {**BODY, "poison": "request"}])
    assert status == 400
    assert provider.book() == Book([], ["f.jsonl"], {})


async def test_the_other_provider_keeps_the_same_book() -> None:
    provider = StormyAnthropic(0)
    provider.weather.calm = True
    asked = [BODY, {**BODY, "poison": "item"}]
    requests = [{"custom_id": f"x-1-{n}", "params": body} for n, body in enumerate(asked)]
    async with served(provider) as url, aiohttp.ClientSession(f"{url}/v1/", headers=HEADERS) as api:
        async with api.post("messages/batches", json={"requests": requests}) as answer:
            job = await answer.json()
        assert _said(provider.book().jobs[0]) == {(1, 0): "working", (1, 1): "working"}
        await _over(api, f"messages/batches/{job['id']}", ["ended"])
    [booked] = provider.book().jobs
    assert _said(booked) == {(1, 0): "done", (1, 1): "refused"}
    assert Book.of(json.loads(json.dumps(provider.book().document()))) == provider.book()


def test_as_a_process_it_is_calmed_and_shows_its_book() -> None:
    with ProviderProcess("anthropic", 1) as provider:
        provider.calm()
        assert provider.book() == Book([])


def test_everything_goes_wrong_until_it_is_calm_and_no_line_is_unlucky_for_ever() -> None:
    weather = Weather(1)
    fates = [weather.fate("x", None) for _ in range(1000)]
    assert sum(fate != "done" for fate in fates) == 2
    assert weather.fate("x", "item") == "refused"
    verbs = ("create", "poll", "files")
    faults = [f"{verb} {what}" for verb in verbs for what in ("throttled", "unavailable", "lost")]
    assert all(any(weather.strikes(fault) for _ in range(1000)) for fault in faults)
    weather.calm = True
    assert not any(weather.strikes(fault) for fault in faults for _ in range(1000))
    assert {weather.fate(str(n), None) for n in range(1000)} == {"done"}

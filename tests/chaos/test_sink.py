"""The sink must keep its own promises, since the audit believes what it writes down."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from .sink import SinkProcess, State

pytestmark = pytest.mark.anyio


def _item(offset: int, poison: str | None = None) -> dict[str, Any]:
    value = {"n": offset} | ({"poison": poison} if poison else {})
    return {"p": 0, "o": offset, "k": str(offset), "v": value}


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[SinkProcess]:
    with SinkProcess(0, tmp_path / "journal") as process:
        process.calm()
        yield process


def _post(sink: SinkProcess, key: str, items: list[dict[str, Any]]) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{sink.port}/bulk",
        json.dumps(items).encode(),
        {"Idempotency-Key": key},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_repeat_is_answered_from_memory_and_applies_nothing(sink: SinkProcess) -> None:
    items = [_item(0), _item(1, "item")]
    first, again = _post(sink, "a", items), _post(sink, "a", items)
    assert first == again == (200, {"items": [{"status": 201}, {"status": 422} | _WHY]})
    applied, repeated = sink.attempts()
    assert (applied.how, applied.applied) == ("applied", [(0, 0, "0")])
    assert (repeated.how, repeated.applied, repeated.status) == ("repeated", [], 200)
    assert applied.records == repeated.records == [(0, 0), (0, 1)]
    assert applied.at <= applied.until <= repeated.at


_WHY = {"error": "not acceptable"}


def test_a_key_with_another_body_is_refused_and_noted(sink: SinkProcess) -> None:
    _post(sink, "a", [_item(0)])
    assert _post(sink, "a", [_item(1)])[0] == 422
    assert sink.attempts()[-1].how == "mismatch"
    assert sink.attempts()[-1].applied == []


def test_one_poisoned_record_has_the_whole_request_refused_and_nothing_applied(
    sink: SinkProcess,
) -> None:
    items = [_item(0), _item(1, "request")]
    assert [_post(sink, "a", items)[0] for _ in range(2)] == [400, 400]
    assert [(a.how, a.applied) for a in sink.attempts()] == [("refused", []), ("repeated", [])]


async def test_half_a_request_is_none(sink: SinkProcess) -> None:
    with socket.create_connection(("127.0.0.1", sink.port)) as client:
        head = (
            b"POST /bulk HTTP/1.1\r\nHost: x\r\nIdempotency-Key: a\r\nContent-Length: 100\r\n\r\n"
        )
        client.sendall(head + b"[")
    assert (await asyncio.to_thread(_post, sink, "b", [_item(0)]))[0] == 200
    assert [attempt.key for attempt in sink.attempts()] == ["b"]


async def test_in_a_storm_it_does_all_its_tricks_and_every_record_is_applied_once(
    tmp_path: Path,
) -> None:
    with SinkProcess(3, tmp_path / "journal", pace=0.1) as sink:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(_persist(session, sink, n) for n in range(400)))
        attempts = sink.attempts()
    tricks = {"applied", "vanished", "repeated", "busy", "throttled", "unavailable"}
    assert {attempt.how for attempt in attempts} >= tricks
    applied = [place for attempt in attempts for place in attempt.applied]
    assert len(applied) == len(set(applied)) == 1200


async def _persist(session: aiohttp.ClientSession, sink: SinkProcess, number: int) -> None:
    """Three records until all of them are in, by a client in a hurry: an answer that takes long
    is not waited for. It takes more time for every further one, so that on no machine it waits for
    ever."""
    items = [_item(3 * number + i) for i in range(3)]
    url = f"http://127.0.0.1:{sink.port}/bulk"
    patience = 0.03
    while items:
        headers = {"Idempotency-Key": f"{number}-{'-'.join(str(item['o']) for item in items)}"}
        try:
            waits = aiohttp.ClientTimeout(patience)
            async with session.post(url, json=items, headers=headers, timeout=waits) as answer:
                status, content = answer.status, await answer.json()
        except (TimeoutError, aiohttp.ClientError):
            patience *= 1.2
            continue
        if status != 200:
            await asyncio.sleep(0.01)
        else:
            answers = zip(items, content["items"], strict=True)
            items = [item for item, answer in answers if answer != {"status": 201}]


def test_no_record_is_put_off_more_often_than_a_daemon_puts_up_with() -> None:
    state = State(1, StringIO())
    put_off = 0
    for _ in range(1000):
        answers: Any = state.carry_out([_item(0)])[1]
        put_off += answers["items"] != [{"status": 201}]
    assert put_off == 2


def test_an_answer_that_puts_off_everything_is_not_remembered() -> None:
    state = State(0, StringIO())
    state.take("a", b"digest")
    state.remember("a", 200, {"items": [{"status": 503}, None]})
    assert state.known("a", b"digest") is None
    state.take("a", b"digest")
    assert state.known("a", b"digest") is not None

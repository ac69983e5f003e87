"""Work that an API begins when it is asked, and finishes later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from aiohttp import web

from contract.api import Api, api, batch_of, http_settings, opened
from sluiced.outcome import DELIVERED, Again, Answered, Outcome, Refused

pytestmark = pytest.mark.anyio


def work(*states: tuple[int, Any], begun: Any = None) -> Callable[[web.Request], Any]:
    """An API that begins with `begun` and then is in these states, the last one for ever."""
    left = list(states)

    async def respond(request: web.Request) -> web.Response:
        if request.method == "POST":
            return web.json_response({"id": "a/1"} if begun is None else begun, status=201)
        status, body = left.pop(0) if len(left) > 1 else left[0]
        return web.json_response(body, status=status)

    return respond


async def followed(server: Api, **keys: Any) -> Outcome:
    follow = {
        "url": server.url.replace("/bulk", "/tasks/$found"),
        "found": "/id",
        "status": "/state",
        "pending": ["new", "running"],
        "interval": "1ms",
    }
    response = {"status": "/state", "error": "/why", "delivered": ["done"], "follow": follow}
    settings = http_settings(server.url, response=response, **keys)
    async with opened(settings) as sink:
        return await sink.send(batch_of(2))


async def test_the_last_answer_is_the_one_that_counts() -> None:
    states = [(200, {"state": s}) for s in ("new", "running", "running", "done")]
    async with api(work(*states)) as server:
        assert await followed(server) == Answered([DELIVERED] * 2)
    asked = [(r.method, r.rel_url.raw_path) for r in server.requests]
    assert asked == [("POST", "/bulk"), *[("GET", "/tasks/a%2F1")] * 4]
    assert server.bodies[1:] == [b""] * 4


async def test_work_that_fails_is_a_refusal() -> None:
    async with api(work((200, {"state": "failed", "why": "no title"}))) as server:
        assert await followed(server) == Refused("200", "the API answered 200: no title")


async def test_asking_after_it_sends_the_same_headers_but_those_of_the_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    headers = {
        "Authorization": {"env": "TOKEN"},
        "X-Space": "main",
        "X-Batch": "$batch_id",
        "Content-Type": "application/vnd.x+json",
    }
    async with api(work((200, {"state": "done"}))) as server:
        assert isinstance(await followed(server, headers=headers), Answered)
    sent = server.requests[1].headers
    assert (sent["Authorization"], sent["X-Space"]) == ("secret", "main")
    assert not {"X-Batch", "Content-Type", "Content-Length"} & set(sent)


async def test_trouble_with_asking_does_not_end_the_work() -> None:
    states = [(503, {}), (429, {}), (500, {"state": "failed"}), (200, {"state": "done"})]
    async with api(work(*states)) as server:
        assert isinstance(await followed(server), Answered)
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("state", "begun", "word"),
    [
        ((404, {"state": "failed"}), None, "follow url"),
        ((302, {}), None, "follow url"),
        ((200, {}), None, "follow status"),
        ((200, [1]), None, "follow status"),
        ((200, {"state": "done"}), {}, "follow found"),
        ((200, {"state": "done"}), {"id": None}, "follow found"),
    ],
)
async def test_work_that_cannot_be_found_again_is_unknown(
    state: tuple[int, Any], begun: Any, word: str
) -> None:
    async with api(work(state, begun=begun)) as server:
        outcome = await followed(server)
    assert isinstance(outcome, Again)
    assert outcome.reason == "unknown"
    assert word in outcome.error


@pytest.mark.parametrize("status", [409, 422])
async def test_what_was_refused_at_once_began_nothing(status: int) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.json_response({"id": "1", "why": "one at a time"}, status=status)

    async with api(respond) as server:
        outcome = await followed(server, idempotency_header="Idempotency-Key")
    assert isinstance(outcome, Again if status == 409 else Refused)
    assert (outcome.status, outcome.error) == (
        str(status),
        f"the API answered {status}: one at a time",
    )
    assert len(server.requests) == 1


async def test_all_of_it_is_one_attempt_with_one_deadline() -> None:
    async with api(work((200, {"state": "running"}))) as server:
        with anyio.fail_after(20):
            outcome = await followed(server, timeout="1s")
    assert isinstance(outcome, Again)
    assert outcome.reason == "timeout"
    assert len(server.requests) > 2


async def test_the_api_may_ask_for_more_patience_than_the_interval() -> None:
    async def respond(request: web.Request) -> web.Response:
        headers = {"Retry-After": "60"}
        return web.json_response({"id": "1", "state": "running"}, headers=headers)

    async with api(respond) as server:
        outcome = await followed(server, timeout="1s")
    assert isinstance(outcome, Again)
    assert [r.method for r in server.requests] == ["POST"]

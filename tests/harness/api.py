"""A bulk API on loopback that keeps everything it is sent and misbehaves on command."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass
class Call:
    """One request as it came in. `items` is its body where that is JSON."""

    headers: dict[str, str]
    body: bytes
    items: list[dict[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.headers["Idempotency-Key"]

    @property
    def coordinates(self) -> list[tuple[int, int]]:
        return [(item["p"], item["o"]) for item in self.items]


Answer = Callable[[Call], Awaitable[web.StreamResponse | None]]


class Api:
    """`answer` decides about each call; None is a plain 200, which alone counts as accepted."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.calls: list[Call] = []
        self.accepted: list[Call] = []
        self.url = ""
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/bulk"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()  # request.read() answers 413 from 1 MiB on
        call = Call(dict(request.headers), body)
        with suppress(ValueError):
            call.items = json.loads(body)
        self.calls.append(call)
        answer = await self.answer(call) if self.answer else None
        if answer is None or answer.status < 300:
            self.accepted.append(call)
        return answer if answer is not None else web.Response(text="[]")

    def delivered(self) -> Counter[tuple[int, int]]:
        """(partition, offset) of all accepted records, with how often each came."""
        return Counter(c for call in self.accepted for c in call.coordinates)

    def order(self, partition: int) -> list[int]:
        """The offsets of one partition in the order in which they were accepted."""
        return [o for call in self.accepted for p, o in call.coordinates if p == partition]


class Picky:
    """An API that refuses records which say so, as long as it is picky."""

    def __init__(self) -> None:
        self.picky = True

    async def __call__(self, call: Call) -> web.Response | None:
        bad = self.picky and any("refuse" in str(item["v"]) for item in call.items)
        return web.Response(status=422, text="title is missing") if bad else None

"""Bulk APIs on loopback that can be told to answer anything, and a sink to point at them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from fakes import FakeRecord
from sluiced.batch import Batch, Run
from sluiced.identity import COORDINATES, identity
from sluiced.record import Record, TopicPartition
from sluiced.sinks.http import HttpSink
from sluiced.sinks.http_settings import HttpSettings
from sluiced.units import decode


def http_settings(url: str = "http://127.0.0.1:1/bulk", **keys: Any) -> HttpSettings:
    """Settings as they come from a file. Raises msgspec.ValidationError."""
    table = {"type": "http", "url": url, **keys}
    return msgspec.convert(table, HttpSettings, strict=True, dec_hook=decode)


def records(count: int, **attributes: Any) -> list[Record]:
    return [
        FakeRecord(**{"offset": n, "value": b'{"n":%d}' % n, **attributes}) for n in range(count)
    ]


def batch_of(of: Sequence[Record] | int = 3) -> Batch:
    """A batch of these records, or of so many, in partitions of one epoch."""
    chosen = records(of) if isinstance(of, int) else of
    runs: dict[TopicPartition, list[Record]] = {}
    for record in chosen:
        runs.setdefault(TopicPartition(record.topic, record.partition), []).append(record)
    return Batch.of("pages", [Run(tp, 1, run) for tp, run in runs.items()], "records")


@asynccontextmanager
async def opened(settings: HttpSettings, **options: Any) -> AsyncIterator[HttpSink]:
    options.setdefault("identify", identity(COORDINATES))
    sink = HttpSink(settings, "pages", **options)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Api:
    """An API that reads requests properly and answers as `respond` says."""

    respond: Respond
    url: str = ""
    requests: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        return await self.respond(request)


@asynccontextmanager
async def api(respond: Respond, tls: ssl.SSLContext | None = None) -> AsyncIterator[Api]:
    served = Api(respond)
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{tail:.*}", served.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0][:2]
    served.url = f"{'https' if tls else 'http'}://{host}:{port}/bulk"
    try:
        yield served
    finally:
        await runner.cleanup()


def answering(status: int = 200, body: Any = b"", headers: dict[str, str] | None = None) -> Respond:
    """The same answer for all. What is no bytes becomes JSON."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=raw, headers=headers)

    return respond


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def socket_server(talk: Talk) -> AsyncIterator[str]:
    """A server of raw bytes, for what no HTTP library would say; yields its URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}/bulk"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head and the body of one request with a Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    return head + await reader.readexactly(length)


def saying(raw: bytes, then: Callable[[asyncio.StreamWriter], None] | None = None) -> Talk:
    """Reads a request, says these bytes and closes the connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        await writer.drain()
        if then is not None:
            then(writer)

    return talk

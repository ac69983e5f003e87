"""A bulk API as real ones are: small caps, a request rate, an answer for each item, SQLite behind.

POST /bulk takes

    {"requests": [{"id": "...", "source": {"topic": "...", "partition": 0, "offset": 0,
                   "timestamp": 0}, "body": {"slug": "...", "title": "...", "population": 0}}]}

with an Idempotency-Key, writes what is valid in one transaction, and answers

    {"responses": [{"id": "...", "status": 201, "body": {"message": "created"}}]}

An item is 201 created, 409 there already with the very same content, or 422 refused. The request
is 400 unreadable, 409 still in flight under this key, 413 over a cap, 422 when the key belongs to
other content, 429 over the rate (with Retry-After in seconds). A key that was answered before gets
the stored answer again and changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web

# Nothing but `id` is unique: a record that arrives under two ids shows as two rows, and the audit
# sees it. A row is visible from its request's commit on, which is noted after the commit.
SCHEMA = """
CREATE TABLE requests (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, fingerprint TEXT NOT NULL,
    answer BLOB NOT NULL, committed_ms REAL
);
CREATE TABLE pages (
    id TEXT PRIMARY KEY, topic TEXT, "partition" INTEGER, "offset" INTEGER, produced_ms INTEGER,
    slug TEXT, title TEXT, population INTEGER, latitude REAL, longitude REAL, country TEXT,
    request INTEGER REFERENCES requests (number)
);
"""
CONTENT = "topic, partition, offset, produced_ms, slug, title, population, latitude, longitude"
COLUMNS = f"id, {CONTENT}, country"


class Source(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    offset: int
    timestamp: int


class Page(msgspec.Struct, frozen=True):
    slug: Annotated[str, msgspec.Meta(min_length=1)]
    title: Annotated[str, msgspec.Meta(min_length=1)]
    population: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    latitude: float = 0.0
    longitude: float = 0.0
    country: str = ""


class Item(msgspec.Struct, frozen=True):
    id: str
    source: Source
    body: msgspec.Raw  # decoded by itself, so that one bad page is one bad item


class Envelope(msgspec.Struct, frozen=True):
    requests: list[Item]


@dataclass(frozen=True, slots=True)
class Caps:
    """What the API takes: items and body bytes per request, and requests per second."""

    items: int = 500
    bytes: int = 512 * 1024
    rate: float = 10.0
    burst: int = 10


@dataclass(slots=True)
class Counts:
    """Requests by what became of them, and items by their answer (a replay counts neither)."""

    requests: int = 0
    applied: int = 0
    replayed: int = 0
    throttled: int = 0
    refused: int = 0
    created: int = 0
    existing: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    replay: bool = False
    created: int = 0
    existing: int = 0
    rejected: int = 0


def message(status: int, text: str) -> Reply:
    return Reply(status, msgspec.json.encode({"message": text}))


class Store:
    """The tables. Belongs to one thread, the one that made it."""

    def __init__(self, path: Path, max_items: int) -> None:
        self._max_items = max_items
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + SCHEMA)

    def close(self) -> None:
        self._db.close()

    def apply(self, key: str, body: bytes) -> Reply:
        fingerprint = hashlib.sha256(body).hexdigest()
        stored = self._db.execute(
            "SELECT fingerprint, answer FROM requests WHERE key = ?", (key,)
        ).fetchone()
        if stored is not None:
            if stored[0] != fingerprint:
                return message(422, "this Idempotency-Key was used with other content")
            return Reply(200, stored[1], replay=True)
        try:
            items = msgspec.json.decode(body, type=Envelope).requests
        except msgspec.DecodeError as error:
            return message(400, str(error))
        if len(items) > self._max_items:
            return message(413, f"{len(items)} items, at most {self._max_items} are taken")
        return self._write(key, fingerprint, items)

    def _write(self, key: str, fingerprint: str, items: list[Item]) -> Reply:
        """One transaction: all rows and the answer, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            (number,) = self._db.execute(
                "INSERT INTO requests (key, fingerprint, answer) VALUES (?, ?, '') "
                "RETURNING number",
                (key, fingerprint),
            ).fetchone()
            answers = [self._put(number, item) for item in items]
            body = msgspec.json.encode(
                {
                    "responses": [
                        {"id": item.id, "status": status, "body": {"message": text}}
                        for item, (status, text) in zip(items, answers, strict=True)
                    ]
                }
            )
            self._db.execute("UPDATE requests SET answer = ? WHERE number = ?", (body, number))
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        self._db.execute(
            "UPDATE requests SET committed_ms = ? WHERE number = ?", (time.time() * 1000, number)
        )
        statuses = [status for status, _ in answers]
        return Reply(
            200,
            body,
            created=statuses.count(201),
            existing=statuses.count(409),
            rejected=statuses.count(422),
        )

    def _put(self, number: int, item: Item) -> tuple[int, str]:
        try:
            page = msgspec.json.decode(item.body, type=Page)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return 422, str(error)
        source = item.source
        content = (
            *(source.topic, source.partition, source.offset, source.timestamp),
            *(page.slug, page.title, page.population, page.latitude, page.longitude),
        )
        inserted = self._db.execute(
            f"INSERT INTO pages ({COLUMNS}, request) VALUES (?{', ?' * 11}) "  # noqa: S608
            "ON CONFLICT (id) DO NOTHING",
            (item.id, *content, page.country, number),
        )
        if inserted.rowcount:
            return 201, "created"
        there = self._db.execute(f"SELECT {CONTENT} FROM pages WHERE id = ?", (item.id,)).fetchone()  # noqa: S608
        if there == content:
            return 409, "exists"
        return 422, "another page has this id"


class BulkApi:
    """The HTTP side: caps, rate, keys in flight, counts.

    `before_answer` is awaited when a request has been committed and not yet answered: the moment
    at which a crash of the client is most awkward.
    """

    def __init__(
        self,
        path: Path,
        caps: Caps,
        before_answer: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = Counts()
        self._path = path
        self._caps = caps
        self._before_answer = before_answer
        self._clock = clock
        self._tokens, self._refilled = float(caps.burst), clock()
        self._in_flight: set[str] = set()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=self._caps.bytes)
        app.router.add_post("/bulk", self._bulk)
        app.cleanup_ctx.append(self._storage)
        return app

    async def _storage(self, _app: web.Application) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "bulk-api") as self._thread:
            self._store = await loop.run_in_executor(
                self._thread, Store, self._path, self._caps.items
            )
            yield
            await loop.run_in_executor(self._thread, self._store.close)

    async def _bulk(self, request: web.Request) -> web.Response:
        self.counts.requests += 1
        wait = self._throttle()
        if wait:
            self.counts.throttled += 1
            return _response(message(429, "too many requests"), {"Retry-After": str(wait)})
        reply = await self._judge(request)
        if reply.status != 200:
            self.counts.refused += 1
        return _response(reply)

    async def _judge(self, request: web.Request) -> Reply:
        key = request.headers.get("Idempotency-Key")
        if not key:
            return message(400, "the Idempotency-Key header is missing")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return message(413, f"the body is larger than {self._caps.bytes} bytes")
        if key in self._in_flight:
            return message(409, "a request with this Idempotency-Key is still in flight")
        self._in_flight.add(key)
        try:
            return await self._apply(key, body)
        finally:
            self._in_flight.discard(key)

    async def _apply(self, key: str, body: bytes) -> Reply:
        loop = asyncio.get_running_loop()
        reply = await loop.run_in_executor(self._thread, self._store.apply, key, body)
        if reply.status == 200:
            self.counts.replayed += reply.replay
            self.counts.applied += not reply.replay
            self.counts.created += reply.created
            self.counts.existing += reply.existing
            self.counts.rejected += reply.rejected
            if self._before_answer is not None:
                await self._before_answer()
        return reply

    def _throttle(self) -> int:
        """A token bucket. Takes a token and returns 0, or the whole seconds until there is one."""
        now = self._clock()
        refill = (now - self._refilled) * self._caps.rate
        self._tokens, self._refilled = min(self._tokens + refill, float(self._caps.burst)), now
        if self._tokens < 1:
            return math.ceil((1 - self._tokens) / self._caps.rate)
        self._tokens -= 1
        return 0


def _response(reply: Reply, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=reply.status, body=reply.body, headers=headers, content_type="application/json"
    )


@asynccontextmanager
async def serve(api: BulkApi, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serves the API on a free port and gives its address, "http://HOST:PORT"."""
    runner = web.AppRunner(api.application(), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, 0)
        await site.start()
        port = runner.addresses[0][1]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()

"""The suite that every sink passes, on each of ours, against the real thing or a faithful one."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import cramjam
import msgspec
import pytest
from aiohttp import web

from contract.api import Api, api
from sluiced.sinks.file import FileSettings
from sluiced.sinks.http_settings import HttpSettings
from sluiced.sinks.settings import SinkSettings
from sluiced.testing import SinkContract, Stand, read

BAD = b'{"n":-1}'


class KeyedApi(Stand):
    """A bulk API over HTTP that knows a batch by its key, and answers for each item.

    `whole` makes it an API that takes all of a batch or nothing, and does not say why.
    """

    bad = BAD

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._answers: dict[str, list[dict[str, Any]]] = {}
        self._taken: Counter[int] = Counter()
        self._trouble: web.Response | None = None
        self._silence: anyio.Event | None = None
        self._closed = False
        self.served: Api

    @asynccontextmanager
    async def running(self) -> AsyncIterator[KeyedApi]:
        async with api(self._respond) as self.served:
            yield self

    def settings(self, **keys: Any) -> SinkSettings:
        url = "http://127.0.0.1:1/gone" if self._closed else self.served.url
        items = {} if self._whole else {"items": "", "status": "/status", "error": "/error"}
        keys = {"idempotency_header": "Idempotency-Key", "response": items, **keys}
        return read(HttpSettings, url=url, **keys)

    async def effects(self) -> Counter[int]:
        return Counter(self._taken)

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        if self._closed:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if self._silence is not None:
            await self._silence.wait()
            return web.Response(status=503)
        if self._trouble is not None:
            return self._trouble
        key = request.headers["Idempotency-Key"]
        items = await request.json()
        refused = [item["n"] < 0 for item in items]
        if self._whole and any(refused):
            return web.json_response({"error": "something is wrong"}, status=422)
        if key not in self._answers:
            self._answers[key] = [
                {"status": 422, "error": "n is negative"} if bad else {"status": 201}
                for bad in refused
            ]
            self._taken.update(item["n"] for item in items if item["n"] >= 0)
        return web.json_response(self._answers[key])

    @asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        self._closed = True
        yield
        self._closed = False

    @asynccontextmanager
    async def mute(self) -> AsyncIterator[None]:
        self._silence = silence = anyio.Event()
        yield
        self._silence = None
        silence.set()

    @asynccontextmanager
    async def babbling(self) -> AsyncIterator[None]:
        self._trouble = web.Response(text="<h1>hello</h1>", status=302 if self._whole else 200)
        yield
        self._trouble = None


class TestHttpItemByItem(SinkContract):
    @pytest.fixture
    async def stand(self) -> AsyncIterator[Stand]:
        async with KeyedApi(whole=False).running() as stand:
            yield stand


class TestHttpAllOrNothing(SinkContract):
    @pytest.fixture
    async def stand(self) -> AsyncIterator[Stand]:
        async with KeyedApi(whole=True).running() as stand:
            yield stand


class Directory(Stand):
    """Files are read back as whoever consumes them would: all but those that begin with a dot."""

    def __init__(self, path: Path, compression: str) -> None:
        self._path = path / "out"
        self._path.mkdir()
        self._compression = compression

    def settings(self, **keys: Any) -> SinkSettings:
        keys = {"directory": str(self._path), "compression": self._compression, **keys}
        return read(FileSettings, **keys)

    async def effects(self) -> Counter[int]:
        unpack = {"none": bytes, "gzip": cramjam.gzip.decompress, "zstd": cramjam.zstd.decompress}
        found: Counter[int] = Counter()
        for file in self._path.glob("[!.]*"):
            text = bytes(unpack[self._compression](file.read_bytes()))
            assert text.endswith(b"\n")
            found.update(msgspec.json.decode(line)["n"] for line in text.splitlines())
        return found

    @asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        self._path.rename(self._path.with_name("elsewhere"))
        yield
        self._path.with_name("elsewhere").rename(self._path)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
class TestFile(SinkContract):
    @pytest.fixture
    def stand(self, tmp_path: Path, compression: str) -> Stand:
        return Directory(tmp_path, compression)

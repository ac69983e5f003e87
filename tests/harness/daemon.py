"""The real daemon, as a process of its own, driven as an operator would."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import anyio

from sluiced.tools.embedded_broker import free_ports

_HEAD = """\
name = "pages"

[kafka]
bootstrap_servers = ["{bootstrap}"]
group_id = "{group}"
topics = ["{topic}"]
session_timeout = "6s"
{kafka}

[record]
{record}

[window]
max_records = {max_records}
max_age = "{max_age}"
{window}
"""
_TAIL = """
[retry]
first_delay = "20ms"
max_delay = "200ms"
{retry}

[limits]
{limits}

[dead_letter]
topic = "{dead}"
{dead_letter}

[admin]
listen = "127.0.0.1:{port}"

[shutdown]
drain = "{drain}"

[log]
level = "debug"
format = "json"
"""
_HTTP = """
[sink]
type = "http"
url = "{url}"
idempotency_header = "Idempotency-Key"
{sink}

[sink.body]
item = '{item}'
separator = ","
envelope = "[$items]"

{blocks}
"""
_JOBS = """
[sink]
type = "{type}"
api_key = {key}
base_url = "{url}/v1"
poll = "200ms"
{sink}

[results]
topic = "{topic}.answers"
{results}
"""
_SPOOL = """
[sink]
type = "spool"
directory = "{spool}"
poll = "200ms"
{sink}

[results]
topic = "{topic}.answers"
"""
CONFIG = _HEAD + _HTTP + _TAIL
JOBS = _HEAD + _JOBS + _TAIL
SPOOL = _HEAD + _SPOOL + _TAIL  # the sink of jobs of docs/example


async def until(met: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Returns as soon as `met` holds; looks every 20 ms. Fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for: {what}"
        await anyio.sleep(0.02)


def told(log: str) -> Iterator[dict[str, Any]]:
    """All lines of JSON. One that is being written may be seen without its end, and whoever was
    killed over one has left it so."""
    for line in log.splitlines():
        if line.startswith("{"):
            with suppress(ValueError):
                yield json.loads(line)


class Daemon:
    """`sluiced run` on a configuration made of `CONFIG`, or of a text with the same fields that is
    given as `config`, with these values put in; or of another `text` whole, which has "PORT" where
    the admin port belongs.

    An async context manager; what is still running at its end is killed.
    """

    def __init__(self, directory: Path, text: str = "", **values: str) -> None:
        [self.port] = free_ports(1)
        fields = dict.fromkeys(
            ("kafka", "record", "window", "sink", "blocks", "retry", "limits", "dead_letter"), ""
        )
        fields |= {"item": '{"p":$partition,"o":$offset,"k":$key,"v":$value}'}
        fields |= {"drain": "10s", "max_age": "200ms", "max_records": "100"}
        fields |= {"port": str(self.port)} | values
        self.path = directory / f"pages-{self.port}.toml"
        if text:
            self.path.write_text(text.replace("PORT", str(self.port)))
        else:
            self.path.write_text(fields.get("config", CONFIG).format(**fields))
        self._log = directory / f"pages-{self.port}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.log[-20_000:])
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "the daemon has not been started"
        return self._process

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of this event."""
        return [line for line in told(self.log) if line["event"] == name]

    async def start(self, **environment: str) -> None:
        """Starts the process, again after it has ended; does not wait until it is ready."""
        with self._log.open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "sluiced", "run", str(self.path)),
                stdout=log,
                stderr=log,
                env=os.environ | environment,
            )

    async def ready(self) -> None:
        """Waits until it has partitions and says that it is ready."""
        deadline = time.monotonic() + 60
        while (await self.get("/readyz"))[0] != 200:
            assert self.process.returncode is None, f"the daemon ended: {self.log[-5000:]}"
            assert time.monotonic() < deadline, f"never ready: {self.log[-5000:]}"
            await anyio.sleep(0.05)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of the admin port; 0 where nobody listens."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
            ):
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def status(self) -> dict[str, Any]:
        return dict(json.loads((await self.get("/status"))[1]))

    async def status_when(self, met: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Its status, as soon as it has one that is as wanted."""
        with anyio.fail_after(60):
            while True:
                code, text = await self.get("/status")
                if code == 200 and met(status := dict(json.loads(text))):
                    return status
                await anyio.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def ended(self, seconds: float = 90.0) -> int:
        with anyio.fail_after(seconds):
            return await self.process.wait()

"""Records from 10 bytes to 1 MB against a slow API that fails, under a limit of the kernel.

    python -m soak.run --megabytes 2000 --memory 64MiB

The limit is the budget and 150 MB. The daemon is the real one; it must deliver every record and
must not be killed. What it took at the most is printed beside its budget.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import anyio
import cramjam
from aiohttp import web

from brokers.base import Message, unique
from brokers.tansu import Tansu
from harness.cgroup import Cgroup, peak_rss
from harness.daemon import Daemon, until
from harness.stream import Stream
from sluiced.units import Size

MARGIN = 150 * 10**6  # bytes beyond the budget that the limit allows
SMALLEST, LARGEST = 10, 1_000_000  # bytes of a value
PARTITIONS = 32  # with a window each they want more than there is
CHUNK = 8 * 10**6  # bytes that are produced at a time
AHEAD = 96 * 10**6  # bytes that are written and not delivered yet

BASE64 = '{"p":$partition,"o":$offset,"v":$value_base64}'
CAP = 16 * 1024**2  # bytes of an answer; sink.response max_bytes is not set

# How a daemon is configured: what makes bodies larger than records, what compresses them, and
# windows of both kinds.
PROFILES: dict[str, dict[str, str]] = {
    "plain": {},
    "compressed": {"sink": 'compression = "gzip"', "limits": "max_in_flight = 4"},
    "long answers": {"limits": "max_in_flight = 2", "sink": 'max_bytes = "30MB"'},
    "answers at the cap": {"limits": "max_in_flight = 4"},
    "base64": {"limits": "max_in_flight = 4", "item": BASE64},
    "zstd, a window each": {
        "sink": 'compression = "zstd"',
        "limits": "max_in_flight = 4",
        "window": 'span = "partition"',
    },
}
BLOCKS = '[sink.response]\nitems = ""\nstatus = "/s"'


@dataclass
class Slow:
    """An API that takes its time, fails in every way it can, and answers at length."""

    dice: Random
    patience: float
    open: anyio.Event
    echo: int  # of so many characters of each value
    fill: int = 0  # bytes up to which an answer is filled, half of them with small objects
    done: set[tuple[int, int]] = field(default_factory=set)
    bytes: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        await self.open.wait()
        await anyio.sleep(self.dice.uniform(0, self.patience))
        draw = self.dice.random()
        if draw < 0.1:
            self.answers["503"] += 1
            return web.Response(status=503)
        if draw < 0.15:
            self.answers["429"] += 1
            return web.Response(status=429, headers={"Retry-After": "0.1"})
        if draw < 0.18:
            self.answers["cut"] += 1
            request.transport.abort() if request.transport else None
        return self._taken(unpacked(body, request.headers.get("Content-Encoding", "")))

    def _taken(self, items: list[dict[str, Any]]) -> web.StreamResponse:
        self.answers["200"] += 1
        verdicts = []
        for item in items:
            where = (item["p"], item["o"])
            later = self.dice.random() < 0.02 and len(items) > 1
            if not later and where not in self.done:
                self.done.add(where)
                self.bytes += len(item["v"])
            verdicts.append({"s": 503 if later else 200, "echo": item["v"][: self.echo]})
        return web.Response(body=filled(json.dumps(verdicts).encode(), self.fill))


def filled(answer: bytes, size: int) -> bytes:
    """The list with more in its last item, up to that size: a text, and as many objects as an
    answer may hold."""
    if len(answer) + 1000 > size:
        return answer
    objects = b",".join([b'{"code":200,"field":"title"}'] * (CAP // 200 - 2000))
    text = b"x" * max(0, size - len(answer) - len(objects) - 100)
    return answer[:-2] + b',"text":"%b","why":[%b]}]' % (text, objects)


def unpacked(body: bytes, coding: str) -> list[dict[str, Any]]:
    match coding:
        case "gzip":
            body = gzip.decompress(body)
        case "zstd":
            body = bytes(cramjam.zstd.decompress(body))
    items: list[dict[str, Any]] = json.loads(body)
    return items


def values(dice: Random, total: int) -> Iterator[bytes]:
    """JSON strings whose sizes are spread evenly over their orders of magnitude, half of them such
    as no compression makes smaller."""
    while total > 0:
        size = int(SMALLEST * (LARGEST / SMALLEST) ** dice.random())
        text = dice.randbytes(size // 2 + 1).hex()[:size] if dice.random() < 0.5 else "x" * size
        total -= size
        yield b'"%s"' % text[: max(1, size - 2)].encode()


async def produce(
    stream: Stream, dice: Random, total: int, api: Slow, alive: Callable[[], bool]
) -> int:
    """Writes that many bytes, not too far ahead of the API if it is open and the daemon is alive;
    how many records they are."""
    count = written = 0
    chunk: list[Message] = []
    size = 0
    for value in values(dice, total):
        chunk.append(Message(value, b"k%d" % count, partition=count % PARTITIONS))
        count, size = count + 1, size + len(value)
        if size > CHUNK:
            await stream.broker.produce(stream.topic, chunk)
            written, size, chunk = written + size, 0, []
            while api.open.is_set() and written - api.bytes > AHEAD and alive():
                await anyio.sleep(0.05)
    await stream.broker.produce(stream.topic, chunk)
    return count


@dataclass
class Found:
    """What a soak has come to. `limited` is by what the limit was enforced."""

    profile: str
    memory: int
    peak: int
    limited: str
    kills: int
    records: int
    delivered: int
    bytes: int
    seconds: float
    answers: Counter[str]
    code: int

    @property
    def sound(self) -> bool:
        return not self.kills and self.code == 0 and self.delivered == self.records

    def __str__(self) -> str:
        mb, over = 10**6, (self.peak - self.memory) / 10**6
        return (
            f"{self.profile}: {self.records} records of {self.bytes / mb:.0f} MB in "
            f"{self.seconds:.0f} s, answers {dict(self.answers)}\n"
            f"  budget {self.memory / mb:6.1f} MB   limit {(self.memory + MARGIN) / mb:6.1f} MB "
            f"({self.limited})\n"
            f"  peak   {self.peak / mb:6.1f} MB   over the budget {over:6.1f} MB"
            f"   killed {self.kills}   exit code {self.code}   delivered {self.delivered}"
        )


class Limit:
    """The budget and its margin for one process: by a cgroup, or else by RLIMIT_DATA."""

    def __init__(self, memory: int) -> None:
        self._bytes = memory + MARGIN
        try:
            self._cgroup: Cgroup | None = Cgroup(self._bytes)
        except OSError:
            self._cgroup = None

    def take(self, pid: int) -> None:
        if self._cgroup is not None:
            self._cgroup.take(pid)
        else:
            resource.prlimit(pid, resource.RLIMIT_DATA, (self._bytes, self._bytes))

    def __str__(self) -> str:
        return "cgroup" if self._cgroup else "RLIMIT_DATA"

    @property
    def kills(self) -> int:
        return self._cgroup.kills if self._cgroup else 0

    def close(self) -> None:
        if self._cgroup is not None:
            self._cgroup.__exit__(None, None, None)


async def soak(
    directory: Path,
    profile: str,
    memory: int,
    total: int,
    *,
    patience: float = 0.3,
    stalled: bool = False,
    seed: int = 0,
) -> Found:
    """Runs one profile to the end of `total` bytes. `stalled` is an API that answers nothing until
    all of them are written."""
    api = Slow(
        *(Random(seed), patience, anyio.Event()),
        echo=LARGEST if profile == "long answers" else 2000,
        fill=CAP if profile == "answers at the cap" else 0,
    )
    if not stalled:
        api.open.set()
    began, limit = time.monotonic(), Limit(memory)
    runner = web.ServerRunner(web.Server(api.handle, auto_decompress=False), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = {**PROFILES[profile], "blocks": BLOCKS, "max_age": "500ms", "drain": "60s"}
    settings["limits"] = f'memory = "{memory}B"\n' + settings.get("limits", "")
    settings["url"] = "http://{}:{}/bulk".format(*runner.addresses[0][:2])
    settings["retry"] = "max_item_attempts = 100"
    try:
        with Tansu() as broker:
            stream = Stream(broker, directory, unique("pages"), unique("group"))
            await broker.create_topic(stream.topic, partitions=PARTITIONS)
            await broker.create_topic(stream.dead)
            values = {"bootstrap": broker.bootstrap, "group": stream.group, "dead": stream.dead}
            async with Daemon(directory, topic=stream.topic, **values, **settings) as daemon:
                limit.take(daemon.process.pid)
                await daemon.ready()
                alive = daemon.process
                count = await produce(
                    stream, Random(seed), total, api, lambda: alive.returncode is None
                )
                api.open.set()
                await until(
                    lambda: len(api.done) == count or alive.returncode is not None,
                    f"all records: {len(api.done)} of {count}",
                    600,
                )
                peak = peak_rss(alive.pid) if alive.returncode is None else 0
                code = await daemon.stop() if alive.returncode is None else alive.returncode
        return Found(
            *(profile, memory, peak, str(limit), limit.kills, count, len(api.done), api.bytes),
            *(time.monotonic() - began, api.answers, code or 0),
        )
    finally:
        limit.close()
        await runner.cleanup()


async def main() -> int:
    parser = argparse.ArgumentParser(prog="soak.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000, help="of records, each profile")
    parser.add_argument("--memory", default="64MiB", help="[limits] memory (64MiB)")
    parser.add_argument("--profile", choices=PROFILES, nargs="*", default=list(PROFILES))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sound = True
    for profile in arguments.profile:
        with tempfile.TemporaryDirectory() as directory:
            found = await soak(
                Path(directory),
                profile,
                int(Size.parse(arguments.memory)),
                arguments.megabytes * 10**6,
                seed=arguments.seed,
            )
        print(found, flush=True)
        sound &= found.sound
    return 0 if sound else 1


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(anyio.run(main))

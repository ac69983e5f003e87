"""How much memory the daemon takes when the sink never answers and far more is waiting.

The window is as large as `check` lets it be, so that the memory budget and not the window is what
holds the daemon back; the sink's timeout is short, so that the request is made again and again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from brokers.base import unique
from brokers.tansu import Tansu

from .contestants import Running, Site, daemon, running
from .produce import fill, page
from .server import Server

BUDGET = 256 * 1024**2  # limits.memory, the default
ALLOWANCE = 150 * 1000**2  # for the interpreter, the libraries and what malloc keeps

_WINDOW = 'max_records = 1_000_000\nmax_bytes = "64MiB"'
_SINK = 'max_records = 1_000_000\nmax_bytes = "80MiB"\ntimeout = "3s"'

_POLL_SECONDS = 0.5
_FLAT_SECONDS = 8.0  # two attempts at the sink
_FLAT_BYTES = 1_000_000
_AT_MOST_SECONDS = 60.0


@dataclass(frozen=True)
class Stall:
    """Records of `record_bytes`, `waiting` bytes of them; `rss` is the most that was held."""

    record_bytes: int
    waiting: int
    rss: int
    attempts: int
    flat: bool


def stall(record_bytes: int, waiting: int, server: Server, directory: Path) -> Stall:
    """Fills a broker of its own, since it keeps all of it in memory. Raises DidNotFinishError."""
    waiting = min(waiting, psutil.virtual_memory().available // 2)
    count = waiting // record_bytes
    topic, dead_letters = unique("stalled"), unique("stalled-dead")
    with Tansu() as broker:
        asyncio.run(_prepare(broker, topic, dead_letters, count, record_bytes))
        site = Site(broker.bootstrap, topic, dead_letters, server.url, directory)
        command = daemon(
            site, unique("stalled"), path="/stalled", window=_WINDOW, sink=_SINK, drain="2s"
        )
        with running(command) as contestant:
            server.begin(contestant.pid)
            flat = _watch(contestant, lambda: int(server.progress()["stalled"]))
            return Stall(
                record_bytes,
                count * record_bytes,
                contestant.peak_rss(),
                int(server.progress()["stalled"]),
                flat,
            )


async def _prepare(
    broker: Tansu, topic: str, dead_letters: str, count: int, record_bytes: int
) -> None:
    await broker.create_topic(dead_letters)
    await fill(broker, topic, (page(seq, record_bytes) for seq in range(count)))


def _watch(contestant: Running, attempts: Callable[[], int]) -> bool:
    """Waits until memory has stopped growing, after the sink was tried; False if it never does."""
    started = grew = time.monotonic()
    peak = 0
    while time.monotonic() - started < _AT_MOST_SECONDS:
        time.sleep(_POLL_SECONDS)
        contestant.check()
        now = contestant.peak_rss()
        if now > peak + _FLAT_BYTES:
            peak, grew = now, time.monotonic()
        elif not attempts():
            grew = time.monotonic()
        elif time.monotonic() - grew > _FLAT_SECONDS:
            return True
    return False

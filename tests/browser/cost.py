"""What the page costs the daemon: `python -m browser.cost [SECONDS]`, printed and not asserted.

An idle daemon's CPU time, with nobody looking and with two pages open, in turns.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import psutil

from brokers.tansu import Tansu
from browser.chromium import Chromium
from harness.api import Api
from harness.daemon import Daemon
from harness.stream import make_stream


async def load(daemon: Daemon, seconds: float) -> float:
    """Its share of one CPU over that time, in percent."""
    process = psutil.Process(daemon.process.pid)
    before = process.cpu_times()
    await anyio.sleep(seconds)
    after = process.cpu_times()
    return 100 * (after.user + after.system - before.user - before.system) / seconds


async def measure(seconds: float, rounds: int = 2, pages: int = 2) -> None:
    with Tansu() as broker, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        stream = await make_stream(broker, Path(scratch))
        async with (
            Api() as api,
            stream.daemon(api) as daemon,
            Chromium(Path(scratch)) as chromium,
        ):
            await daemon.ready()
            await stream.produce(5000)  # so that there are recent batches to tell of
            while (await daemon.status())["totals"]["delivered"] < 5000:
                await anyio.sleep(0.1)
            for _ in range(rounds):
                idle = await load(daemon, seconds)
                async with AsyncExitStack() as tabs:
                    url = f"http://127.0.0.1:{daemon.port}/"
                    opened = [
                        await tabs.enter_async_context(chromium.open(url)) for _ in range(pages)
                    ]
                    for page in opened:
                        await page.shows("#state", "Running")
                    watched = await load(daemon, seconds)
                    asked = sum(r.endswith("/status") for page in opened for r in page.requests)
                print(
                    f"{seconds:g} s: {idle:.2f} % of a CPU unwatched, {watched:.2f} % with "
                    f"{pages} pages and {asked} answers: {watched - idle:+.2f} %"
                )


if __name__ == "__main__":
    asyncio.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0))

"""Does `auto` find the best load of a real server? Run by `make bench-loads`.

The pipeline and the HTTP sink of the daemon, fed from memory, send to an aiohttp server that
behaves as one of `loads.models`, or as one and then as another. Its best fixed setting is known by
construction; what that delivers here is measured first, and then what `auto` does after so many
seconds of finding out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import anyio
import structlog
from aiohttp import web

from fakes import Log, Rig
from loads.models import Model
from sluiced.gate import LimitSettings
from sluiced.identity import COORDINATES, identity
from sluiced.sinks.http import HttpSink
from sluiced.sinks.http_settings import HttpSettings
from sluiced.window import WindowSettings

MOST_SLOTS, MOST_RECORDS = 32, 1000
AHEAD = 20_000  # records that are always there to be read

MODELS = {
    "4 workers": Model(4, 0.02, 0.0002, 0.0),
    "fixed cost, 8 workers": Model(8, 0.1, 0.00002, 0.0),
    "413 above 250 records": Model(4, 0.02, 0.0002, 0.0, records=250),
    "a cliff at 300 records": Model(4, 0.02, 0.0002, 0.0, cliff=300),
    "429 above 6 requests": Model(16, 0.05, 0.0003, 0.0, concurrent=6),
    "a spread of a third": Model(4, 0.02, 0.0002, 0.0, noise=0.33),
    "429 above 3, not 12": Model(16, 0.05, 0.0003, 0.0, concurrent=3),
}
# What a server is at first, if it changes: then `auto` has found out about another one.
BEFORE = {"429 above 3, not 12": Model(16, 0.05, 0.0003, 0.0, concurrent=12)}


class Server:
    """One model, over HTTP: JSON arrays in, the model's status out, when it says so."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.inside = 0
        self._workers = asyncio.Semaphore(model.workers)
        self._dice = Random(0)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        records = (await request.content.read()).count(b",") + 1
        verdict = self.model.verdict(records, self.inside, self._dice)
        if verdict != "ok":
            return web.Response(status=413 if verdict == "too large" else 429)
        self.inside += 1
        try:
            async with self._workers:
                await asyncio.sleep(self.model.seconds(records, self.inside, self._dice))
        finally:
            self.inside -= 1
        return web.Response()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        runner = web.ServerRunner(web.Server(self.handle), access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}/bulk"
        finally:
            await runner.cleanup()


def best(model: Model) -> tuple[int, int]:
    """The smallest fixed setting that delivers the most."""
    settings = [
        (slots, size)
        for slots in range(1, MOST_SLOTS + 1)
        for size in (*range(50, MOST_RECORDS + 1, 50),)
    ]
    most = max(model.goodput(*setting) for setting in settings)
    return next(s for s in settings if model.goodput(*s) >= 0.999 * most)


async def measure(
    model: Model,
    fixed: tuple[int, int] | None,
    learn: float,
    seconds: float,
    before: Model | None = None,
) -> tuple[float, int, float]:
    """Records a second over `seconds`, after `learn` seconds; and the setting at the end. As long
    the server is like the one `before`, if there is one."""
    server = Server(before or model)
    async with server.running() as url:
        sink = HttpSink(HttpSettings(url=url), "pages", identity(COORDINATES), format="bytes")
        window = WindowSettings(max_records=fixed[1] if fixed else "auto")
        limits = LimitSettings(
            max_in_flight=fixed[0] if fixed else "auto", most_in_flight=MOST_SLOTS
        )
        rig = Rig(
            sink,  # type: ignore[arg-type]
            Log(),
            window=window,
            limits=limits,
            most_records=None if fixed else MOST_RECORDS,
            drain=1.0,
        )
        await sink.open()
        async with rig.running(), anyio.create_task_group() as tasks:
            tasks.start_soon(_feed, rig)
            if before is not None:
                await anyio.sleep(learn)
                server.model = model
            await anyio.sleep(learn)
            started = rig.metrics.totals()["delivered"]
            await anyio.sleep(seconds)
            delivered = rig.metrics.totals()["delivered"] - started
            setting = rig.gate.slots, rig.pipeline.buffer.windows.most_records or 0
            tasks.cancel_scope.cancel()
        await sink.close()
        if rig.error is not None:
            raise rig.error
    return delivered / seconds, *setting


async def _feed(rig: Rig) -> None:
    """Keeps the log ahead of the pipeline, and forgets what has been read."""
    ((tp, records),) = rig.log.records.items()
    while True:
        read = rig.source.positions.get(tp, 0)
        if (missing := read + AHEAD - rig.log.ends[tp]) > AHEAD // 4:
            rig.log.append(*[b"{}"] * missing, tp=tp)
            del records[: max(0, len(records) - 2 * AHEAD)]
        await anyio.sleep(0.01)


async def compare(names: list[str], learn: float, seconds: float) -> list[dict[str, object]]:
    rows = []
    for name in names:
        model = MODELS[name]
        slots, size = best(model)
        fixed, _, _ = await measure(model, (slots, size), 2.0, seconds)
        auto, found_slots, found_size = await measure(model, None, learn, seconds, BEFORE.get(name))
        rows.append(
            {
                "server": name,
                "best": f"{slots} x {size}",
                "fixed": round(fixed),
                "found": f"{found_slots} x {found_size}",
                "auto": round(auto),
                "ratio": round(auto / fixed, 3),
            }
        )
        print(
            f"{name:24} best {slots:2} x {size:4}: {fixed:7.0f}/s   "
            f"auto {found_slots:2} x {found_size:4}: {auto:7.0f}/s   {auto / fixed:.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.loads", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(map(repr, MODELS))}; all of them")
    parser.add_argument("--learn", type=float, default=120.0, help="seconds to find out in (120)")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds to measure for (20)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON at the end")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    names = arguments.names or list(MODELS)
    rows = asyncio.run(compare(names, arguments.learn, arguments.seconds))
    if arguments.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()

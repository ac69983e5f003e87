"""One limit for a whole group, kept by daemons that know nothing of each other."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from brokers.kafka import Kafka
from harness.api import Api, Call
from harness.daemon import Daemon, until
from harness.stream import make_stream

pytestmark = pytest.mark.anyio

PER_MINUTE = 12_000
PER_SECOND = PER_MINUTE / 60
WINDOW = 1.0  # seconds: far less than the limit's minute, which it holds in by its even pace
BATCH = 10  # records
BURST = 12  # likewise, 0.001 of the limit


class Meter:
    """Notes when records come in, and takes its time: often a request is under way."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.sums = [0]

    async def __call__(self, call: Call) -> web.Response | None:
        self.times.append(time.monotonic())
        self.sums.append(self.sums[-1] + len(call.items))
        await anyio.sleep(0.02)
        return None

    def within(self, start: float, end: float) -> int:
        return self.sums[bisect_right(self.times, end)] - self.sums[bisect_right(self.times, start)]

    def most(self) -> int:
        """Records within any window."""
        return max(accumulate((self.within(at - WINDOW, at) for at in self.times), max))


async def has(daemon: Daemon, *, limit: int, partitions: int) -> None:
    """Returns once the daemon has so many partitions and this limit."""
    with anyio.fail_after(60):
        while len((status := await daemon.status())["partitions"]) != partitions:
            await anyio.sleep(0.05)
    found = {each["name"]: each["limit"] for each in status["limits"]}
    assert found["records_per_minute"] == limit


async def test_two_daemons_keep_one_limit_together_while_partitions_move_between_them(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream, meter = await make_stream(kafka, tmp_path), Meter()
    await stream.produce(20_000)
    values = {
        "limits": f'records_per_minute = {PER_MINUTE}\nburst = 0.001\nshare = "group"',
        "window": 'span = "partition"',  # a batch of several may be cut by a rebalance
        "max_records": f"{BATCH}",
        "drain": "2s",
    }

    async def used() -> None:
        """Returns after a window in which nothing has moved and the limit was used. On a busy
        machine a part of it may go to waste, in many a window."""
        begun = time.monotonic()

        def so() -> bool:
            now = time.monotonic()
            return now - WINDOW > begun and meter.within(now - WINDOW, now) >= 0.5 * PER_SECOND

        await until(so, "a window in which the limit is used")

    async with Api(meter) as api:
        first = stream.daemon(api, **values)
        async with first:
            await until(lambda: meter.times, "a request")
            await has(first, limit=PER_MINUTE, partitions=4)
            await used()
            async with stream.daemon(api, **values) as second:
                await second.ready()
                await has(second, limit=PER_MINUTE // 2, partitions=2)
                await has(first, limit=PER_MINUTE // 2, partitions=2)
                await used()
                assert await second.stop() == 0
            await has(first, limit=PER_MINUTE, partitions=4)
            await used()
            assert await first.stop() == 0
    # Either member may have saved a burst, and have had one request on its way for long.
    assert meter.most() <= PER_SECOND * WINDOW + 2 * (BURST + BATCH)
    requests = {call.key: call for call in api.accepted}
    assert all(call.body == requests[call.key].body for call in api.accepted)
    delivered = Counter(c for call in requests.values() for c in call.coordinates)
    assert set(delivered.values()) == {1}, "a record comes again at most under the same key"
    checkpoints = await stream.checkpoints()
    assert all((p, o) in delivered for p, end in checkpoints.items() for o in range(end))

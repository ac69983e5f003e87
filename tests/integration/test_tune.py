"""`sluiced tune` on real brokers, as it is typed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from aiohttp import web

from brokers.base import Broker
from harness.api import Api, Call
from harness.cli import sluiced
from harness.stream import Stream, make_stream
from sluiced.config import load

pytestmark = pytest.mark.anyio

EDGE = 150


@pytest.fixture
async def stream(broker: Broker, tmp_path: Path) -> Stream:
    made = await make_stream(broker, tmp_path)
    await made.produce(2000)
    return made


async def taking(call: Call) -> web.Response:
    """Forty milliseconds for a request, beside which the machine's own pace is little, and no more
    than EDGE records."""
    if len(call.items) > EDGE:
        return web.Response(status=413)
    await asyncio.sleep(0.04)
    return web.Response(text="[]")


async def test_without_yes_it_says_what_it_would_send_and_sends_nothing(stream: Stream) -> None:
    async with Api(taking) as api:
        path = stream.daemon(api).path
        planned = await sluiced("tune", path)
    assert planned.code == 0, planned.err
    assert planned.lines[0].startswith(f"Would send 2,000 records of {stream.topic} (")
    assert planned.lines[-1] == "Nothing was sent; --yes sends it."
    assert api.calls == []


async def groups(broker: Broker) -> set[str]:
    async with broker.admin() as admin:
        return {group for group, *_ in await admin.list_consumer_groups()}


async def test_limits_are_kept_and_named_where_they_and_not_the_api_bound_the_throughput(
    stream: Stream,
) -> None:
    moments: list[float] = []

    async def counting(call: Call) -> web.Response:
        moments.append(asyncio.get_running_loop().time())
        return web.Response(text="[]")

    async with Api(counting) as api:
        path = stream.daemon(api, limits="requests_per_second = 10").path
        done = await sluiced("tune", path, "--yes", "--requests", "40", "--minutes", "0.5")
        planned = await sluiced("tune", path, "--requests", "40", "--minutes", "0.05")
    assert done.code == 0, done.err
    # In all, since one that came late may be close to the next ones.
    assert len(moments) > 20
    assert moments[-1] - moments[0] >= (len(moments) - 1) / 10 - 0.5
    text = " ".join(done.out.split())
    assert "limits.requests_per_second = 10, not the API, is what bounds it" in text
    assert "limits.requests_per_second = 10 has held requests back for" in text
    assert "No more than 30 requests can go out in 0.05 minutes" in " ".join(planned.out.split())


async def test_the_best_setting_is_found_reported_and_written(
    stream: Stream, tmp_path: Path
) -> None:
    report = tmp_path / "tune.html"
    async with Api(taking) as api, Api(taking) as other:
        path = stream.daemon(api).path
        before = await stream.checkpoints()
        path.write_text(path.read_text().replace("max_records =", "# as agreed\nmax_records ="))
        done = await sluiced(
            *("tune", path, "--yes", "--url", other.url, "--requests", "300"),
            *("--report", report, "--write"),
        )
    assert done.code == 0, done.err
    assert api.calls == [], "all went to the other address"
    assert all(len(line) <= 80 for line in done.lines if str(tmp_path) not in line), done.out
    written = load(path)
    # Whether it is the best is asked in test_tune_sweep.py: here the pace of the machine counts.
    told = re.search(r"([\d,]+) records a request and (\d+) at once", " ".join(done.out.split()))
    assert told is not None, done.out
    assert [written.window.max_records, written.limits.max_in_flight] == list(
        map(int, told.groups())
    )
    assert 1 < written.window.max_records <= EDGE
    assert written.sink.max_records <= EDGE
    assert "# as agreed" in path.read_text()
    assert written.sink.url == api.url, "the address of --url is not written"  # type: ignore[union-attr]
    assert "<svg" in report.read_text()
    assert await stream.checkpoints() == before, "the group has not been touched"
    assert stream.group not in await groups(stream.broker), "nor is there one"
    keys = [call.key for call in other.calls]
    assert len(set(keys)) == len(keys) <= 300

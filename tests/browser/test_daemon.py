"""The page of a real daemon between a real broker and an API that misbehaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from brokers.tansu import Tansu
from browser.chromium import Chromium
from harness.api import Api, Call
from harness.daemon import until
from harness.stream import Stream, make_stream

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stream(tansu: Tansu, tmp_path: Path) -> Stream:
    return await make_stream(tansu, tmp_path)


async def test_the_page_shows_what_a_daemon_does_and_follows_it(
    chromium: Chromium, stream: Stream
) -> None:
    await stream.produce(1000)
    async with Api() as api, stream.daemon(api) as daemon:
        await daemon.ready()
        url = f"http://127.0.0.1:{daemon.port}/"
        async with chromium.open(url) as page:
            await page.shows("#state", "Running")
            await page.shows("#totals", "1,000")
            await page.shows("#lag", "0")
            assert await page.text("#pipeline") == "pages"
            assert "count delivered" in await page.text("#batches")
            for partition in range(4):
                assert f"{stream.topic}/{partition}" in await page.text("#partitions")
            await stream.produce(250, start=1000)
            await page.shows("#totals", "1,250")
            assert "age delivered" in await page.text("#batches"), "the last one was not full"
            assert page.complaints == []
            assert [u for u in page.requests if not u.startswith(url)] == []
            assert await daemon.stop() == 0
            await page.shows("#state", "No answer")


async def test_the_page_says_why_the_api_takes_nothing_and_when_it_does_again(
    chromium: Chromium, stream: Stream
) -> None:
    down = True

    async def answer(_: Call) -> web.Response | None:
        return web.Response(status=503, text="being deployed") if down else None

    await stream.produce(100)
    async with Api(answer) as api, stream.daemon(api) as daemon:
        await until(lambda: api.calls, "the first request")
        async with chromium.open(f"http://127.0.0.1:{daemon.port}/") as page:
            await page.shows("#state", "Outage")
            await page.shows("#reason", "503")
            await page.shows("#errors", "The API answered with an error")
            assert "the API answered 503" in await page.text("#errors")
            await page.shows("#gate", "held: outage")
            await page.shows("#gate", "1 of 1 in flight")
            down = False
            await page.shows("#state", "Running")
            await page.shows("#gate", "open")
            await page.shows("#totals", "100")
            assert page.complaints == []


async def test_the_page_says_why_the_line_has_halted(chromium: Chromium, stream: Stream) -> None:
    async def refuse(_: Call) -> web.Response:
        return web.Response(status=422, text="slug <b>must</b> not be empty")

    await stream.produce(100)
    brake = "max_ratio = 0.1\nmax_ratio_window = 20"
    async with Api(refuse) as api, stream.daemon(api, dead_letter=brake) as daemon:
        await until(lambda: api.calls, "the first request")
        async with chromium.open(f"http://127.0.0.1:{daemon.port}/") as page:
            await page.shows("#state", "Halted")
            await page.shows("#reason", "max_ratio is 0.1")
            assert "SIGHUP" in await page.text("#reason")
            assert page.complaints == []

"""Active times and watermarks, on a real broker with the real daemon."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from brokers.base import Broker, unique
from brokers.kafka import Kafka
from harness.api import Api, Call
from harness.cli import sluiced
from harness.daemon import until
from harness.stream import Stream, later, make_stream

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stream(kafka: Kafka, tmp_path: Path) -> Stream:
    return await make_stream(kafka, tmp_path)


async def watermarks(broker: Broker, topic: str) -> list[dict[str, Any]]:
    return [json.loads(record.value or b"") for record in await broker.read(topic)]


async def latest(broker: Broker, topic: str) -> dict[int, dict[str, Any]]:
    return {mark["partition"]: mark for mark in await watermarks(broker, topic)}


async def test_outside_of_the_active_times_the_daemon_waits_until_it_is_told_otherwise(
    stream: Stream,
) -> None:
    active = later()
    await stream.produce(40)
    async with Api() as api, stream.daemon(api, window=f'active = "{active}"') as daemon:
        await daemon.ready()
        code, text = await daemon.get("/readyz")
        assert (code, text) == (200, f"waiting until {active[:5]} UTC\n")
        with anyio.fail_after(60):  # the lag is looked up every few seconds
            while (status := await daemon.status())["partitions"][0]["lag"] != 10:
                await anyio.sleep(0.1)
        assert (status["state"], status["schedule"]["open"]) == ("waiting", False)
        assert status["partitions"][0]["position"] == 0
        assert (await daemon.get("/livez"))[0] == 200
        assert not api.calls
        daemon.path.write_text(daemon.path.read_text().replace(active, "00:00-24:00 UTC"))
        daemon.signal(signal.SIGHUP)
        await until(lambda: len(api.delivered()) == 40, "40 records")
        assert (await daemon.get("/readyz")) == (200, "ok\n")
        daemon.path.write_text(daemon.path.read_text().replace("00:00-24:00 UTC", active))
        daemon.signal(signal.SIGHUP)
        await until(lambda: len(daemon.events("release_ends")) == 2, "the end of the release")
        await stream.produce(4, start=40)
        assert await daemon.stop() == 0
        assert len(api.delivered()) == 40


async def test_watermarks_tell_how_far_each_partition_is_visible(stream: Stream) -> None:
    topic = unique("marks")
    await stream.broker.create_topic(topic)
    held = anyio.Event()

    async def hold(call: Call) -> web.Response | None:
        if any(item["p"] == 3 for item in call.items):
            await held.wait()
        return None

    blocks = f'[freshness]\ntopic = "{topic}"\ninterval = "1s"'
    before = datetime.now(UTC) - timedelta(seconds=1)
    await stream.produce(40)
    values = {"window": 'span = "partition"', "limits": "max_in_flight = 4", "blocks": blocks}
    async with Api(hold) as api, stream.daemon(api, **values) as daemon:
        with anyio.fail_after(60):
            while True:
                marks = await latest(stream.broker, topic)
                if [marks.get(n, {}).get("checkpoint") for n in range(4)] == [10, 10, 10, 0]:
                    break
                await anyio.sleep(0.2)
        mark = marks[2]
        assert (mark["pipeline"], mark["topic"]) == ("pages", stream.topic)
        visible = datetime.fromisoformat(mark["visible_until"])
        assert before <= visible <= datetime.fromisoformat(mark["at"]) <= datetime.now(UTC)
        assert marks[3]["visible_until"] is None
        held.set()
        await until(lambda: len(api.delivered()) == 40, "the held ones")
        assert await daemon.stop() == 0
    marks = await latest(stream.broker, topic)
    assert marks[3]["checkpoint"] == 10, "what the drain has done is published as well"
    assert marks[3]["visible_until"] is not None
    keys = {record.key for record in await stream.broker.read(topic)}
    assert keys == {f"pages/{stream.topic}/{n}".encode() for n in range(4)}


async def test_a_missing_watermark_topic_is_refused_at_the_start_and_by_check(
    stream: Stream,
) -> None:
    topic = unique("missing")
    async with Api() as api, stream.daemon(api, blocks=f'[freshness]\ntopic = "{topic}"') as daemon:
        assert await daemon.ended() == 1
        assert f"freshness.topic: {topic} does not exist" in daemon.log
        checked = await sluiced("check", daemon.path, "--connect")
    assert checked.code == 2
    assert topic in checked.err


async def test_watermarks_that_cannot_be_published_are_a_warning_and_hold_nothing_up(
    stream: Stream, kafka: Kafka
) -> None:
    topic = unique("marks")
    await kafka.create_topic(topic)
    blocks = f'[freshness]\ntopic = "{topic}"\ninterval = "1s"'
    async with Api() as api, stream.daemon(api, blocks=blocks) as daemon:
        await daemon.ready()
        async with kafka.admin() as admin:
            await admin.delete_topics([topic])
        await until(lambda: daemon.events("watermarks_not_published"), "a warning", 60)
        await stream.produce(40)
        await until(lambda: len(api.delivered()) == 40, "40 records")
        assert (await daemon.get("/readyz"))[0] == 200
        assert await daemon.stop() == 0


async def test_check_warns_of_a_topic_that_forgets_before_the_active_times_begin(
    stream: Stream, kafka: Kafka
) -> None:
    short = unique("short")
    await kafka.create_topic(short, config={"retention.ms": "3600000"})
    hours = 'active = "22:00-06:00 UTC"'
    async with Api() as api:
        daemon = stream.daemon(api, topic=short, window=hours)
        checked = await sluiced("check", daemon.path, "--connect")
    assert checked.code == 0
    assert f"released for up to 16h, and {short} keeps its records for 1h" in checked.err

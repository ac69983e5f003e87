"""`sluiced preview` on real brokers: what it prints is what a daemon then sends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from brokers.base import Broker
from brokers.kafka import Kafka
from harness.api import Api, Call
from harness.cli import Ended, sluiced
from harness.daemon import until
from harness.stream import Stream, make_stream

pytestmark = pytest.mark.anyio


def requests(shown: Ended) -> dict[str, str]:
    """Body by idempotency key."""
    parts = re.split(r"^# \d+: batch ", shown.out, flags=re.M)[1:]
    return {part.split(",")[0]: part.partition("\n\n")[2].splitlines()[0] for part in parts}


@pytest.fixture
async def stream(broker: Broker, tmp_path: Path) -> Stream:
    return await make_stream(broker, tmp_path)


async def test_the_windows_that_are_full_are_shown_as_they_are_then_sent(stream: Stream) -> None:
    await stream.produce(800)
    values = {"window": 'span = "partition"', "max_age": "1h"}  # they are closed when they are full
    async with Api() as api, stream.daemon(api, **values) as daemon:
        await until(lambda: len(api.delivered()) == 800, "all records")
        assert await daemon.stop() == 0
        await stream.produce(800, start=800)
        before = await stream.checkpoints()
        calls = len(api.calls)
        shown = await sluiced("preview", daemon.path, "--batches", "4")
        assert shown.code == 0
        assert len(api.calls) == calls, "nothing is sent"
        assert await stream.checkpoints() == before, "and nothing is committed"
        found = requests(shown)
        assert len(found) == 4
        await daemon.start()
        await until(lambda: len(api.delivered()) == 1600, "all records")
    sent = {call.key: call.body.decode() for call in api.calls[calls:]}
    assert {key: sent.get(key) for key in found} == found


async def test_what_does_not_get_into_a_request_is_told(stream: Stream) -> None:
    await stream.produce(3)
    await stream.broker.produce(stream.topic, [b"not json"])
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 3, "the records")
        await until(lambda: daemon.events("dead_lettered"), "the burial")
        assert await daemon.stop() == 0
        nothing = await sluiced("preview", daemon.path)
        assert "Nothing waits" in nothing.out
        [at] = await stream.broker.produce(stream.topic, [b"not json"])
        shown = await sluiced("preview", daemon.path)
    said = f"# {stream.topic}/{at.partition}/{at.offset} would be dead-lettered as invalid"
    assert said in shown.out


async def test_a_plan_of_a_daemon_that_was_killed_comes_first_and_unchanged(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(1000)

    async def mute(_: Call) -> web.Response | None:
        await anyio.sleep_forever()
        return None

    async with Api(mute) as api:
        async with stream.daemon(api, limits="max_in_flight = 3") as daemon:
            await until(lambda: len(api.calls) == 3, "three requests")
            await daemon.kill()
        shown = await sluiced("preview", daemon.path, "--batches", "20")
    found = requests(shown)
    assert {call.key: found.get(call.key) for call in api.calls} == {
        call.key: call.body.decode() for call in api.calls
    }
    closed_by = re.findall("^# closed by ([a-z]+)", shown.out, re.M)
    assert closed_by.count("plan") >= 3
    assert closed_by == sorted(closed_by, key=lambda why: why != "plan"), "those go first"
    records = [len(json.loads(body)) for body in found.values()]
    assert sum(records) == 1000

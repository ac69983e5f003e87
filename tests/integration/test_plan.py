"""The plan in the commit's metadata, on a real Apache Kafka and with real processes.

Tansu does not keep the metadata of a commit, so that there is no plan to find on it.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from aiohttp import web

from brokers.base import unique
from brokers.kafka import Kafka
from harness.api import Api, Call
from harness.cli import sluiced
from harness.daemon import until
from harness.stream import Stream, make_stream
from sluiced.metadata import decode

pytestmark = pytest.mark.anyio


class Mute:
    """An API that takes everything and answers nothing, until it is told to."""

    def __init__(self) -> None:
        self.silent = True

    async def __call__(self, _: Call) -> web.Response | None:
        if self.silent:
            await anyio.sleep_forever()
        return None


def sent(calls: list[Call]) -> dict[str, bytes]:
    return {call.key: call.body for call in calls}


async def planned(stream: Stream) -> list[str]:
    """The ids of the open batches, as the group's checkpoint has them."""
    found = await stream.broker.committed(stream.group, stream.topic)
    return [entry.id for at in found.values() for entry in decode(*at) if entry.id]


@pytest.mark.parametrize("span", ["topics", "partition"])
async def test_after_a_kill_the_very_same_requests_are_made_again_whatever_the_window_is_now(
    kafka: Kafka, tmp_path: Path, span: str
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(1000)
    mute = Mute()
    async with Api(mute) as api:
        limits, window = "max_in_flight = 3", f'span = "{span}"'
        async with stream.daemon(api, limits=limits, window=window) as daemon:
            await until(lambda: len(api.calls) == 3, "three requests")
            await daemon.kill()
        before = sent(api.calls)
        assert set(before) <= set(await planned(stream)), "each was durable before it was sent"
        api.calls.clear()
        mute.silent = False
        async with stream.daemon(api, window="max_bytes = '300B'") as daemon:
            await until(lambda: len(api.delivered()) == 1000, "all records")
            assert await daemon.stop() == 0
    after = sent(api.calls)
    assert {key: after.get(key) for key in before} == before
    assert set(api.delivered().values()) == {1}
    assert await stream.checkpoints() == dict.fromkeys(range(4), 250)
    assert await planned(stream) == []


async def test_a_batch_closed_by_time_is_the_same_after_a_kill_although_more_has_come(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(40)
    mute = Mute()
    async with Api(mute) as api:
        async with stream.daemon(api) as daemon:
            await until(lambda: api.calls, "a request")
            await daemon.kill()
        [first] = api.calls
        await stream.produce(40, start=40)
        mute.silent = False
        async with stream.daemon(api):
            await until(lambda: len(api.delivered()) == 80, "all records")
    assert (api.calls[1].key, api.calls[1].body) == (first.key, first.body)


async def test_the_limit_of_the_brokers_metadata_is_asked_for_and_kept(
    kafka_jars: Path, tmp_path: Path
) -> None:
    with Kafka(kafka_jars, tmp_path, {"offset.metadata.max.bytes": "128"}) as kafka:
        stream = Stream(kafka, tmp_path, unique("pages"), unique("group"))
        await kafka.create_topic(stream.topic)
        await kafka.create_topic(stream.dead)
        await kafka.produce(stream.topic, [b"{}"] * 1000)
        mute = Mute()
        async with Api(mute) as api, stream.daemon(api, limits="max_in_flight = 8") as daemon:
            await until(lambda: len(api.calls) == 3, "as many as fit into 128 bytes")
            assert (await daemon.status())["limits"][0]["used"] == 3
            assert await planned(stream) == [call.key for call in sorted(api.calls, key=order)]
            await daemon.kill()
            mute.silent = False
            await daemon.start()
            await until(lambda: len(api.delivered()) == 1000, "all records")
            assert await daemon.stop() == 0
    assert set(api.delivered().values()) == {1}


def order(call: Call) -> tuple[int, int]:
    return call.coordinates[0]


async def test_a_broker_whose_metadata_has_no_room_for_a_plan_is_refused_at_the_start(
    kafka_jars: Path, tmp_path: Path
) -> None:
    with Kafka(kafka_jars, tmp_path, {"offset.metadata.max.bytes": "64"}) as kafka:
        stream = await make_stream(kafka, tmp_path)
        async with Api() as api, stream.daemon(api) as daemon:
            assert await daemon.ended() == 1
            assert "offset.metadata.max.bytes is 64" in daemon.log
            assert "Traceback" not in daemon.log


async def test_metadata_of_somebody_else_is_counted_and_written_over(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(40)
    await kafka.commit(stream.group, stream.topic, {0: (5, "a note"), 1: (0, "sluiced")})
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 35, "the records after the checkpoint")
        metrics = (await daemon.get("/metrics"))[1]
        assert 'sluiced_foreign_metadata_total{pipeline="pages"} 2.0' in metrics
        assert await daemon.stop() == 0
    assert dict(await kafka.committed(stream.group, stream.topic)) == dict.fromkeys(
        range(4), (10, "")
    )


async def test_a_plan_of_a_newer_version_ends_the_daemon_before_anything_is_sent_and_stays(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(40)
    newer = {0: (5, "sluiced2:0+5=job"), 1: (0, "")}
    await kafka.commit(stream.group, stream.topic, newer)
    async with Api() as api, stream.daemon(api) as daemon:
        assert await daemon.ended() == 1
        [fatal] = daemon.events("fatal")
        assert f"checkpoint of {stream.topic}/0 is in the format sluiced2" in fatal["error"]
        assert "Go on with the version that wrote it" in fatal["error"]
        preview = await sluiced("preview", daemon.path)
        assert preview.code == 1
        assert "which this version of sluiced cannot read" in preview.err
        assert "Traceback" not in daemon.log
    assert api.calls == []
    found = await kafka.committed(stream.group, stream.topic)
    assert {0: found[0], 1: found[1]} == newer


async def test_a_group_that_starts_at_the_end_stays_there_although_it_dies_before_it_has_delivered(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(40)
    async with Api() as api, stream.daemon(api, kafka='start_at = "latest"') as daemon:
        await daemon.ready()
        while len(await stream.checkpoints()) < 4:
            await anyio.sleep(0.02)
        await daemon.kill()
        await stream.produce(40, start=40)
        await daemon.start()
        await until(lambda: len(api.delivered()) == 40, "what came while it was down")

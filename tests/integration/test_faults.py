"""Faults of the world around the daemon, each a real one: the broker, the log, the supervisor."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from anyio import to_thread

from brokers.base import Message, unique
from brokers.kafka import Kafka
from harness.api import Api, Call
from harness.daemon import until
from harness.stream import Stream, exactly_once, make_stream

pytestmark = pytest.mark.anyio


async def test_a_broker_that_is_killed_and_comes_back_costs_time_and_no_record(
    own_kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(own_kafka, tmp_path)
    await stream.produce(400)
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 400, "400 records before")
        with anyio.fail_after(30):
            while sum((await stream.checkpoints()).values()) < 400:
                await anyio.sleep(0.05)
        await to_thread.run_sync(own_kafka.kill)
        await to_thread.run_sync(own_kafka.start)
        await stream.produce(400, start=400)
        await until(lambda: len(api.delivered()) == 800, "400 records after", 90)
        assert await daemon.stop() == 0
        assert api.delivered() == exactly_once(4, 200)
    assert await stream.checkpoints() == dict.fromkeys(range(4), 200)


async def test_a_damaged_batch_stops_its_partition_and_the_others_go_on(
    own_kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(own_kafka, tmp_path)
    await stream.produce(400)
    await to_thread.run_sync(own_kafka.stop)
    [segment] = tmp_path.glob(f"**/{stream.topic}-2/00000000000000000000.log")
    content = bytearray(segment.read_bytes())
    content[-3] ^= 0xFF
    segment.write_bytes(content)
    await to_thread.run_sync(own_kafka.start)
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: len(daemon.events("partition_stopped")) == 1, "the stop")
        await until(lambda: len(api.delivered()) >= 300, "the other partitions")
        assert daemon.events("partition_stopped")[0]["partition"] == f"{stream.topic}/2"
        await stream.broker.produce(stream.topic, [Message(b"1", partition=0)])
        await until(lambda: (0, 100) in api.delivered(), "a new record of a sound partition")
        assert await daemon.stop() == 0
        delivered = api.delivered()
    assert all(delivered[p, o] == 1 for p in (0, 1, 3) for o in range(100))
    checkpoints = await stream.checkpoints()
    assert checkpoints[0] == 101
    damaged = checkpoints.get(2, 0)
    assert damaged < 100
    assert all(delivered[2, o] for o in range(damaged)), "nothing of it is passed over"


async def test_a_member_that_slept_past_its_session_commits_nothing_late(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    held = anyio.Event()

    async def hold_the_first(_: Call) -> web.Response | None:
        if len(api.calls) == 1:
            await held.wait()
        return None

    await stream.produce(40)
    async with Api(hold_the_first) as api, stream.daemon(api) as zombie:
        await until(lambda: len(api.calls) == 1, "the zombie's request")
        zombie.signal(signal.SIGSTOP)
        async with stream.daemon(api) as heir:
            await until(lambda: len(api.delivered()) == 40, "all records by the heir", 60)
            await stream.produce(40, start=40)
            await until(lambda: len(api.delivered()) == 80, "more records by the heir", 60)
            with anyio.fail_after(30):
                while sum((await stream.checkpoints()).values()) < 80:
                    await anyio.sleep(0.05)
            held.set()
            zombie.signal(signal.SIGCONT)
            await until(lambda: len(zombie.events("revoked")) == 1, "the zombie knows", 60)
            assert sum((await stream.checkpoints()).values()) == 80, "and moved nothing back"
            await until(lambda: len(zombie.events("assigned")) == 2, "it takes part again", 60)
            await stream.produce(40, start=80)
            await until(lambda: len(api.delivered()) == 120, "the rest, by both", 60)
            assert await heir.stop() == 0
        assert await zombie.stop() == 0
    assert await stream.checkpoints() == dict.fromkeys(range(4), 30)


async def test_batches_that_overtake_one_another_commit_a_prefix(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = Stream(kafka, tmp_path, unique("pages"), unique("group"))
    await kafka.create_topic(stream.topic)
    await kafka.create_topic(stream.dead)
    await kafka.produce(stream.topic, [Message(b"%d" % n) for n in range(400)])
    release = anyio.Event()

    async def hold_the_first(call: Call) -> web.Response | None:
        if call.coordinates[0] == (0, 100):
            await release.wait()
        return None

    async with (
        Api(hold_the_first) as api,
        stream.daemon(api, limits="max_in_flight = 3") as daemon,
    ):
        await until(lambda: len(api.delivered()) == 300, "the batches around the held one")
        with anyio.fail_after(30):
            while (await stream.checkpoints()).get(0) != 100:
                await anyio.sleep(0.05)
        assert len((await daemon.status())["in_flight"]) == 1
        release.set()
        await until(lambda: len(api.delivered()) == 400, "the held batch")
        assert await daemon.stop() == 0
    assert await stream.checkpoints() == {0: 400}


async def test_systemd_is_told_of_ready_watchdog_and_stopping(kafka: Kafka, tmp_path: Path) -> None:
    stream = await make_stream(kafka, tmp_path)
    address = str(tmp_path / "notify")
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(address)
        notify.setblocking(False)

        def heard(word: str) -> bool:
            try:
                while True:
                    told.append(notify.recv(4096).decode())
            except BlockingIOError:
                return any(word in message for message in told)

        os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"] = address, "400000"
        try:
            async with Api() as api, stream.daemon(api) as daemon:
                await until(lambda: heard("READY=1"), "READY")
                await until(lambda: heard("WATCHDOG=1"), "WATCHDOG")
                assert not heard("STOPPING=1")
                assert await daemon.stop() == 0
                assert heard("STOPPING=1")
        finally:
            del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]

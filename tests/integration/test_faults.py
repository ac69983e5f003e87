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
from harness.cli import sluiced
from harness.daemon import until
from harness.prometheus import Prometheus
from harness.stream import Stream, exactly_once, make_stream

pytestmark = pytest.mark.anyio


async def test_a_broker_that_is_killed_and_comes_back_costs_time_and_no_record(
    own_kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(own_kafka, tmp_path)
    await stream.produce(400)
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 400, "400 records before")
        with anyio.fail_after(60):
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
        told = await sluiced("status", daemon.path)
        assert f"stopped {stream.topic}/2: the log is damaged there" in " ".join(told.out.split())
        assert [line.split()[-1] for line in told.lines if "STOPPED" in line] == ["STOPPED"]
        async with Prometheus(tmp_path, [f"127.0.0.1:{daemon.port}"]) as prometheus:
            labels = await prometheus.until_firing("SluicedPartitionStopped")
            assert labels["severity"] == "critical"
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
            with anyio.fail_after(60):
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
        with anyio.fail_after(60):
            while (await stream.checkpoints()).get(0) != 100:
                await anyio.sleep(0.05)
        await daemon.status_when(lambda status: len(status["in_flight"]) == 1)
        release.set()
        await until(lambda: len(api.delivered()) == 400, "the held batch")
        assert await daemon.stop() == 0
    assert await stream.checkpoints() == {0: 400}


async def test_systemd_is_told_of_ready_watchdog_reload_and_stopping(
    kafka: Kafka, tmp_path: Path
) -> None:
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
                told.clear()
                daemon.signal(signal.SIGHUP)
                await until(lambda: heard("STATUS=reloaded"), "a reload")
                daemon.path.write_text("name = 3\n")
                daemon.signal(signal.SIGHUP)
                await until(lambda: heard("STATUS=reload refused"), "a reload that is refused")
                words = [m.partition("\n")[0] for m in told if not m.startswith("WATCHDOG")]
                assert words == ["RELOADING=1", "READY=1"] * 2
                assert not heard("STOPPING=1")
                assert await daemon.stop() == 0
                assert heard("STOPPING=1")
        finally:
            del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]


async def test_a_flush_that_outlasts_the_session_keeps_its_place_in_the_group(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)

    async def take_long(_: Call) -> web.Response | None:
        await anyio.sleep(9.0 if len(api.calls) == 1 else 0.0)  # the session is of 6 s
        return None

    await stream.produce(400)
    async with Api(take_long) as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 400, "400 records")
        assert await daemon.stop() == 0
        assert len(daemon.events("assigned")) == 1
        assert api.delivered() == exactly_once(4, 100)
    assert await stream.checkpoints() == dict.fromkeys(range(4), 100)


async def test_a_broker_that_hangs_bounds_the_commit_and_costs_no_record(
    own_kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(own_kafka, tmp_path)
    await stream.produce(400)

    async def freeze_before_the_commit(_: Call) -> web.Response | None:
        if len(api.calls) == 1:
            own_kafka.freeze()
        return None

    async with Api(freeze_before_the_commit) as api, stream.daemon(api) as daemon:
        await until(lambda: daemon.events("commit_not_acknowledged"), "the end of its patience")
        assert daemon.events("commit_not_acknowledged")[0]["outcome"] == "unknown"
        own_kafka.thaw()
        await stream.produce(400, start=400)
        await until(lambda: len(api.delivered()) == 800, "all records", 90)
        with anyio.fail_after(60):
            while sum((await stream.checkpoints()).values()) < 800:
                await anyio.sleep(0.05)
        own_kafka.freeze()
        daemon.signal(signal.SIGTERM)
        assert await daemon.ended(60) == 0, "nor does a stop wait for it"
        own_kafka.thaw()


async def test_gaps_of_a_compacted_log_are_passed_over(kafka: Kafka, tmp_path: Path) -> None:
    stream = Stream(kafka, tmp_path, unique("pages"), unique("group"))
    config = {
        "cleanup.policy": "compact",
        "segment.ms": "50",
        "min.cleanable.dirty.ratio": "0.001",
    }
    await kafka.create_topic(stream.topic, config=config)
    await kafka.create_topic(stream.dead)
    await kafka.produce(stream.topic, [Message(b"%d" % n, b"key-%d" % (n % 7)) for n in range(100)])
    with anyio.fail_after(60):
        while len(left := await kafka.read(stream.topic)) > 90:
            # Only what no longer grows is compacted: one more record begins a new segment.
            await kafka.produce(stream.topic, [Message(b"0", b"last")])
            await anyio.sleep(0.2)
    [end] = (await kafka.end_offsets(stream.topic)).values()
    assert [r.offset for r in left] != list(range(end)), "there are gaps"
    async with Api() as api, stream.daemon(api) as daemon:
        with anyio.fail_after(60):
            while await stream.checkpoints() != {0: end}:
                await anyio.sleep(0.05)
        assert await daemon.stop() == 0
        assert set(api.delivered()) <= {(0, r.offset) for r in left}
        assert {(0, r.offset) for r in await kafka.read(stream.topic)} <= set(api.delivered())


async def test_a_checkpoint_beyond_the_end_of_the_log_stops_the_daemon_and_stays(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(40)
    await kafka.commit(stream.group, stream.topic, {2: (500, "")})
    async with Api() as api, stream.daemon(api) as daemon:
        assert await daemon.ended() == 3
        assert f"{stream.topic}/2: the checkpoint 500 lies beyond the end of the log" in daemon.log
        assert "Traceback" not in daemon.log
    assert (await stream.checkpoints())[2] == 500

"""The real daemon in a world that has turned against it: bombs, a jumping clock, a full disk."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import anyio
import pytest

from brokers.base import Broker, Message
from brokers.kafka import Kafka
from harness.api import Api
from harness.daemon import Daemon, until
from harness.stream import Stream, exactly_once, make_stream

pytestmark = pytest.mark.anyio

# Read by every Python that finds it on its path: a wall clock that is off by up to ten days, by
# another amount at every look.
JUMPING_CLOCK = """\
import random, time
true, jumps = time.time, random.Random(0)
time.time = lambda: true() + jumps.uniform(-864000, 864000)
"""


@pytest.fixture
async def stream(broker: Broker, tmp_path: Path) -> Stream:
    return await make_stream(broker, tmp_path)


async def committed(stream: Stream, expected: dict[int, int]) -> None:
    with anyio.fail_after(60):
        while await stream.checkpoints() != expected:
            await anyio.sleep(0.05)


def most_memory(daemon: Daemon) -> int:
    """The most that the process has ever held, in bytes."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


async def test_a_batch_that_unpacks_without_end_stops_its_partition_by_name(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(40)
    bomb = b'"' + b"x" * 300_000_000 + b'"'
    async with kafka.producer(compression_type="zstd", max_request_size=2**30) as producer:
        await producer.send_and_wait(stream.topic, bomb, partition=2)
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: daemon.events("partition_stopped"), "the stop")
        [stopped] = daemon.events("partition_stopped")
        assert stopped["partition"] == f"{stream.topic}/2"
        assert stopped["offset"] == 10, "the records before it are delivered"
        assert "unpacks to more than" in stopped["error"]
        await stream.broker.produce(stream.topic, [Message(b"1", partition=0)])
        await until(lambda: len(api.delivered()) == 41, "everything but the bomb")
        assert most_memory(daemon) < 250_000_000
        assert await daemon.stop() == 0
    assert await stream.checkpoints() == {0: 11, 1: 10, 2: 10, 3: 10}


async def test_a_batch_may_unpack_to_a_quarter_of_the_memory(kafka: Kafka, tmp_path: Path) -> None:
    stream = await make_stream(kafka, tmp_path)
    large = b'"' + b"x" * 20_000_000 + b'"'
    async with kafka.producer(compression_type="zstd", max_request_size=2**30) as producer:
        await producer.send_and_wait(stream.topic, large, partition=2)
    async with Api() as api, stream.daemon(api, limits='memory = "256MiB"') as daemon:
        await until(lambda: daemon.events("dead_lettered"), "its burial: no API takes as much")
        assert daemon.events("partition_stopped") == []
        assert await daemon.stop() == 0


async def test_a_record_that_the_api_can_never_take_is_named_in_the_log_and_passed(
    stream: Stream,
) -> None:
    async with stream.broker.producer(compression_type="gzip", max_request_size=2**30) as producer:
        value = b'"' + b"x" * 12_000_000 + b'"'
        await producer.send_and_wait(stream.topic, value, partition=1)
        await producer.send_and_wait(stream.topic, b"1", partition=1)
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 1, "the record after it")
        await committed(stream, {1: 2})
        assert await daemon.stop() == 0
        [buried] = daemon.events("dead_lettered")
    assert (buried["reason"], buried["first"]) == ("too_large", f"{stream.topic}/1/0")


async def test_a_wall_clock_that_jumps_by_days_changes_nothing(
    stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    await stream.produce(400)
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 400, "full windows")
        await stream.produce(8, start=400)
        await until(lambda: len(api.delivered()) == 408, "a window that closes by its age")
        await committed(stream, dict.fromkeys(range(4), 102))
        assert (await daemon.get("/livez"))[0] == 200
        assert (await daemon.get("/readyz"))[0] == 200
        assert await daemon.stop() == 0
        assert api.delivered() == exactly_once(4, 102)


async def test_on_a_full_disk_records_are_delivered_buried_and_committed(stream: Stream) -> None:
    async with Api() as api, stream.daemon(api) as daemon:
        await daemon.ready()
        # From here on every write to a file fails, that of the log included.
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (0, 0))
        before = daemon.log
        await stream.produce(400)
        await stream.broker.produce(stream.topic, [Message(b"{broken", partition=0)])
        await until(lambda: len(api.delivered()) == 400, "400 records")
        await committed(stream, {0: 101, 1: 100, 2: 100, 3: 100})
        assert (await daemon.status())["state"] == "running"
        assert await daemon.stop() == 0
        assert daemon.log == before, "the disk was full indeed"
    assert [letter.value for letter in await stream.broker.read(stream.dead)] == [b"{broken"]


async def test_a_broken_file_does_no_harm_to_a_daemon_that_runs(stream: Stream) -> None:
    async with Api() as api, stream.daemon(api) as daemon:
        await daemon.ready()
        daemon.path.write_text("name = ")
        daemon.signal(signal.SIGHUP)
        await until(lambda: daemon.events("reload_refused"), "the refusal")
        await stream.produce(400)
        await until(lambda: len(api.delivered()) == 400, "400 records as before")
        assert await daemon.stop() == 0

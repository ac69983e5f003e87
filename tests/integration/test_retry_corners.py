"""`[dead_letter] retry_after` at its bounds, on a real Kafka: the rate, a full turn, a full memory,
the command at the same time. The daemon's own redriver runs here in the test's process."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
import structlog
from aiokafka.errors import ProducerFenced
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokers.base import Message, unique
from brokers.kafka import Kafka
from harness.api import Api
from harness.cli import sluiced
from harness.daemon import until
from harness.stream import Stream, make_stream
from sluiced.config import load
from sluiced.errors import SluicedError
from sluiced.metrics import Metrics
from sluiced.redrive import automatic, memory, scanning
from sluiced.redrive.automatic import Redriver
from sluiced.redrive.to_topic import to_topic
from sluiced.redrive.work import Report, group_of
from sluiced.tools.dead_letters import redrive as command
from sluiced.tools.dead_letters.selection import Selection

pytestmark = pytest.mark.anyio


class Rig:
    """A stream with dead letters, and a redriver to whom all of them are due."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        daemon = stream.daemon(
            Api(), url="http://127.0.0.1:1/bulk", dead_letter='retry_after = "1s"'
        )
        self.path = daemon.path
        self.registry = CollectorRegistry()
        self.redriver = Redriver(
            load(daemon.path), Metrics("pages", self.registry), lambda: True, _in_an_hour
        )

    async def bury(self, reasons: list[str], stub: bytes | None = None) -> None:
        """One letter for each reason, with its number as the value, or a stub in its place."""
        origin = {"topic": self.stream.topic, "partition": "0"}
        await self.stream.broker.produce(
            self.stream.dead,
            [
                Message(
                    stub or b"%d" % n,
                    headers=[
                        *((f"__connect.errors.{k}", v.encode()) for k, v in origin.items()),
                        ("__connect.errors.offset", b"%d" % n),
                        ("sluiced.reason", reason.encode()),
                        ("sluiced.group", self.stream.group.encode()),
                        ("sluiced.failed_at", datetime.now(UTC).isoformat().encode()),
                        *([("sluiced.stub", b"true")] if stub else []),
                    ],
                    partition=0,
                )
                for n, reason in enumerate(reasons)
            ],
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.redriver.run, stop)
            yield
            stop.set()

    def counted(self, outcome: str) -> int:
        labels = {"pipeline": "pages", "outcome": outcome}
        return int(self.registry.get_sample_value("sluiced_redriven_total", labels) or 0)

    async def copies(self) -> Counter[bytes | None]:
        return Counter(record.value for record in await self.stream.broker.read(self.stream.topic))


def _in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
async def rig(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    # Another test in this process may have configured that only errors are logged.
    before = structlog.get_config()
    structlog.reset_defaults()
    monkeypatch.setattr(automatic, "log", structlog.get_logger("sluiced.redrive"))
    yield Rig(await make_stream(kafka, tmp_path))
    structlog.configure(**before)


@pytest.fixture
async def may_be_fenced() -> AsyncIterator[None]:
    """A producer of aiokafka's that is shut out says so in a task that nobody waits for, too."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), ProducerFenced):
            assert before is not None
            before(loop, context)

    loop.set_exception_handler(handle)
    yield
    loop.set_exception_handler(before)


def once_each(numbers: list[int]) -> Counter[bytes | None]:
    return Counter({b"%d" % n: 1 for n in numbers})


async def test_no_more_go_back_in_a_second_than_the_rate_allows(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert automatic.RATE == 100
    monkeypatch.setattr(automatic, "RATE", 40.0)
    await rig.bury(["rejected"] * 90)
    begun = time.monotonic()
    async with rig.running():
        await until(lambda: rig.counted("sent") == 90, "all of them")
    assert time.monotonic() - begun >= 2.0, "40, a second, 40, a second, 10"
    assert await rig.copies() == once_each(list(range(90)))


async def test_more_letters_than_one_turn_takes_go_in_the_next_ones_each_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert automatic.IN_ONE_TURN == 1000
    monkeypatch.setattr(automatic, "IN_ONE_TURN", 30)
    monkeypatch.setattr(automatic, "RATE", 0.0)
    await rig.bury(["rejected", "rejected", "invalid"] * 40)
    with capture_logs() as lines:
        async with rig.running():
            await until(lambda: rig.counted("sent") == 80, "all of them")
    turns = [line["records"] for line in lines if line["event"] == "redriven"]
    assert turns == [30, 30, 20]
    assert await rig.copies() == once_each([n for n in range(120) if n % 3 < 2])
    assert rig.counted("failed") == rig.counted("left") == 0


@pytest.mark.usefixtures("may_be_fenced")
async def test_a_command_in_the_middle_takes_over_and_nothing_goes_twice(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "RATE", 5.0)  # 80 s, if it were left alone
    await rig.bury(["rejected"] * 400)
    with capture_logs() as lines:
        async with rig.running():
            with anyio.fail_after(60):
                while not await rig.copies():
                    await anyio.sleep(0.02)
            command = await sluiced("dead-letters", "redrive", rig.path)
            assert command.code == 0, command.err
            await until(lambda: rig.counted("failed") == 1, "it has noticed")
    [line] = [line for line in lines if line["event"] == "redrive_failed"]
    assert "another redrive with the same group was begun" in line["error"]
    assert await rig.copies() == once_each(list(range(400)))
    assert 0 < rig.counted("sent") < 400
    async with rig.running():  # it goes on from what the command has left: nothing
        again = await sluiced("dead-letters", "redrive", rig.path)
    assert again.lines[0].startswith("0 dead letters sent back")


async def test_a_command_that_comes_as_the_last_letter_is_sent_is_named_as_the_reason(
    rig: Rig,
) -> None:
    config = load(rig.path)
    group = group_of(config)
    async with (
        scanning.opened(config) as (_, spans),
        to_topic(config, group, keep_timestamps=True) as first,
        to_topic(config, group, keep_timestamps=True),
        memory.remembering(config.kafka, group, spans, again=False) as kept,
    ):
        with pytest.raises(SluicedError, match="another redrive with the same group"):
            await first.remember(kept)


async def test_what_could_not_be_remembered_is_not_sent_and_goes_when_there_is_room(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "RATE", 20.0)
    monkeypatch.setattr(memory, "LONGEST", 60)
    random = Random(1)
    reasons = [random.choice(["rejected", "invalid"]) for _ in range(120)]
    due = [n for n, reason in enumerate(reasons) if reason == "rejected"]
    await rig.bury(reasons)
    with capture_logs() as lines:
        async with rig.running():
            await until(lambda: rig.counted("failed") == 1, "the memory is full")
    [line] = [line for line in lines if line["event"] == "redrive_failed"]
    assert "more than a commit's metadata can hold" in line["error"]
    assert "--pass-over" in line["error"]
    sent = await rig.copies()
    assert sent == once_each(due[: len(sent)])
    assert 0 < len(sent) < len(due)
    command = await sluiced("dead-letters", "redrive", rig.path, "--reason", "rejected")
    assert command.code == 0, command.err
    assert await rig.copies() == once_each(due)


@pytest.mark.parametrize("to", ["topic", "sink"])
async def test_a_command_that_is_shut_out_as_it_begins_forgets_nothing_of_what_was_sent(
    rig: Rig, to: command.To, monkeypatch: pytest.MonkeyPatch, may_be_fenced: None
) -> None:
    await rig.bury(["rejected"] * 3)
    remembering = command.remembering

    @asynccontextmanager
    async def overtaken(*args: Any, **options: Any) -> AsyncIterator[memory.Memory]:
        async with remembering(*args, **options) as known:
            await rig.redriver._turn(anyio.Event())  # begins later, and is through with it
            yield known

    monkeypatch.setattr(command, "remembering", overtaken)
    options = command.Options(Selection(), to=to, patience=1.0)
    with pytest.raises(SluicedError, match="another redrive with the same group was begun"):
        await command.redrive(load(rig.path), options, anyio.Event(), Report())
    again = await sluiced("dead-letters", "redrive", rig.path)
    assert again.lines[0].startswith("0 dead letters sent back")
    assert await rig.copies() == once_each([0, 1, 2])


async def test_a_stub_of_a_partition_that_is_no_more_holds_up_no_other_letter(rig: Rig) -> None:
    stub = b'{"topic":"%s","partition":9,"offset":0,"size":1}' % rig.stream.topic.encode()
    await rig.bury(["rejected"], stub)
    await rig.bury(["rejected"])
    async with rig.running():
        await until(lambda: rig.counted("sent") + rig.counted("failed"), "the end of a turn")
    assert (rig.counted("sent"), rig.counted("left"), rig.counted("failed")) == (1, 1, 0)
    assert await rig.copies() == once_each([0])


async def test_what_its_topic_does_not_take_holds_up_no_other_letter(rig: Rig) -> None:
    """A record that was compressed in its topic, and of which only a stub was kept."""
    topic = rig.stream.topic
    async with rig.stream.broker.producer(compression_type="gzip", max_request_size=2**23) as to:
        await to.send_and_wait(topic, b"a" * 2_000_000, partition=0)
    stub = b'{"topic":"%s","partition":0,"offset":0,"size":2000000}' % topic.encode()
    await rig.bury(["rejected"], stub)
    await rig.bury(["rejected"] * 2)
    async with rig.running():
        await until(lambda: rig.counted("left") + rig.counted("failed"), "the end of a turn")
    assert (rig.counted("sent"), rig.counted("left"), rig.counted("failed")) == (2, 1, 0)
    told = await sluiced("dead-letters", "redrive", rig.path)
    assert (told.code, "1 left: refused again" in told.lines) == (1, True), told
    assert any("max.message.bytes" in line for line in told.lines), "what to do about it"
    assert await rig.copies() == once_each([0, 1]) + Counter({b"a" * 2_000_000: 1})


async def test_letters_go_back_in_batches_that_their_topic_takes(
    rig: Rig, kafka: Kafka, tmp_path: Path
) -> None:
    stream = Stream(kafka, tmp_path, unique("pages"), unique("group"))
    await kafka.create_topic(stream.topic, 1, {"max.message.bytes": "1000"})
    await kafka.create_topic(stream.dead, 1)
    small = Rig(stream)
    await small.bury(["rejected"] * 100)
    async with small.running():
        await until(lambda: small.counted("sent") + small.counted("failed"), "the end of a turn")
    assert (small.counted("sent"), small.counted("failed")) == (100, 0)

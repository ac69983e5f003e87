"""The source on its own: what aiokafka does behind our back is noticed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import anyio
import pytest

from brokers.base import Broker, Message, unique
from brokers.kafka import Kafka
from brokers.tansu import Tansu
from harness.api import Api
from harness.daemon import until
from harness.stream import Stream, make_stream
from sluiced.errors import SourceError
from sluiced.kafka import KafkaSettings, KafkaSource
from sluiced.ports import Assignment, Mark
from sluiced.record import TopicPartition
from sluiced.units import Duration

pytestmark = pytest.mark.anyio


class Member:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.assignments: dict[TopicPartition, Assignment] = {}

    def assigned(self, partitions: Mapping[TopicPartition, Assignment]) -> None:
        self.assignments = dict(partitions)

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        self.assignments = {}


@pytest.mark.parametrize("task", ["_fetcher._fetch_task", "_coordinator._coordination_task"])
async def test_an_internal_task_of_aiokafka_that_ended_ends_the_daemon(
    tansu: Tansu, task: str
) -> None:
    topic = unique("pages")
    await tansu.create_topic(topic)
    settings = KafkaSettings(
        bootstrap_servers=[tansu.bootstrap],
        group_id=unique("group"),
        topics=[topic],
        session_timeout=Duration(6),
    )
    source, member = KafkaSource(settings, memory=2**24, drain=1.0), Member()
    await source.start(member)
    try:
        while not member.assignments:
            await source.fetch((), 1, 0.1)
        owner, name = task.split(".")
        dying = getattr(getattr(source._consumer, owner), name)
        dying.cancel()
        with anyio.fail_after(10):
            while not dying.done():
                await anyio.sleep(0.01)
        with pytest.raises(SourceError, match=r"task has ended.*\n.*started afresh"):
            await source.fetch(list(member.assignments), 1, 0.1)
    finally:
        await source.stop()


async def test_a_commit_of_a_membership_that_is_over_is_never_sent(kafka: Kafka) -> None:
    """The group is empty by then, and Kafka lets anyone commit who names no generation."""
    topic, group = unique("pages"), unique("group")
    await kafka.create_topic(topic)
    await kafka.produce(topic, [b"1", b"2"])
    settings = KafkaSettings(bootstrap_servers=[kafka.bootstrap], group_id=group, topics=[topic])
    source, member = KafkaSource(settings, memory=2**24, drain=1.0), Member()
    await source.start(member)
    try:
        while not member.assignments:
            await source.fetch((), 1, 0.1)
        [(tp, assignment)] = member.assignments.items()
        await source._consumer._coordinator._maybe_leave_group()
        assert await source.commit({tp: Mark(assignment.epoch, 2)}, 10) == "failed"
    finally:
        await source.stop()
    assert await kafka.committed(group, topic) == {}


async def test_a_dead_letter_that_is_too_large_halts_where_the_configuration_says_so(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = Stream(kafka, tmp_path, unique("pages"), unique("group"))
    await kafka.create_topic(stream.topic)
    await kafka.create_topic(stream.dead, config={"max.message.bytes": "20000"})
    await kafka.produce(stream.topic, [Message(b"not json" * 10_000), Message(b"1")])
    async with Api() as api, stream.daemon(api, dead_letter='too_large = "halt"') as daemon:
        await until(lambda: len(daemon.events("pipeline_halted")) == 1, "the halt")
        code, text = await daemon.get("/readyz")
        assert (code, "MessageSizeTooLarge" in text) == (503, True)
        assert await daemon.stop() == 0
    assert await stream.checkpoints() == {}, "nothing is committed past it"
    assert await kafka.read(stream.dead) == []


async def test_a_broker_that_keeps_no_metadata_is_told_of_once(
    tmp_path: Path, broker: Broker
) -> None:
    stream = await make_stream(broker, tmp_path)
    async with Api() as api, stream.daemon(api) as daemon:
        await stream.produce(400)
        await until(lambda: len(api.delivered()) == 400, "all records")
        assert await daemon.stop() == 0
    assert len(daemon.events("plans_not_kept")) == (0 if broker.commit_metadata else 1)

"""The one interface of every broker in tests: a process to torment, and a log to fill and read."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaConnectionError, KafkaError, for_code
from aiokafka.structs import OffsetAndMetadata, RecordMetadata

_DEADLINE_SECONDS = 90.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Message:
    """A record before it has an offset. A value of None is a tombstone, which needs a key."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


def unique(prefix: str) -> str:
    """A name that nothing else in this run has: for topics and groups on a shared broker."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


class Broker(ABC):
    """A single node on loopback ports that stay the same over restarts.

    The flags say what a test may ask of it:
    transactions            producers may be transactional, consumers read_committed
    commit_metadata         the string in an offset commit comes back
    security                there are listeners with TLS and SASL
    durable                 records and offsets survive a restart
    creates_missing_topics  by the mere mention of them
    """

    name: ClassVar[str]
    transactions: ClassVar[bool]
    commit_metadata: ClassVar[bool]
    security: ClassVar[bool]
    durable: ClassVar[bool]
    creates_missing_topics: ClassVar[bool]

    # The process. These calls block; a test in an event loop that must go on meanwhile runs them
    # in a thread.

    @property
    @abstractmethod
    def bootstrap(self) -> str:
        """The plaintext address, "127.0.0.1:PORT"."""

    @property
    @abstractmethod
    def process(self) -> subprocess.Popen[bytes]:
        """The process of the latest start."""

    @abstractmethod
    def start(self) -> None:
        """Returns when it answers requests; raises SluicedError with the log's end if it cannot."""

    @abstractmethod
    def _end(self) -> None:
        """Ends the process, if there is one, and releases what belongs to it."""

    def stop(self) -> None:
        """An orderly end, also of a frozen broker. Stopping twice is harmless."""
        self.thaw()
        self._end()

    def kill(self) -> None:
        """The end that no process can prepare for (SIGKILL)."""
        self.process.kill()
        self._end()

    def freeze(self) -> None:
        """Connections stay open and nobody answers (SIGSTOP), until `thaw`."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Clients. Each is started and is stopped at the end of its block.

    @asynccontextmanager
    async def producer(self, **settings: Any) -> AsyncIterator[AIOKafkaProducer]:
        """A producer in a hurry: batches of up to 256 KiB, acks=all."""
        hurry: dict[str, Any] = {"acks": "all", "linger_ms": 2, "max_batch_size": 256 * 1024}
        hurry["bootstrap_servers"] = self.bootstrap
        client = AIOKafkaProducer(**(hurry | settings))
        async with _running(client.start, client.stop):
            yield client

    @asynccontextmanager
    async def consumer(self, **settings: Any) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer from the log's start; no commits, and no group unless told so."""
        patient: dict[str, Any] = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
        patient |= {"bootstrap_servers": self.bootstrap, "fetch_max_wait_ms": 50}
        client = AIOKafkaConsumer(**(patient | settings))
        async with _running(client.start, client.stop):
            yield client

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        client = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        async with _running(client.start, client.close):
            yield client

    # The log.

    async def create_topic(
        self, topic: str, partitions: int = 1, config: dict[str, str] | None = None
    ) -> None:
        """Returns when every partition has a leader; raises a KafkaError if that cannot be."""
        async with self.admin() as admin:
            wanted = NewTopic(topic, partitions, 1, topic_configs=config or {})
            deadline = time.monotonic() + _DEADLINE_SECONDS
            while (answer := await _created(admin, wanted)) is None:
                _check(deadline, f"nobody takes the order to create {topic}")
                await asyncio.sleep(_POLL_SECONDS)
            [(_, code, message)] = answer.topic_errors
            if code:
                raise for_code(code)(message)
            while not await _has_leaders(admin, topic):
                _check(deadline, f"{topic} has no leader")
                await asyncio.sleep(_POLL_SECONDS)

    async def partitions(self, topic: str) -> list[TopicPartition]:
        """Raises UnknownTopicOrPartitionError where the broker does not create what is missing."""
        async with self.admin() as admin:
            [found] = await admin.describe_topics([topic])
        if found["error_code"]:
            raise for_code(found["error_code"])(topic)
        return sorted(TopicPartition(topic, each["partition"]) for each in found["partitions"])

    async def produce(
        self, topic: str, messages: Iterable[Message | bytes], **settings: Any
    ) -> list[RecordMetadata]:
        """Writes all of them and answers with their coordinates, in the order given.

        Within a partition that is also the order of offsets. `settings` are the producer's, such as
        compression_type or transactional_id, with which all are written in one transaction.
        """
        async with self.producer(**settings) as producer:
            if "transactional_id" in settings:
                async with producer.transaction():
                    return await _send_all(producer, topic, messages)
            return await _send_all(producer, topic, messages)

    async def read(
        self, topic: str, isolation_level: str = "read_committed", **settings: Any
    ) -> list[ConsumerRecord[bytes | None, bytes | None]]:
        """Everything that is in the topic now, by partition and offset."""
        async with self.consumer(isolation_level=isolation_level, **settings) as consumer:
            assigned = await self.partitions(topic)
            consumer.assign(assigned)
            await consumer.seek_to_beginning(*assigned)
            return await _read_to_end(consumer, await consumer.end_offsets(assigned))

    async def end_offsets(self, topic: str) -> dict[int, int]:
        """For each partition the offset that its next record will get."""
        async with self.consumer() as consumer:
            assigned = await self.partitions(topic)
            said = await consumer.end_offsets(assigned)
            # Tansu names the first offset of the last batch, plus one. So the last batch is read,
            # on any broker, and where the consumer then stands is the end.
            consumer.assign(assigned)
            for partition, end in said.items():
                consumer.seek(partition, max(0, end - 1))
            await _read_to_end(consumer, said)
            return {each.partition: await consumer.position(each) for each in assigned}

    async def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        """Drops the records below an offset, as retention does. Kafka only."""
        wanted = {TopicPartition(topic, partition): RecordsToDelete(before_offset)}
        async with self.admin() as admin:
            await admin.delete_records(wanted)

    # Checkpoints.

    async def commit(self, group: str, topic: str, offsets: dict[int, tuple[int, str]]) -> None:
        """Commits {partition: (offset, metadata)} for a group that has no members."""
        async with self.consumer(group_id=group) as consumer:
            commits = {
                TopicPartition(topic, partition): OffsetAndMetadata(*checkpoint)
                for partition, checkpoint in offsets.items()
            }
            consumer.assign(list(commits))
            await consumer.commit(commits)

    async def committed(self, group: str, topic: str) -> dict[int, tuple[int, str]]:
        """{partition: (offset, metadata)} where the group has a checkpoint."""
        asked = await self.partitions(topic)
        deadline = time.monotonic() + _DEADLINE_SECONDS
        async with self.admin() as admin:
            # A coordinator that is still loading answers for no partition at all.
            while len(found := await _committed(admin, group, asked)) < len(asked):
                _check(deadline, f"no coordinator for {group}")
                await asyncio.sleep(_POLL_SECONDS)
        return {
            partition.partition: (checkpoint.offset, checkpoint.metadata)
            for partition, checkpoint in sorted(found.items())
            if checkpoint.offset >= 0
        }


@asynccontextmanager
async def _running(start: Callable[[], Any], stop: Callable[[], Any]) -> AsyncIterator[None]:
    # A client whose start failed has tasks and sockets all the same.
    try:
        await start()
        yield
    finally:
        await stop()


async def _created(admin: AIOKafkaAdminClient, wanted: NewTopic) -> Any:
    """The answer, or None from a Kafka that has only just started: while its broker does not know
    what its controller understands, it closes the connection on whoever asks for a topic."""
    try:
        return await admin.create_topics([wanted])
    except KafkaConnectionError:
        return None


async def _has_leaders(admin: AIOKafkaAdminClient, topic: str) -> bool:
    [found] = await admin.describe_topics([topic])
    leaders = [each["leader"] for each in found["partitions"]]
    return not found["error_code"] and bool(leaders) and min(leaders) >= 0


async def _committed(
    admin: AIOKafkaAdminClient, group: str, asked: list[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata]:
    try:
        return await admin.list_consumer_group_offsets(group, partitions=asked)
    except KafkaError as error:
        if error.retriable:
            return {}
        raise


async def _send_all(
    producer: AIOKafkaProducer, topic: str, messages: Iterable[Message | bytes]
) -> list[RecordMetadata]:
    sent: list[asyncio.Future[RecordMetadata]] = []
    for each in messages:
        message = each if isinstance(each, Message) else Message(each)
        sent.append(
            await producer.send(
                topic,
                value=message.value,
                key=message.key,
                headers=list(message.headers),
                partition=message.partition,
                timestamp_ms=message.timestamp_ms,
            )
        )
    return await asyncio.gather(*sent)


async def _read_to_end(
    consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]
) -> list[ConsumerRecord[Any, Any]]:
    records: list[ConsumerRecord[Any, Any]] = []
    deadline = time.monotonic() + _DEADLINE_SECONDS
    # Positions and not counts: offsets have gaps where a transaction ended or a log was compacted.
    while [each for each, end in ends.items() if await consumer.position(each) < end]:
        _check(deadline, f"read {len(records)} records, but not up to {ends}")
        # No limit on the number: a batch that has begun is read to its end.
        for run in (await consumer.getmany(timeout_ms=100)).values():
            records += run
    return sorted(records, key=lambda record: (record.partition, record.offset))


def _check(deadline: float, message: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{message}, after {_DEADLINE_SECONDS:g} s")

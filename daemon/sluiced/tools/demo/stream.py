"""The demo's side of the broker: topics, publishing, dead letters, the group's checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from .audit import Coordinates, Letter
from .cities import Message

RUN = 200  # records published at once
GROUPED = 16 * 1024  # bytes of a batch: aiokafka's default
LARGEST = 4 * 1024 * 1024  # bytes of the largest record that the producer takes


class Stream:
    """Everything that the demo asks of the broker. `produced` grows while `publish` runs; what is
    published comes to an end in the topics `ends`.

    With `alone` each record is a batch of its own. Tansu tells, as the end of a log, one more than
    the first offset of its last batch, and a plan that reaches past the end is cut off there.
    """

    def __init__(
        self, bootstrap: str, topic: str, partitions: int, *ends: str, alone: bool = False
    ) -> None:
        self.produced: dict[Coordinates, Message] = {}
        self._topic = topic
        self._partitions = [TopicPartition(topic, n) for n in range(partitions)]
        self._ends = [TopicPartition(end, 0) for end in ends]
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            max_request_size=LARGEST,
            max_batch_size=1 if alone else GROUPED,
            linger_ms=0 if alone else 5,
        )
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=100,
        )
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        self._open = AsyncExitStack()

    async def publish(self, messages: Sequence[Message], per_second: float) -> None:
        """Publishes all messages, at most `per_second` of them, and notes where each one landed."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for start in range(0, len(messages), RUN):
            await asyncio.sleep(begun + start / per_second - loop.time())
            run = messages[start : start + RUN]
            sent = [await self._producer.send(self._topic, m.value, key=m.key) for m in run]
            for message, where in zip(run, await asyncio.gather(*sent), strict=True):
                self.produced[Coordinates(where.topic, where.partition, where.offset)] = message

    async def arrived(self, wait: float) -> list[ConsumerRecord[bytes, bytes]]:
        """What was not read yet at the ends; waits up to `wait` seconds for the first."""
        read = await self._consumer.getmany(*self._ends, timeout_ms=round(wait * 1000))
        return [record for records in read.values() for record in records]

    async def checkpoint_is_complete(self, group: str) -> bool:
        """Whether the group has committed past the last record of every partition."""
        committed = await self._admin.list_consumer_group_offsets(
            group, partitions=self._partitions
        )
        ends = dict.fromkeys(self._partitions, 0)
        for at in self.produced:
            tp = TopicPartition(at.topic, at.partition)
            ends[tp] = max(ends[tp], at.offset + 1)
        return all(tp in committed and committed[tp].offset >= end for tp, end in ends.items())

    async def __aenter__(self) -> Self:
        """Creates the topics and opens the connections."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._admin.close)
            await self._admin.start()
            topics = {self._topic: len(self._partitions), **{end.topic: 1 for end in self._ends}}
            await self._admin.create_topics([NewTopic(name, n, 1) for name, n in topics.items()])
            stack.push_async_callback(self._producer.stop)
            await self._producer.start()
            stack.push_async_callback(self._consumer.stop)
            self._consumer.assign(self._ends)
            await self._consumer.start()
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()


def letter(record: ConsumerRecord[bytes, bytes]) -> Letter:
    headers = {name: value.decode() for name, value in record.headers}
    at = Coordinates(
        headers["__connect.errors.topic"],
        int(headers["__connect.errors.partition"]),
        int(headers["__connect.errors.offset"]),
    )
    return Letter(at, headers["sluiced.reason"], record.value)

"""Reads topics from end to end, or parts of them, without being a member of any group.

What is read is bounded by the ends of the log at the start, so that a topic that is still written
to, perhaps by what is done with its own records, does come to an end.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import anyio
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.errors import KafkaError

from ..errors import SourceError
from ..record import Record, TopicPartition
from .client import KafkaSettings, bounded, describe, explain

PAGE = 1000  # records that are handed out at once, at most
POLL_MS = 500
ASK_TIMEOUT = 30.0  # seconds for a question to the cluster
STALL = 60.0  # seconds without a record, although the log has some
STOP_TIMEOUT = 5.0


class Span(NamedTuple):
    """Offsets from `first` up to, but not including, `end`."""

    first: int
    end: int

    def __len__(self) -> int:
        return max(0, self.end - self.first)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Errors of the Kafka client become one that an operator can read."""
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise SourceError(
            f"{what}: {explain(error)}",
            "Check that the cluster is up, and that the user may do this.",
        ) from None


async def existing(settings: KafkaSettings, topics: Collection[str], key: str) -> dict[str, int]:
    """How many partitions each topic has. Raises SourceError, with the key, if one is missing."""
    found = await describe(settings, topics)
    if missing := sorted(set(topics) - found.keys()):
        raise SourceError(
            f"{key}: {', '.join(missing)} does not exist, or may not be read",
            "Create it, or correct the name.",
        )
    return dict(found)


@asynccontextmanager
async def reading(settings: KafkaSettings) -> AsyncIterator[Reader]:
    """A reader that is connected, and closed at the end of the block. Raises SourceError."""
    consumer = AIOKafkaConsumer(
        **settings.client(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # what was deleted while we were reading is passed over
        isolation_level=settings.isolation_level,
        fetch_max_wait_ms=100,
    )
    try:
        with explained("the cluster cannot be reached"), anyio.fail_after(ASK_TIMEOUT):
            await consumer.start()
        yield Reader(consumer)
    finally:
        await bounded(consumer.stop(), STOP_TIMEOUT, "closing the reader")


class Reader:
    """One consumer, which reads one partition at a time."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    async def bounds(self, tps: Collection[TopicPartition]) -> dict[TopicPartition, Span]:
        """What the log holds of each partition at this moment.

        A broker may name an end that lies within its last batch (Tansu does): the batch that
        holds it is read, and where the reader then stands is the end.
        """
        asked = [KafkaTopicPartition(*tp) for tp in tps]
        if not asked:
            return {}
        with explained("the log's bounds cannot be learned"):
            with anyio.fail_after(ASK_TIMEOUT):
                firsts = await self._consumer.beginning_offsets(asked)
                ends = await self._consumer.end_offsets(asked)
            found = {}
            for tp in asked:
                end = ends[tp]
                if end > firsts[tp]:
                    self._seek(tp, max(firsts[tp], end - 1))
                    async for _ in self._runs(tp, end, None):
                        pass
                    end = await self._consumer.position(tp)
                found[TopicPartition(*tp)] = Span(firsts[tp], end)
        return found

    async def offset_at(self, tp: TopicPartition, milliseconds: int) -> int | None:
        """The first offset with this timestamp or a later one, or one before it where the broker
        does not know better; None where there is none."""
        kafka_tp = KafkaTopicPartition(*tp)
        with explained(f"{tp} cannot be searched by time"), anyio.fail_after(ASK_TIMEOUT):
            found = await self._consumer.offsets_for_times({kafka_tp: max(0, milliseconds)})
        return None if found[kafka_tp] is None else int(found[kafka_tp].offset)

    async def pages(
        self, spans: Mapping[TopicPartition, Span], size: int = PAGE
    ) -> AsyncGenerator[Sequence[Record], None]:
        """The records of these spans, partition by partition in ascending order.

        A page holds records of one partition, at least one and at most `size`. Raises SourceError.
        """
        for tp, span in sorted(spans.items()):
            if not len(span):
                continue
            kafka_tp = KafkaTopicPartition(*tp)
            with explained(f"{tp} cannot be read"):
                self._seek(kafka_tp, span.first)
                async for run in self._runs(kafka_tp, span.end, size):
                    if page := [r for r in run if span.first <= r.offset < span.end]:
                        yield page

    async def one(self, tp: TopicPartition, offset: int) -> Record | None:
        """The record at these coordinates; None if the log does not hold it (any more)."""
        held = (await self.bounds([tp]))[tp]
        if not held.first <= offset < held.end:
            return None
        async for page in self.pages({tp: Span(offset, offset + 1)}, 1):
            return page[0]
        return None

    def _seek(self, tp: KafkaTopicPartition, offset: int) -> None:
        if self._consumer.assignment() != {tp}:
            self._consumer.assign([tp])
        self._consumer.seek(tp, offset)

    async def _runs(
        self, tp: KafkaTopicPartition, end: int, size: int | None
    ) -> AsyncIterator[Sequence[Record]]:
        """Until the position is at `end`; with no `size`, a batch that has begun to its end."""
        moved = time.monotonic()
        position = await self._consumer.position(tp)
        while position < end:
            got = await self._consumer.getmany(tp, timeout_ms=POLL_MS, max_records=size)
            before, position = position, await self._consumer.position(tp)
            if position != before:
                moved = time.monotonic()
            elif time.monotonic() - moved > STALL:
                raise TimeoutError(f"no record came after offset {position} in {STALL:.0f} s")
            if tp in got:
                yield got[tp]

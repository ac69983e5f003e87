"""What has been redriven, kept by Kafka: the committed offsets of a group without members.

The offset is the prefix of the dead-letter topic that is done with. What is done above it, because
a filter passed over something before it, stands in the commit's metadata.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.structs import OffsetAndMetadata

from ..errors import SluicedError
from ..kafka import KafkaSettings
from ..kafka.client import bounded
from ..kafka.scan import ASK_TIMEOUT, STOP_TIMEOUT, Span, explained
from ..record import TopicPartition
from .done import LONGEST, MARK, Done
from .letter import Letter

State = dict[TopicPartition, Done]
Marks = dict[KafkaTopicPartition, OffsetAndMetadata]


class Memory:
    """`done` is what is known now; `keeps` whether the broker keeps metadata."""

    def __init__(self, consumer: Any, group: str, done: State) -> None:
        self._consumer = consumer
        self._group = group
        self.done = done
        self.keeps = True

    def __contains__(self, letter: Letter) -> bool:
        record = letter.record
        return record.offset in self.done[TopicPartition(record.topic, record.partition)]

    def add(self, tp: TopicPartition, first: int, last: int) -> None:
        """Done with; not durable before the next commit."""
        self.done[tp].add(first, last)

    def with_these(self, letters: Iterable[Letter]) -> State:
        """The state once these letters are sent, too.

        Raises SluicedError if it could not be remembered: then they must not be sent.
        """
        state = {tp: done.copy() for tp, done in self.done.items()}
        for letter in letters:
            record = letter.record
            tp = TopicPartition(record.topic, record.partition)
            state[tp].add(record.offset, record.offset)
        for tp, done in state.items():
            self._check(tp, done)
        return state

    def _check(self, tp: TopicPartition, done: Done) -> None:
        if not self.keeps and done.ranges:
            raise SluicedError(
                f"{tp}: letters before {done.ranges[0][0]} are passed over, and this broker keeps "
                "no commit metadata in which that could be remembered",
                "Redrive without filters, or add --pass-over: then what a run leaves out, later "
                "runs leave out as well.",
            )
        if len(done.metadata()) > LONGEST:
            raise SluicedError(
                f"{tp}: {len(done.ranges):,} runs of letters are redriven with others between "
                f"them, more than a commit's metadata can hold ({LONGEST} bytes)",
                "Redrive with fewer filters, from the oldest on, or add --pass-over: then what a "
                "run leaves out, later runs leave out as well.",
            )

    def marks(self, state: State) -> Marks:
        return {
            KafkaTopicPartition(*tp): OffsetAndMetadata(done.prefix, done.metadata())
            for tp, done in state.items()
        }

    async def commit(self) -> None:
        """Makes the present state durable. Raises SluicedError if any of it cannot be."""
        with explained(f"the group {self._group} cannot remember what has been sent"):
            with anyio.fail_after(ASK_TIMEOUT):
                await self._consumer.commit(self.marks(self.done))
        for tp, done in self.done.items():
            self._check(tp, done)

    async def probe(self) -> None:
        """Learns whether the metadata of the last commit comes back."""
        found = await _committed(self._consumer, self._group, self.done)
        self.keeps = all(found[tp].metadata for tp in self.done)


@asynccontextmanager
async def remembering(
    settings: KafkaSettings, group: str, spans: Mapping[TopicPartition, Span], *, again: bool
) -> AsyncIterator[Memory]:
    """What earlier runs have sent, of the letters in `spans`; with `again` nothing.

    Raises SluicedError.
    """
    async with _asking(settings, group) as consumer:
        consumer.assign([KafkaTopicPartition(*tp) for tp in spans])
        found = {} if again else await _committed(consumer, group, spans)
        done = {tp: _done(group, tp, span, found.get(tp)) for tp, span in spans.items()}
        yield Memory(consumer, group, done)


async def has_memory(settings: KafkaSettings, group: str, tps: Iterable[TopicPartition]) -> bool:
    """Whether there is one, with the metadata of which no redrive's commit is without.

    Raises SourceError.
    """
    async with _asking(settings, group) as consumer:
        found = await _committed(consumer, group, tps)
    return any((mark.metadata or "").startswith(MARK) for mark in found.values())


@asynccontextmanager
async def _asking(settings: KafkaSettings, group: str) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(
        **settings.client(), group_id=group, enable_auto_commit=False, auto_offset_reset="none"
    )
    try:
        with explained(f"the group {group} cannot be asked"), anyio.fail_after(ASK_TIMEOUT):
            await consumer.start()
        yield consumer
    finally:
        await bounded(consumer.stop(), STOP_TIMEOUT, "closing the redrive's memory")


async def _committed(
    consumer: Any, group: str, tps: Iterable[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata]:
    # aiokafka's committed() leaves the metadata out.
    with explained(f"the group {group} cannot be asked"), anyio.fail_after(ASK_TIMEOUT):
        await consumer._coordinator.ensure_coordinator_known()
        found = await consumer._coordinator.fetch_committed_offsets(
            [KafkaTopicPartition(*tp) for tp in tps]
        )
    return {TopicPartition(*tp): mark for tp, mark in found.items()}


def _done(group: str, tp: TopicPartition, span: Span, mark: OffsetAndMetadata | None) -> Done:
    if mark is None:
        return Done(span.first)
    try:
        done = Done.of(mark.offset, mark.metadata)
    except ValueError as error:
        raise SluicedError(
            f"the group {group} has a commit for {tp} whose metadata is no redrive's: {error}",
            "Give a group of its own with --group.",
        ) from None
    if done.end > span.end:
        raise SluicedError(
            f"{tp} ends at {span.end}, and the group {group} has redriven it up to {done.end}: "
            "the topic was made anew",
            "Add --again to begin from its start.",
        )
    done.add(0, span.first - 1)  # what retention has deleted is nobody's concern any more
    return done

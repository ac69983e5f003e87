"""Dead letters back into the topics that their records came from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from ..config import Config
from ..errors import SluicedError
from ..kafka import describe
from ..kafka.client import bounded, explain
from ..kafka.retention import largest, retention
from ..kafka.scan import STOP_TIMEOUT, explained
from ..kafka.topic_producer import ACKNOWLEDGED_WITHIN, GROUPED, LARGEST
from ..record import REDRIVES
from .letter import Letter
from .memory import Marks, Memory
from .targets import Pending, Sent

TRANSACTION_MS = 30_000  # for so long a killed redrive holds up readers of committed records
IN_ONE_SEND = 500  # letters that are sent and remembered together, at most
FRESH = 0.9  # of its topic's retention a record may have behind it: somebody has yet to read it

# Where it was before it may have been compressed.
TOO_LARGE = "above max.message.bytes; use --to sink"
TOO_OLD = (
    "as old as its topic's retention, so that the broker would delete it; --timestamp now sends it"
)


class ToTopic:
    """Into the topic and partition that the record came from.

    In a transaction where the broker has them: what is sent and the memory of it become true
    together, whatever happens to this process. Elsewhere the memory follows.
    """

    def __init__(
        self,
        config: Config,
        group: str,
        producer: Any,
        *,
        transactional: bool,
        keep_timestamps: bool = True,
        largest: Mapping[str, int] | None = None,
    ) -> None:
        self.size = IN_ONE_SEND
        self._settings = config.kafka
        self._group = group
        self._producer = producer
        self.transactional = transactional
        self._keep_timestamps = keep_timestamps
        self._largest = largest or {}  # bytes of a batch, by topic
        self._partitions: dict[str, int] = {}
        self._retention: dict[str, int | None] = {}
        self.warning = (
            ""
            if transactional
            else "the broker gives us no transactions: if this run is killed, up to "
            f"{IN_ONE_SEND} letters may be sent again by the next one"
        )

    async def objection(self, letter: Letter) -> str | None:
        topic = letter.topic or ""
        if topic not in self._partitions:
            self._partitions[topic] = (await describe(self._settings, [topic])).get(topic, 0)
            self._retention[topic] = await retention(self._settings, topic)
        if not self._partitions[topic]:
            return f"the topic {topic} does not exist"
        kept = self._retention[topic]
        if kept is None or not self._keep_timestamps or letter.timestamp < 0:
            return None
        return TOO_OLD if time.time() * 1000 - letter.timestamp > kept * FRESH else None

    async def send(self, pending: Sequence[Pending], memory: Memory) -> Sent:
        """What is too large is not tried: after a refusal a producer of aiokafka's is of no use."""
        fitting = [each for each in pending if self._fits(each)]
        result = await self._send_all(fitting, memory)
        result.refused = [(x.letter, TOO_LARGE) for x in pending if not self._fits(x)]
        return result

    def _fits(self, each: Pending) -> bool:
        record = each.record
        headers: list[tuple[str, bytes | None]] = [*record.headers, (REDRIVES, b"1")]
        size = DefaultRecordBatchBuilder.estimate_size_in_bytes(record.key, record.value, headers)
        return bool(size <= self._largest.get(record.topic, LARGEST))

    async def _send_all(self, pending: Sequence[Pending], memory: Memory) -> Sent:
        if not self.transactional:
            return await self._send_plainly(pending)
        letters = [each.letter for each in pending]
        state = memory.with_these(letters)
        try:
            await self._transact(pending, memory.marks(state))
        except (KafkaError, OSError, TimeoutError) as error:
            return Sent(error=_unsent(error), remembered=True)
        memory.done = state
        return Sent(letters, remembered=True)

    async def _transact(self, pending: Sequence[Pending], marks: Marks) -> None:
        with anyio.fail_after(ACKNOWLEDGED_WITHIN):
            async with self._producer.transaction():
                await asyncio.gather(*[await self._send(each) for each in pending])
                await self._producer.send_offsets_to_transaction(marks, self._group)

    async def remember(self, memory: Memory) -> None:
        if not self.transactional:
            return await memory.commit()
        # Not past a later redrive, which has shut us out and knows more than we do.
        with explained(f"the group {self._group} cannot remember what has been sent"):
            try:
                await self._transact((), memory.marks(memory.done))
            except ProducerFenced as error:
                raise _unsent(error) from None
        return None

    async def _send_plainly(self, pending: Sequence[Pending]) -> Sent:
        result = Sent()
        try:
            with anyio.fail_after(ACKNOWLEDGED_WITHIN):
                futures = [await self._send(each) for each in pending]
                answers = await asyncio.gather(*futures, return_exceptions=True)
        except (KafkaError, OSError, TimeoutError) as error:
            result.error = _unsent(error)
            return result
        for each, answer in zip(pending, answers, strict=True):
            if not isinstance(answer, BaseException):
                result.sent.append(each.letter)
            elif isinstance(answer, KafkaError):
                result.error = _unsent(answer)
            else:
                raise answer
        return result

    async def _send(self, each: Pending) -> asyncio.Future[Any]:
        record = each.record
        redrives = str(each.letter.redrives + 1).encode()
        headers = [*record.headers, (REDRIVES, redrives)]
        kept = self._keep_timestamps and record.timestamp >= 0
        timestamp = record.timestamp if kept else None
        known = record.partition < self._partitions[record.topic]
        partition = record.partition if known else None
        sent: asyncio.Future[Any]
        if record.key is None and record.value is None:
            # send() refuses a record without key and value; a batch of one takes it as it is.
            batch = self._producer.create_batch()
            batch.append(key=None, value=None, timestamp=timestamp, headers=headers)
            batch.close()
            sent = await self._producer.send_batch(batch, record.topic, partition=partition or 0)
        else:
            sent = await self._producer.send(
                record.topic,
                record.value,
                record.key,
                partition=partition,
                timestamp_ms=timestamp,
                headers=headers,
            )
        return sent


def _unsent(error: BaseException) -> SluicedError:
    if isinstance(error, ProducerFenced):
        return SluicedError(
            "another redrive with the same group was begun after this one, and has shut it out",
            "What was sent before is remembered; the other one goes on from there.",
        )
    return SluicedError(
        f"letters could not be sent to their topics: {explain(error)}",
        "What was acknowledged is remembered. Mend the cause, and run this again to go on.",
    )


def _away(error: Exception) -> bool:
    """Whether nobody has answered, rather than said that there are no transactions. aiokafka wraps
    what it meets while it looks for their coordinator."""
    met = error.__cause__ or error
    return isinstance(met, TimeoutError) or (isinstance(met, KafkaError) and met.retriable)


@asynccontextmanager
async def to_topic(config: Config, group: str, *, keep_timestamps: bool) -> AsyncIterator[ToTopic]:
    """A target that is ready to send. Raises SluicedError.

    Starting a transactional producer ends what an earlier run has left open, so this comes before
    the memory is read.
    """
    most = {topic: await largest(config.kafka, topic) for topic in config.kafka.topics}
    settings: dict[str, Any] = {
        "acks": "all",
        "max_request_size": LARGEST,
        "max_batch_size": min(GROUPED, *most.values()),
        "request_timeout_ms": 20_000,
        "linger_ms": 5,
    }
    producer: Any = None
    transactional = True
    try:
        producer = AIOKafkaProducer(
            **config.kafka.client(),
            **settings,
            transactional_id=group,
            transaction_timeout_ms=TRANSACTION_MS,
        )
        try:
            with anyio.fail_after(ACKNOWLEDGED_WITHIN):
                await producer.start()
        except (KafkaError, TimeoutError) as error:
            with explained("letters cannot be sent"):
                if _away(error):
                    raise
            # No transactions, or not for this user.
            await bounded(producer.stop(), STOP_TIMEOUT, "closing the producer")
            transactional = False
            producer = AIOKafkaProducer(**config.kafka.client(), **settings)
            with explained("letters cannot be sent"), anyio.fail_after(ACKNOWLEDGED_WITHIN):
                await producer.start()
        yield ToTopic(
            config,
            group,
            producer,
            transactional=transactional,
            keep_timestamps=keep_timestamps,
            largest=most,
        )
    finally:
        if producer is not None:
            await bounded(producer.stop(), STOP_TIMEOUT, "closing the producer")

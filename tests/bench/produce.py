"""The records of the benchmark, and a quick way to put them into a topic."""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache

from brokers.base import Broker

PARTITIONS = 4
RECORD_BYTES = 250

# Each value begins with its number, by which the server tells what is lost and what came twice.
MARKER = b'{"seq":'

_BATCH_BYTES = 256 * 1024
_PENDING = 64  # batches on their way; without a bound a slow broker would fill our memory
_FILL = "A harbour town with narrow lanes, a market on Saturdays and trains every hour. " * 4


def page(seq: int, size: int = RECORD_BYTES) -> bytes:
    """A JSON value of `size` bytes with the fields of a page about a town."""
    head = (
        f'{{"seq":{seq},"slug":"hotels-in-harwick-{seq}","title":"Hotels in Harwick {seq}",'
        f'"country":"GB","latitude":{51 + seq % 1000 / 1000:.5f},"longitude":-1.28333,'
        f'"population":{1000 + seq},"tags":["town","harbour"],"text":"'
    )
    return f'{head}{_fill(size - len(head) - 2)}"}}'.encode()


@cache
def _fill(size: int) -> str:
    return (_FILL * (size // len(_FILL) + 1))[:size]


async def fill(broker: Broker, topic: str, values: Iterable[bytes]) -> None:
    """Creates the topic and spreads the values, batch by batch, over its partitions.

    The keys are the values' numbers within the topic. Batches are put together here, since that
    costs a fifth of what a `send` for each record does.
    """
    await broker.create_topic(topic, PARTITIONS)
    pending: deque[Future[object]] = deque()
    async with broker.producer(
        max_batch_size=2 * _BATCH_BYTES, max_request_size=16 * 1024**2
    ) as producer:
        for number, records in enumerate(_batches(values)):
            batch = producer.create_batch()
            for key, value in records:
                if batch.append(key=key, value=value, timestamp=None) is None:
                    raise ValueError("a batch is larger than the producer takes")
            batch.close()
            pending.append(await producer.send_batch(batch, topic, partition=number % PARTITIONS))
            if len(pending) > _PENDING:
                await pending.popleft()
        for sent in pending:
            await sent


def _batches(values: Iterable[bytes]) -> Iterator[list[tuple[bytes, bytes]]]:
    batch: list[tuple[bytes, bytes]] = []
    size = 0
    for number, value in enumerate(values):
        batch.append((b"%d" % number, value))
        size += len(value) + 32
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

"""The dead letters of a configuration, read from the topic's start to its present end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..config import Config
from ..errors import ConfigError
from ..kafka.scan import Reader, Span, existing, reading
from ..record import TopicPartition
from .letter import Letter, parse


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[tuple[Reader, dict[TopicPartition, Span]]]:
    """A reader, and what the dead-letter topic holds. Raises SluicedError."""
    topic = dead_letter_topic(config)
    found = await existing(config.kafka, [topic], "dead_letter.topic")
    async with reading(config.kafka) as reader:
        tps = [TopicPartition(topic, number) for number in range(found[topic])]
        yield reader, await reader.bounds(tps)


async def letters(reader: Reader, spans: dict[TopicPartition, Span]) -> AsyncIterator[list[Letter]]:
    """By partition and offset."""
    async for page in reader.pages(spans):
        yield [parse(record) for record in page]


def dead_letter_topic(config: Config) -> str:
    """Raises ConfigError where there is none."""
    if config.dead_letter.topic is None:
        raise ConfigError(
            'dead_letter.topic is not set: with on_reject = "halt" there are no dead letters',
            "Give the configuration of a pipeline that writes some.",
        )
    return config.dead_letter.topic

"""`sluiced check --connect`: whether what a configuration names can be reached, part by part."""

from __future__ import annotations

from collections.abc import Callable

from .. import retained
from ..config import Config
from ..errors import SluicedError
from ..kafka import describe
from ..kafka.offsets import metadata_limit
from ..metadata import jobs_that_fit
from ..redrive import lifetime
from ..redrive.automatic import require_transactions

Tell = Callable[[str], object]


async def connect(config: Config, tell: Tell, warn: Tell) -> None:
    """Tells a line for each part that is reached, and warns of what is odd about it, as soon as it
    is known: what comes after may not be reached. Raises SluicedError."""
    wanted = [
        *config.kafka.topics,
        *(topic for topic in (config.dead_letter.topic, config.freshness.topic) if topic),
        *([config.results.topic] if config.results else []),
    ]
    found = await describe(config.kafka, wanted)
    if missing := [topic for topic in wanted if topic not in found]:
        raise SluicedError(
            f"reached Kafka, but {', '.join(missing)} does not exist there",
            "Create the topic, or correct kafka.topics, dead_letter.topic, freshness.topic or "
            "results.topic.",
        )
    if config.dead_letter.retry_after is not None:
        await require_transactions(config)
    for topic in wanted:
        tell(f"topic {topic}: {found[topic]} partitions")
    if config.results is not None:
        tell(await _jobs_that_fit(config))
    for text in [*await lifetime.warnings(config), *await retained.warnings(config)]:
        warn(text)
    await config.sink.build(config.line).probe()
    tell("sink: reached")


async def _jobs_that_fit(config: Config) -> str:
    """How many jobs of a partition this broker's checkpoints have room for."""
    attempts, limit = config.retry.max_item_attempts, await metadata_limit(config.kafka)
    fit, room = jobs_that_fit(attempts, limit), f"a checkpoint's metadata has {limit} bytes"
    return f"jobs: {room}, which is {fit} of a partition with {attempts} attempts each"

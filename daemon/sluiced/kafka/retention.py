"""How long a topic keeps its records, going by the timestamps that they carry."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import anyio
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from .client import KafkaSettings, bounded
from .scan import ASK_TIMEOUT, STOP_TIMEOUT
from .topic_producer import LARGEST

ASKED = (
    *("retention.ms", "retention.bytes", "message.timestamp.type", "cleanup.policy"),
    "max.message.bytes",
)


class Kept(NamedTuple):
    """For how many seconds records are kept, since they were written to the log or since their own
    timestamp; and how many bytes a partition keeps, however young. Infinite where it is no reason
    to delete any."""

    seconds: float
    since_append: bool
    bytes: float = inf


async def kept(settings: KafkaSettings, topic: str) -> Kept | None:
    """None where nothing gets deleted, or we are not told."""
    config = await _config(settings, topic)
    if "delete" not in (config.get("cleanup.policy") or ""):
        return None
    ms, size = (_bound(config.get(name)) for name in ("retention.ms", "retention.bytes"))
    if ms == size == inf:
        return None
    return Kept(ms / 1000, config.get("message.timestamp.type") == "LogAppendTime", size)


def _bound(value: str | None) -> float:
    """-1 is none."""
    return int(value) if value and value.isdigit() else inf


async def retention(settings: KafkaSettings, topic: str) -> int | None:
    """In ms. None where a record's own timestamp never gets it deleted, or we are not told.

    A record that is older than this when it is written may be gone at the broker's next look,
    before anyone has read it.
    """
    time = await kept(settings, topic)
    if time is None or time.since_append or time.seconds == inf:
        return None
    return int(time.seconds * 1000)


async def largest(settings: KafkaSettings, topic: str) -> int:
    """Bytes that the topic takes in one batch; as many as we would send where we are not told."""
    value = (await _config(settings, topic)).get("max.message.bytes") or ""
    return int(value) if value.isdigit() else LARGEST


async def _config(settings: KafkaSettings, topic: str) -> dict[str, str | None]:
    """Empty where it cannot be had: not every broker answers, and not every user may ask."""
    asked = ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(ASKED))
    admin = AIOKafkaAdminClient(**settings.client(), request_timeout_ms=10_000)
    try:
        with anyio.fail_after(ASK_TIMEOUT):
            await admin.start()
            answers: list[Any] = await admin.describe_configs([asked])
    except (KafkaError, OSError, TimeoutError):
        return {}
    finally:
        await bounded(admin.close(), STOP_TIMEOUT, "closing the admin client")
    [(error, _, _, _, entries)] = answers[0].resources
    return {} if error else {name: value for name, value, *_ in entries}

"""A consumer of a group as aiokafka is to make it: how long, how much, and nothing by itself.

Apart from `source`, which lives with it: what stands here is decided once, from the settings, and
some of it is what other settings have to go together with.
"""

from __future__ import annotations

from aiokafka import AIOKafkaConsumer

from .client import KafkaSettings

INT32 = 2**31 - 1  # the most that Kafka's protocol can say of milliseconds, and of bytes
START_TIMEOUT = 180.0  # seconds to join: a rebalance of others may take its whole timeout first
REBALANCE_MARGIN = 20.0  # seconds that a rebalance is given beyond our drain, the commit included


def rebalance_timeout(drain: float) -> float:
    """Seconds that the group waits for a member when partitions are given out anew, before it goes
    on without it: what a member at the end of its drain still needs to join, and at least a
    minute."""
    return max(60.0, drain + REBALANCE_MARGIN)


def consumer(
    settings: KafkaSettings, *, memory: int, drain: float, partitions: int
) -> AIOKafkaConsumer:
    """aiokafka buffers up to one fetch a partition and one answer a node, compressed."""
    session = int(settings.session_timeout * 1000)
    rebalance = int(rebalance_timeout(drain) * 1000)
    return AIOKafkaConsumer(
        **settings.client(),
        group_id=settings.group_id,
        group_instance_id=settings.group_instance_id,
        enable_auto_commit=False,
        auto_offset_reset="none",  # positions are set by us; falling off the log is an error
        isolation_level=settings.isolation_level,
        session_timeout_ms=session,
        heartbeat_interval_ms=min(3000, session // 3),
        rebalance_timeout_ms=rebalance,
        request_timeout_ms=rebalance + 10_000,  # a join waits for the others' rebalance
        max_poll_interval_ms=INT32,  # the pipeline watches its own progress
        fetch_max_wait_ms=100,  # an idle partition must not hold up its node for longer
        fetch_max_bytes=min(max(65_536, memory // 4), INT32),
        max_partition_fetch_bytes=max(16_384, min(2**20, memory // 2 // partitions)),
    )

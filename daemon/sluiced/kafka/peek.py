"""Where a group stands, for whoever only looks: nobody joins it, and nothing is committed."""

from __future__ import annotations

from collections.abc import Collection

import anyio
from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from ..ports import Assignment
from ..record import TopicPartition
from .client import KafkaSettings, bounded
from .scan import ASK_TIMEOUT, Reader, explained


async def where_a_daemon_would_start(
    settings: KafkaSettings, reader: Reader, tps: Collection[TopicPartition]
) -> dict[TopicPartition, Assignment]:
    """For each partition the checkpoint with its metadata, or where a group without one starts,
    and the log's end. A checkpoint that has fallen off the log counts from the log's start.

    Raises SourceError.
    """
    bounds = await reader.bounds(tps)
    admin = AIOKafkaAdminClient(**settings.client())
    try:
        with explained(f"the checkpoint of group {settings.group_id} cannot be read"):
            with anyio.fail_after(ASK_TIMEOUT):
                await admin.start()
                found = await admin.list_consumer_group_offsets(
                    settings.group_id, partitions=[KafkaTopicPartition(*tp) for tp in tps]
                )
    finally:
        await bounded(admin.close(), 5.0, "closing the admin client")
    starts = {}
    for tp, (first, end) in bounds.items():
        mark = found.get(KafkaTopicPartition(*tp))
        if mark is None or mark.offset < 0:
            position = end if settings.start_at == "latest" else first
            starts[tp] = Assignment(0, position, end=end, fresh=True)
        else:
            starts[tp] = Assignment(0, max(first, mark.offset), mark.metadata or "", end)
    return starts

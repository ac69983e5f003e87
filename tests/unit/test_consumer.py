"""What aiokafka is told is what Kafka's protocol can say."""

from __future__ import annotations

import pytest
from aiokafka.protocol.fetch import FetchRequest_v4

from sluiced.kafka.client import KafkaSettings
from sluiced.kafka.consumer import consumer

SETTINGS = KafkaSettings(bootstrap_servers=["127.0.0.1:1"], group_id="g", topics=["pages"])


@pytest.mark.anyio
async def test_with_the_memory_of_a_large_machine_a_fetch_can_still_be_asked_for() -> None:
    made = consumer(SETTINGS, memory=2**40, drain=30.0, partitions=1)
    try:
        assert FetchRequest_v4(-1, 100, 1, made._fetch_max_bytes, 0, []).encode()
    finally:
        await made.stop()

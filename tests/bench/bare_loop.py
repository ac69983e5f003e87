"""What the daemon is measured against: the shortest loop that fetches, joins, posts and commits.

It checks nothing, retries nothing and buries nothing; one record that the API refuses ends it.

    python -m bench.bare_loop BOOTSTRAP TOPIC GROUP URL WINDOW
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
from aiokafka import AIOKafkaConsumer


async def bare_loop(bootstrap: str, topic: str, group: str, url: str, window: int) -> None:
    # What decides how fast records come in is as in sluiced.kafka.consumer with 256 MiB of memory.
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        group_instance_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        session_timeout_ms=6_000,
        heartbeat_interval_ms=2_000,
        fetch_max_wait_ms=100,
        fetch_max_bytes=16 * 1024**2,
        max_partition_fetch_bytes=1024**2,
    )
    await consumer.start()
    async with aiohttp.ClientSession() as session:
        while True:
            values: list[bytes] = []
            ends = {}
            while len(values) < window:
                left = window - len(values)
                for tp, records in (
                    await consumer.getmany(timeout_ms=200, max_records=left)
                ).items():
                    values += [record.value or b"null" for record in records]
                    ends[tp] = records[-1].offset + 1
            body = b"[" + b",".join(values) + b"]"
            async with session.post(url, data=body) as answer:
                answer.raise_for_status()
                await answer.read()
            await consumer.commit(ends)


if __name__ == "__main__":
    bootstrap, topic, group, url, window = sys.argv[1:]
    asyncio.run(bare_loop(bootstrap, topic, group, url, int(window)))

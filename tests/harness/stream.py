"""A topic with all that belongs to it, and the audit of what became of its records."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from brokers.base import Broker, Message, unique
from harness.api import Api
from harness.daemon import Daemon


@dataclass
class Stream:
    """A topic with its dead-letter topic and a group, on one broker."""

    broker: Broker
    directory: Path
    topic: str
    group: str

    @property
    def dead(self) -> str:
        return f"{self.topic}.dead"

    def daemon(self, api: Api, **values: str) -> Daemon:
        return Daemon(
            self.directory,
            **{
                "bootstrap": self.broker.bootstrap,
                "group": self.group,
                "topic": self.topic,
                "dead": self.dead,
                "url": api.url,
            }
            | values,
        )

    async def produce(self, count: int, *, start: int = 0) -> None:
        messages = (
            Message(b'{"n":%d}' % n, b"key-%d" % n, partition=n % 4)
            for n in range(start, start + count)
        )
        await self.broker.produce(self.topic, messages)

    async def checkpoints(self) -> dict[int, int]:
        """Of every partition where it has left the start, at which the daemon puts it."""
        found = await self.broker.committed(self.group, self.topic)
        return {partition: offset for partition, (offset, _) in found.items() if offset}


async def make_stream(broker: Broker, directory: Path) -> Stream:
    made = Stream(broker, directory, unique("pages"), unique("group"))
    await broker.create_topic(made.topic, partitions=4)
    await broker.create_topic(made.dead)
    return made


def exactly_once(partitions: int, each: int) -> Counter[tuple[int, int]]:
    return Counter({(p, o): 1 for p in range(partitions) for o in range(each)})


def later() -> str:
    """A `window.active` that begins in two hours: now is outside of it, and for long."""
    start = datetime.now(UTC) + timedelta(hours=2)
    return f"{start:%H:%M}-{start + timedelta(hours=1):%H:%M} UTC"

"""What a storm passes over besides Kafka and the network: an API, what is sent to it, and the audit
of what has become of that."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, Protocol

from brokers.base import Message
from brokers.kafka import Kafka

from .audit import Findings

Span = Literal["partition", "topics"]


@dataclass(frozen=True)
class Stage:
    """Where a storm takes place. `directory` is for all that is written down of it."""

    kafka: Kafka
    directory: Path
    topic: str
    group: str

    @property
    def dead(self) -> str:
        return f"{self.topic}.dead"

    async def committed(self) -> dict[int, int]:
        found = await self.kafka.committed(self.group, self.topic)
        return {partition: offset for partition, (offset, _) in found.items()}


class Api(Protocol):
    """A process of its own on loopback, which misbehaves until it is told to be calm."""

    @property
    def port(self) -> int: ...

    def calm(self) -> None: ...


class Subject(Protocol):
    """One kind of sink in a storm; its text says which.

    `counted` are events of the daemons' logs that go into the report, `never` those that must not
    be. `sound` is what may be said if nothing is wrong.
    """

    counted: Set[str]
    never: Set[str]
    sound: str

    def topics(self, stage: Stage) -> Sequence[str]:
        """What there has to be besides prompts and dead letters."""

    def api(self, stage: Stage, seed: int) -> AbstractContextManager[Api]: ...

    def settings(self, stage: Stage, url: str) -> dict[str, str]:
        """Of a daemon's configuration, with the API at `url`."""

    def message(self, number: int, partitions: int, random: Random) -> Message:
        """The record of this number."""

    async def watch(self, stage: Stage) -> None:
        """Runs as long as there are daemons."""

    async def audit(self, stage: Stage, acknowledged: int) -> Findings:
        """When all is over. So many records were acknowledged to whoever wrote them."""

"""What whoever tests a sink writes: the real thing behind it, and what a test may do to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ..batch import Batch, Run
from ..record import Record, TopicPartition
from ..sinks.settings import ConfiguredSink, Line, SinkSettings
from ..units import decode


@dataclass(frozen=True, slots=True)
class PlainRecord:
    """A record that comes from no broker. `timestamp` in ms since 1970."""

    topic: str = "pages"
    partition: int = 0
    offset: int = 0
    value: bytes | None = b"{}"
    key: bytes | None = None
    timestamp: int = 1_767_225_600_000  # 2026-01-01
    headers: Sequence[tuple[str, bytes]] = ()


def batch_of(records: Sequence[Record], pipeline: str = "pages") -> Batch:
    """A batch of these records; those of a partition are in ascending order."""
    runs: dict[TopicPartition, list[Record]] = {}
    for record in records:
        runs.setdefault(TopicPartition(record.topic, record.partition), []).append(record)
    return Batch.of(pipeline, [Run(tp, 1, run) for tp, run in runs.items()], "records")


C_co = TypeVar("C_co", bound=ConfiguredSink, covariant=True)


class Buildable(Protocol[C_co]):
    """Settings of a sink, as far as a stand needs to know."""

    def build(self, line: Line) -> C_co: ...


class AnyStand(ABC, Generic[C_co]):
    """What there is behind a sink of any kind, empty at first, and what a test may do to it.

    `bad` is a value that it refuses for its own sake.
    """

    line: Line = Line("pages")
    bad: bytes | None = None

    @abstractmethod
    def settings(self, **keys: Any) -> Buildable[C_co]:
        """The sink's settings, with these keys as they would stand in a file."""

    @abstractmethod
    async def untouched(self) -> bool:
        """Whether nothing has ever been done there."""

    def value(self, n: int) -> bytes:
        """The value of record `n`: one that is taken, and no other's. `n` is below 10,000."""
        return b'{"n":%d}' % n

    def gone(self) -> AbstractAsyncContextManager[None] | None:
        """Inside of it nothing can be reached. None: that cannot be done."""
        return None

    # What the suite does with it.

    @asynccontextmanager
    async def sink(self, **keys: Any) -> AsyncIterator[C_co]:
        """A sink by `settings`, open."""
        made = self.settings(**keys).build(self.line)
        await made.open()
        try:
            yield made
        finally:
            await made.close()

    def records(self, *numbers: int) -> list[Record]:
        return [PlainRecord(offset=n, value=self.value(n)) for n in sorted(numbers)]

    def batch(self, *numbers: int) -> Batch:
        return batch_of(self.records(*numbers), self.line.name)


class Stand(AnyStand[ConfiguredSink]):
    """The real thing behind a sink, and what a test may do to it."""

    @abstractmethod
    def settings(self, **keys: Any) -> SinkSettings:
        """The sink's settings, with these keys as they would stand in a file."""

    @abstractmethod
    async def effects(self) -> Counter[int]:
        """How often the record of each `n` is in effect there now."""

    def mute(self) -> AbstractAsyncContextManager[None] | None:
        """Inside of it requests are taken and not answered. None: that cannot be done."""
        return None

    def babbling(self) -> AbstractAsyncContextManager[None] | None:
        """Inside of it requests are answered by what makes no sense, and nothing is done."""
        return None

    async def untouched(self) -> bool:
        return not await self.effects()


S = TypeVar("S", bound=SinkSettings)


def read(kind: type[S], **keys: Any) -> S:
    """Settings from keys as they stand in a file. Raises msgspec.ValidationError."""
    table = {"type": kind.__struct_config__.tag, **keys}
    return msgspec.convert(table, kind, strict=True, dec_hook=decode)

"""What the core asks of the outside world. Everything else in it is replaceable."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from .batch import Batch
from .outcome import Outcome
from .record import Record, TopicPartition


@dataclass(frozen=True, slots=True)
class Assignment:
    """One partition, from one rebalance to the next. `position` is where fetching starts."""

    epoch: int
    position: int
    metadata: str = ""


class Member(Protocol):
    """Who is told about rebalances: the pipeline."""

    def assigned(self, partitions: Mapping[TopicPartition, Assignment]) -> None:
        """These partitions are ours from now on. Called before any of their records is fetched."""

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """These partitions are about to go. Must return within the deadline of the source."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records of one partition in ascending order, possibly none, and where the next fetch goes on.

    `end` is past the last record and past what lies behind it that is no record: compaction gaps,
    transaction markers.
    """

    tp: TopicPartition
    epoch: int
    records: Sequence[Record]
    end: int


class Source(Protocol):
    """The stream. Owns the membership in the group."""

    async def fetch(
        self, ready: Collection[TopicPartition], max_records: int, timeout: float
    ) -> Sequence[Fetched]:
        """Waits up to `timeout` seconds for records of the `ready` partitions.

        With none ready it returns at once, and still notices trouble. It may take longer during
        a rebalance. Raises SourceError and LostRangeError.
        """
        ...

    async def ends(self, timeout: float) -> Mapping[TopicPartition, int]:
        """The end offsets of the assigned partitions, as far as they can be had in time."""
        ...


@dataclass(frozen=True, slots=True)
class Mark:
    """One partition's checkpoint: everything below `offset` is done."""

    epoch: int
    offset: int
    metadata: str = ""


# ok: acknowledged. failed: certainly not committed. unknown: it may have been, or may yet be.
CommitOutcome = Literal["ok", "failed", "unknown"]


class Checkpoint(Protocol):
    """Where progress is made durable."""

    async def commit(self, marks: Mapping[TopicPartition, Mark], timeout: float) -> CommitOutcome:
        """Commits marks whose epoch is still current; drops the others. Bounded by `timeout`."""
        ...


Reason = Literal["invalid", "rejected", "too_large", "exhausted"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that will not be delivered, and why. `attempts` counts requests it was part of."""

    record: Record
    reason: Reason
    error: str
    attempts: int = 0
    status: str = ""
    batch: str = ""


class DeadLetters(Protocol):
    """Where refused records go."""

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Returns once every letter is acknowledged; raises BurialError if any may not be."""
        ...


class Sink(Protocol):
    """One bulk API."""

    async def send(self, batch: Batch) -> Outcome:
        """One request. Trouble of any kind is an Outcome; an exception is a bug and is fatal."""
        ...

    def objection(self, record: Record) -> str | None:
        """Why this record can never be put into a request, or None. Asked before it is buffered."""
        ...

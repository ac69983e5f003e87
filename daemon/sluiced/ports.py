"""What the core asks of the outside world. Everything else in it is replaceable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from .batch import Batch
from .feedback import Feedback
from .outcome import Again, Outcome, Refused, TooLarge, Verdict
from .record import Range, Record, TopicPartition


@dataclass(frozen=True, slots=True)
class Assignment:
    """One partition, from one rebalance to the next. `position` is where fetching starts.

    `metadata` was committed with that position; `fresh` if nothing was, or something else. `end` is
    the log's end at the moment, or where there is no metadata possibly 0.
    """

    epoch: int
    position: int
    metadata: str = ""
    end: int = 0
    fresh: bool = False


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
    """The stream. Owns the membership in the group.

    `stopped` are assigned partitions that cannot be read on, because their log is damaged.
    `partitions` is how many the topics have in all, whoever is assigned them.
    """

    @property
    def partitions(self) -> int: ...

    @property
    def stopped(self) -> Collection[TopicPartition]: ...

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

    async def starts(self, timeout: float) -> Mapping[TopicPartition, int]:
        """The oldest offsets that the log of the assigned partitions still has, likewise."""
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
    """Where progress is made durable. `metadata_limit` is how many bytes of a mark's metadata it
    keeps; a mark with more is refused."""

    @property
    def metadata_limit(self) -> int: ...

    async def commit(self, marks: Mapping[TopicPartition, Mark], timeout: float) -> CommitOutcome:
        """Commits marks whose epoch is still current; drops the others. Bounded by `timeout`."""
        ...


Reason = Literal["invalid", "rejected", "too_large", "exhausted", "cancelled"]


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


# How an API tells work that it has done already from new work: by an id of its own for each item,
# by the batch's id, by a transaction that holds the checkpoint too, or not at all.
Identifies = Literal["item", "batch", "transaction", "none"]


class Sink(Protocol):
    """One bulk API."""

    @property
    def identifies(self) -> Identifies: ...

    async def send(self, batch: Batch) -> Outcome:
        """One request. Trouble of any kind is an Outcome; an exception is a bug and is fatal. A
        SluicedError is fatal, too, and for trouble that only a fresh start can end."""
        ...

    def objection(self, record: Record) -> str | None:
        """Why this record can never be put into a request, or None. Asked before it is buffered."""
        ...


class Positions(Protocol):
    """What a sink that identifies by "transaction" is besides: the place of the checkpoint.

    What a transaction writes it also notes there as done, so that one cannot be without the other.
    Kafka's offset follows, for everybody who watches the lag.
    """

    async def claim(
        self, epoch: int, starts: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, int]:
        """These partitions are ours, and whoever had them can write nothing any more.

        Returns where they start, whatever Kafka says; those that are not known here start where
        Kafka says, at `starts`. Raises PositionsError where that cannot be learned now.
        """
        ...

    async def advance(self, marks: Mapping[TopicPartition, Mark]) -> bool:
        """Everything below these marks is done, also what was not written: buried, skipped.

        Called before Kafka is told. False if it could not be noted: then Kafka is not told.
        """
        ...


# --- APIs that make a job of a batch -------------------------------------------------------------

# Seconds without a word of a job after which the API counts as silent, in alerts too.
SILENCE = 3600.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """The API works on it, under this id of its own: see `metadata.JOB_ID`. `feedback` is what it
    says of its limits, as with an outcome."""

    job: str
    feedback: Feedback | None = None


@dataclass(frozen=True, slots=True)
class Undecided:
    """This job of theirs may be the one that was looked for; once it has ended that can be said.
    Without a `job` none was found, which is to be seen once more before it counts."""

    job: str = ""
    feedback: Feedback | None = None


# working: later. ended: there are results. failed: it was not worked on. missing: there is none.
JobState = Literal["working", "ended", "failed", "missing"]


# What becomes of what a job has not done because somebody has cancelled it.
OnCancel = Literal["again", "halt", "dead-letter"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How a job is. `done` of `total` requests, as far as the API says.

    Of one that has failed, `named` says that its results name the records that are to blame, and
    `queue_full` that it was one too many, or that the account is to blame; where both are False,
    `error` is all that is known. `cancelled` that somebody has asked for its end. `created` is when
    the API made it, in seconds since 1970.
    `feedback` is what it says of its limits, which are those of submissions too.
    """

    state: JobState
    done: int = 0
    total: int = 0
    named: bool = False
    queue_full: bool = False
    status: str = ""
    error: str = ""
    cancelled: bool = False
    created: float | None = None
    feedback: Feedback | None = None


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a job says of one record; `where` is None if that is none that was ever sent.

    `body` is the answer, where there is one.
    """

    where: tuple[TopicPartition, int] | None
    verdict: Verdict
    body: bytes = b""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


class BrokenResultsError(Exception):
    """The results could not be read to their end; what came before is good."""


class JobSink(Protocol):
    """One API that takes a batch, works on it for hours, and keeps its results for days.

    Trouble of any kind is an Outcome; an exception other than BrokenResultsError is a bug.
    """

    @property
    def most_jobs(self) -> int:
        """How many the API may have at work at once."""
        ...

    @property
    def poll_every(self) -> float:
        """Seconds between two looks at a job, at least."""
        ...

    @property
    def on_cancel(self) -> OnCancel: ...

    async def submit(self, batch: Batch, name: str) -> Submitted | Again | Refused | TooLarge:
        """Makes a job of a batch; `name` is what `find` is asked for, up to 64 characters."""
        ...

    async def find(
        self, batch: Batch, name: str, known: Collection[str], *, whole: bool = True
    ) -> Submitted | Undecided | Again | None:
        """The job that was submitted under this name and has not failed, if there is one; none of
        the `known` ones. Without `whole` it may hold more than this batch, which has been taken
        apart since. Clears away what a submission has left half done.

        None only where there is none and, as far as can be known, will be none: a request that was
        cut off may still be carried out.
        """
        ...

    async def poll(self, job: str) -> Progress | Again: ...

    def results(self, job: str) -> AsyncIterator[JobResult]:
        """Once it has ended, or has failed for reasons with a name; in any order. Raises
        BrokenResultsError."""
        ...

    async def cancel(self, job: str) -> Again | None:
        """Asks the API to end it; what is done by then are its results."""
        ...

    def objection(self, record: Record) -> str | None:
        """See Sink."""
        ...


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """A result on its way to where results go; `key` is that of the prompt."""

    tp: TopicPartition
    offset: int
    key: bytes | None
    job: str
    result: JobResult


class Answers(Protocol):
    """Where results go."""

    async def write(self, answers: Sequence[JobAnswer]) -> None:
        """Returns once every one is acknowledged; raises BurialError if any may not be."""
        ...


class Originals(Protocol):
    """Records that have been read before."""

    def read(
        self, ranges: Mapping[TopicPartition, Sequence[Range]]
    ) -> AsyncIterator[Sequence[Record]]:
        """Those of these offsets that are still there; a page is of one partition, in ascending
        order. Raises SourceError where they cannot be read now."""
        ...

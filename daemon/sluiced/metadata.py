"""The metadata of an offset commit: the plan as text, and what of it fits.

For each partition the plan lists, in order and above the committed offset, ranges of offsets that
are either the part which a batch has of this partition, or done already although something before
them is not. As text, after a prefix that names the version:

    sluiced1:0+500=<id>,0+500=<id>*3,17+500~<id>,0+20,0+500=<id>@<job>@<job>,0+500=<id>@<job>@

gap, "+", length; then "=" and the batch's id where it is open; "~" instead of "=" where only the
newest record of each record id was sent; "*" and the number of partitions where the batch has more
than one, or "*0" once what it has of each is a batch of its own. A gap counts from the end of the
entry before it, the first from the committed offset.

Where the API makes a job of a batch there follow, each after an "@", the ids of the jobs that it
has become one after the other, each for what the one before it left undone; and a bare "@" once
what the last one says is written, and another job is to come.

Apart from `plan`, which keeps the book: of this text one version has to understand another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import SourceError

PREFIX = "sluiced1:"

# What Kafka's brokers take by default (offset.metadata.max.bytes), and what one entry may need.
DEFAULT_LIMIT = 4096
LEAST_LIMIT = 128

# The ids of jobs are the API's own: these are the letters that they may have, and their length.
JOB_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
JOB_ROOM = 48  # bytes of metadata that are kept free for one; those of today have 33 to 38

_OURS = re.compile(r"(sluiced\d+):", re.ASCII)  # of any version
_ENTRY = re.compile(
    r"(\d{1,19})\+(\d{1,19})"
    rf"(?:([=~])([0-9a-f]{{32}})(?:\*(\d{{1,9}}))?((?:@{JOB_ID.pattern})*)((?<!@)@)?)?",
    re.ASCII,
)


def jobs_that_fit(attempts: int, limit: int = DEFAULT_LIMIT) -> int:
    """How many batches of a partition may be jobs at once, each with room for so many ids.

    Of batches of up to 99,999 offsets in one partition, which follow one another.
    """
    entry = len("0+50000=") + 32 + attempts * (1 + JOB_ROOM) + len(",")
    return max(1, (limit - len(PREFIX)) // entry)


class ForeignPlanError(ValueError):
    """The metadata is not a plan."""


class UnreadablePlanError(SourceError):
    """The metadata is a plan, and not one that this version can read. Whoever went on without it
    would do again what is in flight, and submit jobs twice."""

    def __init__(self, where: str, version: str) -> None:
        known = PREFIX.removesuffix(":")
        what = "has an entry" if version == known else f"is in the format {version}"
        super().__init__(
            f"the plan beside the checkpoint of {where} {what}, which this version of sluiced "
            f"cannot read; it knows {known}",
            "Go on with the version that wrote it, at least until nothing is in flight. To give "
            "up what is, stop all members and commit the same offset without metadata: "
            "kafka-consumer-groups --reset-offsets --to-current does.",
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """Offsets `first` to `last` of one partition. Without an `id` they are done.

    `parts` is how many partitions the batch has, 0 if it was taken apart; `collapsed` that it went
    without the records which gave way to newer ones of the same id. `jobs` are what it has become,
    oldest first; `written` that all that the last one says is written, and another one is to come.
    """

    first: int
    last: int
    id: str = ""
    parts: int = 1
    collapsed: bool = False
    jobs: tuple[str, ...] = ()
    written: bool = False


def encode(offset: int, entries: Iterable[Entry]) -> str:
    """The metadata for a commit of `offset`; entries are in order, disjoint and not below it.

    No entries are no text. Done entries that touch are written as one. Raises ValueError rather
    than to write what nobody could read.
    """
    texts: list[str] = []
    for entry in _merged(entries):
        if entry.first < offset:
            raise ValueError(f"entries of a plan overlap at {entry.first}")
        texts.append(f"{entry.first - offset}+{entry.last - entry.first + 1}{_tail(entry)}")
        offset = entry.last + 1
    return PREFIX + ",".join(texts) if texts else ""


def _merged(entries: Iterable[Entry]) -> list[Entry]:
    merged: list[Entry] = []
    for entry in entries:
        before = merged[-1] if merged else None
        if before and not (before.id or entry.id) and before.last + 1 == entry.first:
            merged[-1] = Entry(before.first, entry.last)
        else:
            merged.append(entry)
    return merged


def _tail(entry: Entry) -> str:
    if not entry.id:
        return ""
    sign = "~" if entry.collapsed else "="
    parts = f"*{entry.parts}" if entry.parts != 1 else ""
    return f"{sign}{entry.id}{parts}{job_text(entry.jobs, entry.written)}"


def job_text(jobs: Iterable[str], written: bool) -> str:
    return "".join(f"@{job}" for job in jobs) + ("@" if written else "")


def decode(offset: int, metadata: str, where: str = "a partition") -> list[Entry]:
    """The entries of a commit's metadata; none for an empty one. `where` is for people.

    Raises ForeignPlanError and UnreadablePlanError.
    """
    if not metadata:
        return []
    if (ours := _OURS.match(metadata)) is None:
        raise ForeignPlanError("it does not start with " + PREFIX)
    entries = []
    for text in metadata.removeprefix(PREFIX).split(","):
        found = _ENTRY.fullmatch(text)
        if found is None or int(found[2]) < 1 or (found[7] and not found[6]):
            raise UnreadablePlanError(where, ours[1])
        first = offset + int(found[1])
        offset = first + int(found[2])
        parts = int(found[5] or 1)
        jobs = tuple((found[6] or "").split("@")[1:])
        entries.append(
            Entry(first, offset - 1, found[4] or "", parts, found[3] == "~", jobs, bool(found[7]))
        )
    return entries

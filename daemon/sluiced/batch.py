"""A batch: an immutable, non-empty run of records, with its id and why it closed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from operator import attrgetter
from typing import Literal, NamedTuple

from .record import Range, Record, TopicPartition, footprint_of, ranges_of, size_of

ClosedBy = Literal["records", "bytes", "age", "align", "drain", "plan"]


@dataclass(frozen=True, slots=True)
class Run:
    """Records of one partition in ascending order, fetched under one epoch of its assignment.

    `size` is their value bytes, `footprint` what they take up in memory; counted here where the
    maker does not know them.
    """

    tp: TopicPartition
    epoch: int
    records: Sequence[Record]
    size: int = -1
    footprint: int = -1

    def __post_init__(self) -> None:
        if self.size >= 0:
            return
        object.__setattr__(self, "size", size_of(self.records))
        object.__setattr__(self, "footprint", footprint_of(self.records, self.size))


class Span(NamedTuple):
    """The offsets that a batch holds of one partition, and the epoch they were fetched under."""

    tp: TopicPartition
    epoch: int
    ranges: tuple[Range, ...]


def batch_id(pipeline: str, spans: Iterable[Span]) -> str:
    """32 hexadecimal digits, derived from the pipeline and the exact offsets and nothing else.

    Same records, same id, on every machine and after every restart; that is what lets an API
    recognise a batch that it has already taken. Safe in a header, a URL and a file name.
    """
    digest = blake2b(digest_size=16)
    digest.update(f"{pipeline}\n".encode())
    for (topic, partition), _, ranges in spans:
        digest.update(f"{topic}/{partition}:{ranges}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Batch:
    """What one request carries.

    `records` are sorted by topic, partition and offset, so that the same set of records always
    makes the same body, in whatever order the partitions were fetched. `covers` is what is done
    once this batch is: its own spans, and those of records that `collapse` left out of it.
    `since` is when its first record was buffered.
    """

    pipeline: str
    records: Sequence[Record]
    spans: tuple[Span, ...]
    closed_by: ClosedBy
    covers: tuple[Span, ...]
    skipped: tuple[Record, ...] = ()
    since: float = 0.0
    size: int = -1  # counted here where the maker does not know it
    footprint: int = -1
    id: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.records:
            raise ValueError("a batch is never empty")
        set_ = object.__setattr__
        set_(self, "id", batch_id(self.pipeline, self.spans))
        if self.size < 0:
            set_(self, "size", size_of(self.records))
            set_(self, "footprint", footprint_of(self.records, self.size))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def ranges(self) -> str:
        """The records of the request by their coordinates, as `sluiced replay` takes them."""
        named = ((tp, span) for tp, _, ranges in self.spans for span in ranges)
        return ",".join(f"{tp}/{first}-{last}" for tp, (first, last) in named)

    @property
    def topic(self) -> str | None:
        """The topic, where all records are of one."""
        topics = {span.tp.topic for span in self.spans}
        return topics.pop() if len(topics) == 1 else None

    def newest(self) -> Iterator[tuple[TopicPartition, Record]]:
        """The last record of each partition."""
        end = 0
        for tp, _, ranges in self.spans:
            end += sum(last - first + 1 for first, last in ranges)
            yield tp, self.records[end - 1]

    def firsts(self) -> Iterator[Record]:
        """The first record of each partition."""
        start = 0
        for _, _, ranges in self.spans:
            yield self.records[start]
            start += sum(last - first + 1 for first, last in ranges)

    @classmethod
    def of(
        cls, pipeline: str, runs: Iterable[Run], closed_by: ClosedBy, since: float = 0.0
    ) -> Batch:
        """The batch of all records of `runs`; runs of one partition are in ascending order."""
        records: list[Record] = []
        spans: list[Span] = []
        runs = sorted(runs, key=attrgetter("tp"))
        for tp, group in groupby(runs, key=attrgetter("tp")):
            parts = list(group)
            own = [r for part in parts for r in part.records] if parts[1:] else parts[0].records
            spans.append(Span(tp, parts[0].epoch, ranges_of(own)))
            records += own
        size, footprint = sum(run.size for run in runs), sum(run.footprint for run in runs)
        held = tuple(spans)
        return cls(pipeline, records, held, closed_by, held, (), since, size, footprint)

    def only(self, records: Sequence[Record], *, skipped: Sequence[Record] = ()) -> Batch:
        """A batch of some of these records, in this order: a split, a retry, a collapse.

        Fewer records are another id. What it covers shrinks likewise, except for `skipped`
        records, whose fate is that of the records they gave way to.
        """
        if len(records) == len(self.records):
            return self
        spans = self._spans_of(records)
        covers = self.covers if skipped else spans
        return Batch(
            self.pipeline, records, spans, self.closed_by, covers, tuple(skipped), self.since
        )

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches of this one's records, in order; it has at least two."""
        middle = len(self.records) // 2
        return self.only(self.records[:middle]), self.only(self.records[middle:])

    def _spans_of(self, records: Sequence[Record]) -> tuple[Span, ...]:
        epochs = {span.tp: span.epoch for span in self.spans}
        groups = groupby(records, key=attrgetter("topic", "partition"))
        named = ((TopicPartition(*key), list(group)) for key, group in groups)
        return tuple(Span(tp, epochs[tp], ranges_of(own)) for tp, own in named)

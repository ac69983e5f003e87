"""Real records of the topics, and batches of them under ids that no API has ever seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter

from ...app import Daemon
from ...batch import Batch, Run
from ...config import Config
from ...errors import SluicedError
from ...kafka.scan import Reader, Span, existing
from ...record import Record, TopicPartition, footprint_of, size_of
from ...window import collapsed

_place = attrgetter("topic", "partition", "offset")


class Load:
    """Records in a ring for each window that the configuration keeps: one over all partitions, or
    one for each. Every batch takes the next ones, and each has a name of its own."""

    def __init__(self, config: Config, records: Sequence[Record]) -> None:
        """Raises SluicedError where there are none."""
        if not records:
            raise SluicedError(
                "there are no records to tune with",
                "The topics hold none that the intake lets through; sluiced preview tells more.",
            )
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        self._name = f"{config.name}+tune-{started}"
        self._made = 0
        rings: dict[object, list[Record]] = {}
        for record in records:
            apart = config.window.span == "partition"
            rings.setdefault((record.topic, record.partition) if apart else None, []).append(record)
        if config.window.collapse:
            identify = config.line.identify
            rings = {k: list(collapsed(_batch("x", r), identify).records) for k, r in rings.items()}
        self._rings = sorted(rings.values(), key=len, reverse=True)
        self._at = [0] * len(self._rings)

    @property
    def records(self) -> int:
        return sum(map(len, self._rings))

    @property
    def bytes(self) -> int:
        """Of values."""
        return sum(map(size_of, self._rings))

    @property
    def largest(self) -> int:
        """Records that one batch can hold without holding any of them twice."""
        return len(self._rings[0])

    def batches(self, size: int, count: int) -> Iterator[Batch]:
        """From those rings in turn that hold so many."""
        fitting = [n for n, ring in enumerate(self._rings) if len(ring) >= size]
        for turn in range(count):
            number = fitting[turn % len(fitting)]
            ring, start = self._rings[number], self._at[number]
            taken = [*ring[start : start + size], *ring[: max(0, start + size - len(ring))]]
            self._at[number] = (start + size) % len(ring)
            self._made += 1
            yield _batch(f"{self._name}-{self._made}", taken)


def _batch(name: str, records: Sequence[Record]) -> Batch:
    ordered = sorted(records, key=_place)
    runs = [
        Run(TopicPartition(*where), 0, list(own))
        for where, own in groupby(ordered, key=attrgetter("topic", "partition"))
    ]
    return Batch.of(name, runs, "records")


async def read(config: Config, reader: Reader, most: int, memory: int) -> list[Record]:
    """The newest records of the topics, of each partition as many as of the others, after the
    configuration's intake; in the order in which one window over all would get them.

    At most `most`, and those that fit into `memory` bytes. Raises SourceError.
    """
    intake = Daemon(config).pipeline.intake
    topics = await existing(config.kafka, config.kafka.topics, "kafka.topics")
    tps = [TopicPartition(t, n) for t, count in topics.items() for n in range(count)]
    found: list[Record] = []
    async for page in reader.pages(newest(await reader.bounds(tps), most)):
        accepted = intake.check(page).accepted
        memory -= footprint_of(accepted, size_of(accepted))
        if memory < 0 and found:
            break
        found += accepted
    return sorted(found, key=attrgetter("timestamp"))


def newest(bounds: Mapping[TopicPartition, Span], most: int) -> dict[TopicPartition, Span]:
    """The ends of these spans, `most` offsets in all: what short ones leave, long ones get."""
    spans = {}
    for left, (tp, span) in zip(
        range(len(bounds), 0, -1), sorted(bounds.items(), key=lambda x: len(x[1])), strict=True
    ):
        share = min(len(span), most // left)
        spans[tp] = Span(span.end - share, span.end)
        most -= share
    return spans

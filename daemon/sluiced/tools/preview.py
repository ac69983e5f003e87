"""The requests that the next windows would make, exactly, and nothing is sent."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from ..app import Daemon
from ..batch import Batch, Run
from ..config import Config
from ..kafka.peek import where_a_daemon_would_start
from ..kafka.scan import Reader, Span, existing, reading
from ..metadata import Entry, ForeignPlanError, decode
from ..plan import Work
from ..ports import Assignment
from ..prices import Prices
from ..record import Range, Record, TopicPartition
from ..recovery import Recovery, regrouped
from ..sinks.job_api import JobApi
from . import costs
from .text import printable

PAGE = 500  # records of one partition that are read before those of the next


@dataclass(slots=True)
class Preview:
    """What was found: the first batches, and what does not get into any."""

    batches: list[Batch] = field(default_factory=list)
    invalid: list[tuple[Record, str]] = field(default_factory=list)
    skipped: int = 0
    foreign: list[TopicPartition] = field(default_factory=list)


class Previewer:
    """Does with the log what the pipeline does, one partition after the other in turn."""

    def __init__(self, config: Config, most: int) -> None:
        daemon = Daemon(config)
        self._config = config
        self._most = most
        self._intake = daemon.pipeline.intake
        self._windows = daemon.pipeline.buffer.windows
        self._recovery: Recovery = daemon.pipeline.recovery
        self._sink = daemon.sink.current
        self.found = Preview()

    async def run(self) -> Preview:
        """Raises SourceError where the log or the checkpoint cannot be read."""
        async with reading(self._config.kafka) as reader:
            topics = await existing(self._config.kafka, self._config.kafka.topics, "kafka.topics")
            tps = [TopicPartition(t, n) for t, count in topics.items() for n in range(count)]
            starts = await where_a_daemon_would_start(self._config.kafka, reader, tps)
            self._recovery.start(*self._plans(starts))
            async for batches in self._formed(reader, starts):
                self.found.batches += batches
                if len(self.found.batches) >= self._most and not self._recovery.recovering():
                    break
            else:
                self.found.batches += self._windows.close_all("age")
        self.found.batches.sort(key=lambda batch: batch.closed_by != "plan")  # those go first
        del self.found.batches[self._most :]
        return self.found

    def _plans(
        self, starts: Mapping[TopicPartition, Assignment]
    ) -> tuple[list[Work], dict[TopicPartition, list[Range]]]:
        plans: dict[TopicPartition, list[Entry]] = {}
        for tp, start in starts.items():
            try:
                plans[tp] = decode(start.position, start.metadata, str(tp))
            except ForeignPlanError:
                self.found.foreign.append(tp)
        works, done, _ = regrouped(plans, {tp: start.end for tp, start in starts.items()})
        for work in works:
            for tp, span in work.spans.items() if work.jobs else ():
                done.setdefault(tp, []).append(span)  # at the API as a job
                done[tp].sort()
        return [work for work in works if not work.jobs], done

    async def _formed(
        self, reader: Reader, starts: Mapping[TopicPartition, Assignment]
    ) -> AsyncIterator[Sequence[Batch]]:
        """Batches as they come to be, those of a former run's plan before all others."""
        turns = deque((tp, Span(start.position, start.end)) for tp, start in starts.items())
        while turns:
            tp, span = turns.popleft()
            if not len(span):
                continue
            async with aclosing(reader.pages({tp: span}, PAGE)) as pages:
                page: Sequence[Record] = await anext(pages, ())
            position = page[-1].offset + 1 if page else span.end
            yield list(self._taken(tp, page, position))
            turns.append((tp, Span(position, span.end)))

    def _taken(self, tp: TopicPartition, page: Sequence[Record], position: int) -> Iterator[Batch]:
        recovering = tp in self._recovery
        checked = self._intake.check(self._recovery.undone(tp, page) if recovering else page)
        self.found.invalid += checked.invalid
        self.found.skipped += len(checked.skipped)
        run = Run(tp, 0, checked.accepted) if checked.accepted else None
        if recovering:
            if run is not None:
                self._recovery.add(run)
            formed = self._recovery.reached(tp, position, 0.0)
            yield from (each.batch for each in formed if each.batch is not None)
            for rest in self._recovery.freed():
                yield from self._windows.add(rest.run, 0.0)
                if rest.hole and (batch := self._windows.close_of(rest.run.tp, "plan")):
                    yield batch
        elif run is not None:
            yield from self._windows.add(run, 0.0)

    def as_text(self, batch: Batch, number: int) -> Iterator[str]:
        """The request that this batch makes, with a line about it before it."""
        records = "1 record" if len(batch) == 1 else f"{len(batch)} records"
        yield f"# {number}: batch {batch.id}, {records}, {batch.size} bytes of values"
        yield f"# closed by {batch.closed_by}: {batch.ranges}"
        if isinstance(self._sink, JobApi):
            expected = self._sink.expected(batch.records)
            yield f"# {costs.as_text(expected, Prices(self._config.prices))}"
        yield from map(printable, self._sink.preview(batch))
        yield ""


def remarks(found: Preview) -> Iterator[str]:
    """What is not in the requests, and why."""
    if not found.batches:
        yield "# Nothing waits: there are no records above the checkpoint."
    for record, why in found.invalid[:10]:
        at = f"{record.topic}/{record.partition}/{record.offset}"
        yield f"# {at} would be dead-lettered as invalid: {printable(why)}"
    if (more := len(found.invalid) - 10) > 0:
        yield f"# and {more} more"
    if found.skipped:
        yield f"# {found.skipped} tombstones or filtered records would be skipped."
    for tp in found.foreign:
        yield f"# {tp}: the metadata of its checkpoint is not ours; a daemon would write over it."

"""Reads the records, makes the batches, sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio

from ...batch import Batch, Run
from ...config import Config
from ...errors import SluicedError
from ...identity import identity
from ...kafka import KafkaDeadLetters
from ...kafka.scan import Reader, Span, existing, reading
from ...ports import DeadLetter
from ...record import Record, TopicPartition
from ...window import Windows
from ..resend import Refusals, Resender
from ..text import Progress
from .ranges import Part, merged
from .report import Report

Spans = list[tuple[TopicPartition, Span]]


@dataclass(frozen=True, slots=True)
class Options:
    """Either `lists` or a span of time. With `exact` each list is one batch, otherwise the
    configuration's window makes them. `batch` is the id that the one list is to come out as, if
    it is known. `patience` in seconds. See the command's help."""

    lists: Sequence[Sequence[Part]] = ()
    since: datetime | None = None
    until: datetime | None = None
    exact: bool = False
    batch: str = ""
    new_ids: bool = False
    dead_letter: bool = False
    patience: float = 300.0


class Replay:
    """Reads what was asked for, as often as asked: the same records make the same batches."""

    def __init__(
        self, config: Config, options: Options, resender: Resender, refusals: Refusals
    ) -> None:
        self._config = config
        self._options = options
        self._resender = resender
        self._refusals = refusals
        self._name = config.name
        if options.new_ids:
            self._name += f"+replay-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%f')}"
        self._lists: list[Spans] = []

    async def plan(self, reader: Reader) -> Report:
        """What there is to deliver. Raises SluicedError where the log does not hold it."""
        if self._options.lists:
            self._lists = await self._named(reader)
        else:
            self._lists = [await self._timed(reader)]
        plan = Report()
        async for batch in self._batches(reader, plan):
            plan.add(batch)
        wanted = self._options.batch
        if wanted and not self._options.new_ids and [id_ for id_, _ in plan.batches] != [wanted]:
            raise SluicedError(
                f"the records of batch {wanted} would make another batch now: "
                f"{plan.batches[0][0] if plan.batches else 'none at all'}",
                "The configuration's name or [record] has changed, or the log has lost some of "
                "them; --new-ids sends what there is, as a new batch.",
            )
        return plan

    async def _named(self, reader: Reader) -> list[Spans]:
        lists = self._options.lists
        parts = [part for each in lists for part in each]
        found = await existing(self._config.kafka, {part.tp.topic for part in parts}, "RANGE")
        for part in parts:
            if part.tp.partition >= found[part.tp.topic]:
                raise SluicedError(
                    f"{part}: {part.tp.topic} has {found[part.tp.topic]} partitions",
                    "They are counted from 0.",
                )
        bounds = await reader.bounds({part.tp for part in parts})
        for part in parts:
            _check_held(part, bounds)
        return [merged(each) for each in lists] if self._options.exact else [merged(parts)]

    async def _timed(self, reader: Reader) -> Spans:
        found = await existing(self._config.kafka, self._config.kafka.topics, "kafka.topics")
        tps = [TopicPartition(t, n) for t, partitions in found.items() for n in range(partitions)]
        spans = []
        for tp, held in sorted((await reader.bounds(tps)).items()):
            first: int | None = held.first
            if self._options.since is not None:
                first = await reader.offset_at(tp, int(self._options.since.timestamp() * 1000))
            if first is not None:
                spans.append((tp, Span(max(first, held.first), held.end)))
        return spans

    async def deliver(
        self, reader: Reader, plan: Report, progress: Progress, stop: anyio.Event
    ) -> Report:
        """Sends what was planned. Raises SluicedError where a refused record cannot be buried."""
        report = Report()
        progress.total = plan.total
        buried = 0
        planned = iter(plan.batches)
        async for batch in self._batches(reader, report):
            if stop.is_set():
                report.stopped = True
                break
            if (batch.id, len(batch)) != next(planned, None):
                break  # the API would know it by no id that it may have had
            await self._refusals.bury(report.refused[buried:])
            settled = await self._resender.deliver(batch, progress.note)
            report.add(batch)
            report.delivered += len(settled.delivered)
            report.refused += settled.refused
            buried = len(report.refused)
            progress.show(report.total)
            if settled.open:
                report.stopped = True
                break
        else:
            await self._refusals.bury(report.refused[buried:])
        if report.total < plan.total and not report.stopped:
            progress.say("the log has lost some of these records meanwhile")
            report.stopped = True
        return report

    async def _batches(self, reader: Reader, report: Report) -> AsyncIterator[Batch]:
        """What the intake keeps from the sink is noted in the report."""
        if self._options.exact:
            for spans in self._lists:
                pages = [page async for page in self._pages(reader, spans)]
                if runs := [run for page in pages for run in self._checked(page, report)]:
                    yield Batch.of(self._name, runs, "plan")
            return
        windows = Windows(self._name, self._config.window, identity(self._config.record.id))
        [spans] = self._lists
        async for page in self._pages(reader, spans):
            for run in self._checked(page, report):
                for batch in windows.add(run, 0.0):
                    report.skipped += len(batch.skipped)
                    yield batch
        for batch in windows.close_all("drain"):
            report.skipped += len(batch.skipped)
            yield batch

    async def _pages(self, reader: Reader, spans: Spans) -> AsyncIterator[Sequence[Record]]:
        since, until = self._options.since, self._options.until
        lowest = float("-inf") if since is None else since.timestamp() * 1000
        highest = float("inf") if until is None else until.timestamp() * 1000
        for tp, span in spans:
            async for page in reader.pages({tp: span}):
                if within := [r for r in page if lowest <= r.timestamp < highest]:
                    yield within

    def _checked(self, page: Sequence[Record], report: Report) -> list[Run]:
        checked = self._resender.intake.check(page)
        report.skipped += len(checked.skipped)
        report.refused += [DeadLetter(record, "invalid", why) for record, why in checked.invalid]
        if not checked.accepted:
            return []
        return [Run(TopicPartition(page[0].topic, page[0].partition), 0, checked.accepted)]


def _check_held(part: Part, bounds: Mapping[TopicPartition, Span]) -> None:
    held = bounds[part.tp]
    if part.first < held.first or part.last >= held.end:
        what = f"only the offsets {held.first} to {held.end - 1}" if len(held) else "no records"
        raise SluicedError(
            f"{part}: the log holds {what}",
            "Name offsets that it holds. What retention has deleted cannot be replayed.",
        )


async def replay(
    config: Config, options: Options, stop: anyio.Event, *, send: bool
) -> tuple[Report, Report | None]:
    """The plan and, where it was to be sent, what became of it. Raises SluicedError."""
    progress = Progress("replaying")
    async with AsyncExitStack() as stack:
        stack.callback(progress.end)
        letters = None
        if options.dead_letter and config.dead_letter.topic is not None:
            letters = KafkaDeadLetters(
                config.kafka,
                topic=config.dead_letter.topic,
                pipeline=config.name,
                too_large=config.dead_letter.too_large,
            )
        refusals = Refusals(letters)
        resender = Resender(config, stop, options.patience, refusals)
        reader = await stack.enter_async_context(reading(config.kafka))
        work = Replay(config, options, resender, refusals)
        plan = await work.plan(reader)
        if not send or not plan.total:
            return plan, None
        if letters is not None:
            stack.push_async_callback(letters.stop)
            await letters.start()
        await stack.enter_async_context(resender.opened())
        report = await work.deliver(reader, plan, progress, stop)
        if resender.gave_up is not None:
            progress.say(str(resender.gave_up))
        return plan, report

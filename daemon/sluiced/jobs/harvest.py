"""The results of a job, taken in: written, buried, or left to go again.

Results come in any order and by the hundred thousand. What is kept of them is an entry for each
record, and never an answer longer than until its page is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import structlog

from ..burial import Burial
from ..errors import BurialError
from ..intake import Intake
from ..metrics import Metrics
from ..outcome import Fate, Verdict
from ..plan import Work
from ..ports import Answers, DeadLetter, JobAnswer, JobSink, Originals, Reason
from ..prices import Usage, added
from ..record import Range, Record, TopicPartition

log = structlog.get_logger("sluiced.jobs")

PAGE = 500  # answers that are written at once
PAGE_BYTES = 1024**2  # or so many bytes of them

Where = tuple[TopicPartition, int]

MISSING = Verdict(Fate.RETRY, "missing", "the job has no result for it")


@dataclass(slots=True)
class Held:
    """What a job may hold: the keys and timestamps of its records, and which of them it does.

    `exact` is False where it holds records of partitions that are not here too.
    """

    keys: dict[Where, tuple[bytes | None, int]]
    open: set[Where]
    exact: bool


@dataclass(slots=True)
class Harvest:
    """What has come of a job so far; goes on where it was when a download has broken off. `tries`
    is how many jobs there have been, with this one."""

    held: Held
    tries: int
    seen: set[Where] = field(default_factory=set)
    refused: dict[Where, Verdict] = field(default_factory=dict)
    again: dict[Where, Verdict] = field(default_factory=dict)
    delivered: int = 0
    buried: int = 0
    unknown: int = 0
    doubled: int = 0
    bytes: int = 0
    used: list[Usage] = field(default_factory=list)  # by model

    @property
    def left(self) -> dict[Where, Verdict]:
        """What is to go again: what the job says so of, and what it says nothing of."""
        missing = dict.fromkeys(sorted(self.held.open - self.seen), MISSING)
        return self.again | missing


class Harvester:
    """Takes jobs in, one after the other: each needs the keys of all its records."""

    def __init__(
        self,
        sink: JobSink,
        originals: Originals,
        answers: Answers,
        burial: Burial,
        intake: Intake,
        metrics: Metrics,
        wall: Callable[[], float],
    ) -> None:
        self._sink = sink
        self._originals = originals
        self._answers = answers
        self._burial = burial
        self._intake = intake
        self._metrics = metrics
        self._wall = wall

    def accepted(self, page: Sequence[Record]) -> Sequence[Record]:
        """Of records as they stand in the log what goes into jobs, and as it goes there."""
        return self._intake.check(page).accepted

    async def held(self, work: Work) -> Held:
        """What the last job of a work holds: everything, less what the jobs before it have done.

        Raises BrokenResultsError and SourceError where that cannot be learned now.
        """
        keys: dict[Where, tuple[bytes | None, int]] = {}
        async for page in self._originals.read({tp: [s] for tp, s in work.spans.items()}):
            tp = TopicPartition(page[0].topic, page[0].partition)
            for r in self.accepted(page):
                keys[tp, r.offset] = (r.key, r.timestamp)
        held = Held(keys, set(keys), not work.apart)
        for job in work.jobs if work.written else work.jobs[:-1]:
            async for result in self._sink.results(job):
                if result.where is not None and result.verdict.fate is not Fate.RETRY:
                    held.open.discard(result.where)
        return held

    async def take_in(self, job: str, harvest: Harvest, within: Work) -> None:
        """Reads the results to their end. What says done is written and acknowledged.

        Raises BrokenResultsError; then it may be called again.
        """
        page: list[JobAnswer] = []
        size = 0
        doubled = unknown = 0
        before = set(harvest.seen)
        met: set[Where] = set()
        async for result in self._sink.results(job):
            where = result.where
            if where is None or not _within(within, where):
                unknown += where is None or harvest.held.exact
                continue
            if where in met:
                doubled += 1
                continue
            met.add(where)
            if where in before:
                continue
            if result.verdict.fate is not Fate.DELIVERED:
                wanted = result.verdict.fate is Fate.RETRY
                (harvest.again if wanted else harvest.refused)[where] = result.verdict
                harvest.seen.add(where)
                continue
            key, _ = harvest.held.keys.get(where, (None, -1))
            page.append(JobAnswer(*where, key, job, result))
            size += len(result.body)
            if len(page) >= PAGE or size >= PAGE_BYTES:
                await self._write(page, harvest)
                page, size = [], 0
        await self._write(page, harvest)
        harvest.doubled, harvest.unknown = doubled, unknown

    async def _write(self, page: Sequence[JobAnswer], harvest: Harvest) -> None:
        if not page:
            return
        await self._burial.halt.passed()
        while True:
            try:
                await self._answers.write(page)
                break
            except BurialError as error:
                self._burial.halt.set(str(error))
                await self._burial.halt.passed()
        harvest.seen.update((answer.tp, answer.offset) for answer in page)
        harvest.delivered += len(page)
        harvest.bytes += sum(len(answer.result.body) for answer in page)
        harvest.used = added([*harvest.used, *map(_used, page)])
        self._burial.delivered(len(page))
        for topic, found in groupby(page, key=lambda answer: answer.tp.topic):
            self._metrics.delivered(topic, len(list(found)))
        keys = harvest.held.keys
        times = [keys[w][1] for a in page if (w := (a.tp, a.offset)) in keys]
        self._metrics.visible(times, self._wall() * 1000)

    async def bury(
        self, refused: Mapping[Where, Verdict], reason: Reason, work: Work, harvest: Harvest
    ) -> dict[Where, Verdict]:
        """Dead-letters these records, with what was read of them again. Returns those that are
        to be tried once more, since a person has lifted a halt that they had caused."""
        again: dict[Where, Verdict] = {}
        gone = dict(refused)
        if not refused:
            return again
        async for page in self._originals.read(ranges_of(refused)):
            letters = []
            for record in page:
                where = (TopicPartition(record.topic, record.partition), record.offset)
                if (verdict := gone.pop(where, None)) is not None:
                    why, status, tries = verdict.error, verdict.status, harvest.tries
                    letters.append(DeadLetter(record, reason, why, tries, status, work.id))
            for some in _pages(letters):
                if await self._burial.bury(some):
                    harvest.buried += len(some)
                else:
                    again |= {_where(x.record): refused[_where(x.record)] for x in some}
        if gone:
            log.error(
                "originals_lost",
                reason="the topic no longer holds them",
                batch=work.id,
                records=len(gone),
                first="/".join(map(str, (*next(iter(gone))[0], next(iter(gone))[1]))),
                hint="They were refused, and no dead letter can be written. A longer retention of "
                "the topic prevents this.",
            )
        return again


def _used(answer: JobAnswer) -> Usage:
    result = answer.result
    return Usage(result.model, 1, result.input_tokens, result.output_tokens)


def _within(work: Work, where: Where) -> bool:
    tp, offset = where
    span = work.spans.get(tp)
    return span is not None and span[0] <= offset <= span[1]


def _where(record: Record) -> Where:
    return TopicPartition(record.topic, record.partition), record.offset


def _pages(letters: Sequence[DeadLetter]) -> Iterator[Sequence[DeadLetter]]:
    for start in range(0, len(letters), PAGE):
        yield letters[start : start + PAGE]


def ranges_of(wheres: Iterable[Where]) -> dict[TopicPartition, list[Range]]:
    """These places as ranges of offsets, by partition."""
    found: dict[TopicPartition, list[Range]] = {}
    for tp, offset in sorted(wheres):
        ranges = found.setdefault(tp, [])
        if ranges and ranges[-1][1] + 1 == offset:
            ranges[-1] = (ranges[-1][0], offset)
        else:
            ranges.append((offset, offset))
    return found

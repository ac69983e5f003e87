"""The outside world in memory: a log, a group, a bulk API, a dead-letter topic.

They keep the promises of `sluiced.ports`, and they misbehave on request. Nothing here knows which
event loop it runs on or reads a clock other than the loop's, so that under a virtual clock a day
takes a moment.
"""

from __future__ import annotations

import inspect
from bisect import bisect_left
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

import anyio
from prometheus_client import CollectorRegistry

from sluiced.attempts import Attempts, RetrySettings
from sluiced.batch import Batch, Run
from sluiced.burial import Burial, DeadLetterSettings, Halt
from sluiced.delivery import Delivery
from sluiced.errors import BurialError
from sluiced.gate import Gate, LimitSettings
from sluiced.identity import identity
from sluiced.intake import Intake, RecordSettings
from sluiced.metrics import Metrics
from sluiced.outcome import DELIVERED, Answered, Fate, Outcome, Verdict
from sluiced.pipeline import Pipeline
from sluiced.ports import (
    Assignment,
    CommitOutcome,
    DeadLetter,
    Fetched,
    Identifies,
    Mark,
    Member,
)
from sluiced.record import TopicPartition
from sluiced.sinks.switch import Switch
from sluiced.status import Status
from sluiced.window import Windows, WindowSettings

P0, P1, P2 = (TopicPartition("pages", partition) for partition in range(3))

# What the wall clock shows when the loop's clock shows 0, in seconds since 1970.
EPOCH = 1_700_000_000.0


@dataclass(frozen=True, slots=True)
class FakeRecord:
    """Has what aiokafka's ConsumerRecord has, as far as anyone looks."""

    topic: str = "pages"
    partition: int = 0
    offset: int = 0
    value: bytes | None = b"{}"
    key: bytes | None = None
    timestamp: int = int(EPOCH * 1000)
    headers: Sequence[tuple[str, bytes]] = ()


Coordinates: TypeAlias = tuple[str, int, int]


def at(record: object) -> Coordinates:
    """Where a record stands: its topic, partition and offset."""
    return record.topic, record.partition, record.offset  # type: ignore[attr-defined]


def offsets(records: Iterable[object]) -> list[int]:
    return [r.offset for r in records]  # type: ignore[attr-defined]


def records_at(tp: TopicPartition, where: Iterable[int], value: bytes = b"{}") -> list[FakeRecord]:
    return [FakeRecord(tp.topic, tp.partition, offset, value) for offset in where]


def batch_of(count: int, tp: TopicPartition = P0, start: int = 0) -> Batch:
    """A batch of one partition without gaps."""
    return Batch.of("pages", [Run(tp, 1, records_at(tp, range(start, start + count)))], "records")


class Log:
    """Partitions that only grow. A gap is what compaction and transaction markers leave."""

    def __init__(self, *tps: TopicPartition) -> None:
        self.records: dict[TopicPartition, list[FakeRecord]] = {tp: [] for tp in tps or (P0,)}
        self.ends: dict[TopicPartition, int] = dict.fromkeys(self.records, 0)
        self._grown = anyio.Event()

    def append(
        self,
        *values: bytes | None,
        tp: TopicPartition = P0,
        key: bytes | None = None,
        timestamp: int = int(EPOCH * 1000),
    ) -> None:
        for value in values:
            record = FakeRecord(tp.topic, tp.partition, self.ends[tp], value, key, timestamp)
            self.records[tp].append(record)
            self.ends[tp] += 1
        self._grown.set()
        self._grown = anyio.Event()

    def skip(self, count: int, tp: TopicPartition = P0) -> None:
        self.ends[tp] += count
        self.append(tp=tp)

    def read(self, tp: TopicPartition, position: int, max_records: int) -> Sequence[FakeRecord]:
        """Records from `position` on."""
        records = self.records[tp]
        first = bisect_left(records, position, key=lambda r: r.offset)
        return records[first : first + max_records]

    async def grown(self) -> None:
        """Returns when something is appended after this call."""
        await self._grown.wait()


@dataclass(frozen=True, slots=True)
class Fetch:
    """One call of `fetch`, as it was asked for."""

    at: float
    ready: frozenset[TopicPartition]
    max_records: int


class FakeSource:
    """ports.Source and ports.Checkpoint: a group of one member over a log.

    `outcomes` are the answers to the next commits; then they are "ok". An "unknown" commit has
    landed. `error` is raised by the next fetch. The group checks of every commit that it belongs
    to the current epoch, does not go back and does not pass the end of the log. `commits` are those
    that moved a checkpoint, with the offsets that they moved.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.committed: dict[TopicPartition, int] = {}
        self.metadata: dict[TopicPartition, str] = {}
        self.metadata_limit = 4096
        self.commits: list[dict[TopicPartition, int]] = []
        self.fetches: list[Fetch] = []
        self.outcomes: list[CommitOutcome] = []
        self.commit_takes = 0.0
        self.error: Exception | None = None
        self.stopped: set[TopicPartition] = set()
        self.partitions = len(log.records)
        self.epoch = 0
        self.positions: dict[TopicPartition, int] = {}
        self._member: Member

    def join(self, member: Member) -> None:
        """The first assignment: all partitions of the log."""
        self._member = member
        self.assign(self.log.records)

    def assign(self, tps: Iterable[TopicPartition]) -> None:
        self.epoch += 1
        self.positions = {tp: self.committed.get(tp, 0) for tp in tps}
        self._member.assigned({tp: self._assignment(tp) for tp in self.positions})

    def _assignment(self, tp: TopicPartition) -> Assignment:
        fresh, metadata = tp not in self.committed, self.metadata.get(tp, "")
        return Assignment(self.epoch, self.positions[tp], metadata, self.log.ends[tp], fresh)

    async def revoke(self) -> None:
        await self._member.revoked(list(self.positions))
        self.epoch += 1
        self.positions = {}

    async def rebalance(self, tps: Iterable[TopicPartition]) -> None:
        await self.revoke()
        self.assign(tps)

    async def fetch(
        self, ready: Collection[TopicPartition], max_records: int, timeout: float
    ) -> Sequence[Fetched]:
        self.fetches.append(Fetch(anyio.current_time(), frozenset(ready), max_records))
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        if not ready:
            return ()
        with anyio.move_on_after(timeout):
            while not any(self._behind(tp) for tp in ready):
                await self.log.grown()
        return self._read(ready, max_records)

    def _behind(self, tp: TopicPartition) -> bool:
        return tp in self.positions and self.positions[tp] < self.log.ends[tp]

    def _read(self, ready: Collection[TopicPartition], max_records: int) -> Sequence[Fetched]:
        fetched = []
        for tp in sorted(tp for tp in ready if self._behind(tp)):
            if max_records <= 0:
                break
            records = self.log.read(tp, self.positions[tp], max_records)
            max_records -= len(records)
            rest = self.log.read(tp, records[-1].offset + 1 if records else self.positions[tp], 1)
            end = records[-1].offset + 1 if rest else self.log.ends[tp]
            self.positions[tp] = end
            fetched.append(Fetched(tp, self.epoch, records, end))
        return fetched

    async def ends(self, timeout: float) -> Mapping[TopicPartition, int]:
        await anyio.lowlevel.checkpoint()
        return {tp: self.log.ends[tp] for tp in self.positions}

    async def starts(self, timeout: float) -> Mapping[TopicPartition, int]:
        await anyio.lowlevel.checkpoint()
        return dict.fromkeys(self.positions, 0)

    async def commit(self, marks: Mapping[TopicPartition, Mark], timeout: float) -> CommitOutcome:
        with anyio.move_on_after(timeout) as deadline:
            await anyio.sleep(self.commit_takes)
        if deadline.cancelled_caught:
            return "unknown"
        current = {tp: m.offset for tp, m in marks.items() if m.epoch == self.epoch}
        longest = max(len(m.metadata) for m in marks.values())
        assert longest <= self.metadata_limit, f"{longest} bytes of metadata were committed"
        outcome = self.outcomes.pop(0) if self.outcomes else "ok"
        if outcome == "failed" or not current:
            return "failed"
        for tp, offset in current.items():
            before, end = self.committed.get(tp, 0), self.log.ends[tp]
            assert before <= offset <= end, f"{tp}: {before} to {offset} of {end} was committed"
        moved = {tp: o for tp, o in current.items() if o > self.committed.get(tp, 0)}
        self.committed.update(current)
        self.metadata.update({tp: marks[tp].metadata for tp in current})
        if moved:
            self.commits.append(moved)
        return outcome


Answer: TypeAlias = Outcome | Exception | Callable[[Batch], Outcome | Awaitable[Outcome]]


def deliver(batch: Batch) -> Outcome:
    """An API that takes everything."""
    return Answered([DELIVERED] * len(batch))


def judge(fate: Callable[[FakeRecord], Fate]) -> Callable[[Batch], Outcome]:
    """An API that answers for each record on its own."""

    def answer(batch: Batch) -> Outcome:
        verdicts = [
            DELIVERED if (f := fate(r)) is Fate.DELIVERED else Verdict(f, f.value, "because")  # type: ignore[arg-type]
            for r in batch.records
        ]
        return Answered(verdicts)

    return answer


def after(delay: float, answer: Callable[[Batch], Outcome] = deliver) -> Answer:
    """An API that takes its time, in seconds."""

    async def slow(batch: Batch) -> Outcome:
        await anyio.sleep(delay)
        return answer(batch)

    return slow


async def hang(batch: Batch) -> Outcome:
    """An API that never answers."""
    await anyio.sleep_forever()
    raise AssertionError


@dataclass(frozen=True, slots=True)
class Request:
    at: float
    batch: Batch

    @property
    def offsets(self) -> list[int]:
        return offsets(self.batch.records)


class FakeSink:
    """ports.Sink: gives the scripted answers one by one, and then `then` for ever.

    `taken` counts how often each record was delivered: what an audit would find at the API.
    """

    def __init__(self, *script: Answer, then: Answer = deliver) -> None:
        self.script = list(script)
        self.then = then
        self.requests: list[Request] = []
        self.taken: Counter[Coordinates] = Counter()
        self.busy = 0
        self.most_busy = 0
        self.objects_to: dict[Coordinates, str] = {}
        self.identifies: Identifies = "batch"
        self.heir: FakeSink | None = None  # what a reload replaces it by
        self.closed = False

    async def open(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def close(self) -> None:
        assert self.busy == 0, "closed under a request"
        await anyio.lowlevel.checkpoint()
        self.closed = True

    def successor(self, settings: object) -> FakeSink:
        return self.heir or FakeSink(then=self.then)

    async def send(self, batch: Batch) -> Outcome:
        self.requests.append(Request(anyio.current_time(), batch))
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            await anyio.lowlevel.checkpoint()
            outcome = await self._answer(batch)
        finally:
            self.busy -= 1
        if isinstance(outcome, Answered):
            pairs = zip(batch.records, outcome.verdicts, strict=False)  # a test may lie
            self.taken.update(at(r) for r, v in pairs if v.fate is Fate.DELIVERED)
        return outcome

    async def _answer(self, batch: Batch) -> Outcome:
        answer = self.script.pop(0) if self.script else self.then
        if isinstance(answer, Exception):
            raise answer
        if not callable(answer):
            return answer
        outcome = answer(batch)
        return await outcome if inspect.isawaitable(outcome) else outcome

    def objection(self, record: object) -> str | None:
        return self.objects_to.get(at(record))

    @property
    def offsets(self) -> list[list[int]]:
        """The offsets of every request, in the order they were made."""
        return [request.offsets for request in self.requests]

    @property
    def times(self) -> list[float]:
        return [request.at for request in self.requests]


class FakeDeadLetters:
    """ports.DeadLetters. While `error` is set nothing is acknowledged; each takes `takes` s."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []
        self.error: BurialError | None = None
        self.takes = 0.0

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        await anyio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        self.letters += letters

    @property
    def offsets(self) -> list[int]:
        return offsets(letter.record for letter in self.letters)


def wall() -> float:
    return EPOCH + anyio.current_time()


class Rig:
    """A pipeline with this world around it, and the settings that a test cares about."""

    def __init__(
        self,
        sink: FakeSink | None = None,
        log: Log | None = None,
        *,
        window: WindowSettings | None = None,
        retry: RetrySettings | None = None,
        record: RecordSettings | None = None,
        dead_letter: DeadLetterSettings | None = None,
        max_in_flight: int = 1,
        limits: LimitSettings | None = None,
        most_records: int | None = None,
        memory: int = 64 * 1024**2,
        drain: float = 30.0,
        seed: int = 0,
    ) -> None:
        self.log = log or Log()
        self.source = FakeSource(self.log)
        self.sink = sink or FakeSink()
        self.switch = Switch(self.sink)
        self.dead_letters = FakeDeadLetters()
        self.registry = CollectorRegistry()
        self.metrics = Metrics("pages", self.registry)
        self.gate = Gate(limits or LimitSettings(max_in_flight=max_in_flight), 0.0, most_records)
        self.halt = Halt()
        settings = dead_letter or DeadLetterSettings(topic="pages.dead", max_ratio=1.0)
        self.burial = Burial(settings, self.dead_letters, self.halt, self.metrics)
        self.retry = retry or RetrySettings()
        self.delivery = Delivery(self.switch, self.burial, self.attempts(seed), self.metrics)
        self._record = record or RecordSettings()
        self._memory, self._drain = memory, drain
        self.window = window or WindowSettings()
        self.pipeline = self.make(self.sink.identifies)
        self.status = Status(self.pipeline, attempt=90.0)
        self.stop = anyio.Event()
        self.error: Exception | None = None
        self.ended_at: float | None = None

    def attempts(self, seed: int = 0) -> Attempts:
        return Attempts(
            self.retry,
            self.gate,
            self.halt,
            self.metrics,
            clock=anyio.current_time,
            wall=wall,
            random=Random(seed),
        )

    def make(self, identifies: Identifies = "batch") -> Pipeline:
        """A pipeline of these parts; a second one is what a restart of the daemon makes."""
        identify = identity(self._record.id)
        objects = getattr(self.sink, "objects_to", None)  # a real sink has no such thing
        return Pipeline(
            "pages",
            source=self.source,
            checkpoint=self.source,
            intake=Intake(self._record, self.sink.objection if objects else None),
            windows=Windows("pages", self.window, identify),
            identify=identify,
            gate=self.gate,
            delivery=self.delivery,
            burial=self.burial,
            metrics=self.metrics,
            plans=identifies == "batch",
            memory=self._memory,
            drain=self._drain,
            clock=anyio.current_time,
        )

    @property
    def committed(self) -> int | None:
        """The checkpoint of the first partition."""
        return self.source.committed.get(P0)

    def count(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 where it has not been seen."""
        labels["pipeline"] = "pages"
        return self.registry.get_sample_value(f"sluiced_{name}", labels) or 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Rig]:
        """Runs the pipeline; at the end of the block it is told to stop and waited for.

        What it raised is then in `error`, and the time of its end in `ended_at`.
        """
        self.source.join(self.pipeline)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.run)
            yield self
            self.stop.set()

    async def run(self) -> None:
        """Until it is stopped or fails; see `running`."""
        try:
            await self.pipeline.run(self.stop)
        except Exception as error:
            self.error = error
        self.ended_at = anyio.current_time()


async def until(condition: Callable[[], object], within: float = 3600.0) -> None:
    """Returns once the condition holds; fails after `within` seconds.

    Looks a hundred times a second, which costs nothing under a virtual clock and is the same in
    every run.
    """
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.01)

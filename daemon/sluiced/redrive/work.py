"""Looks at dead letters one by one, and sends back those that are meant, each once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from ..config import Config
from ..kafka import describe
from ..kafka.scan import Reader, Span
from ..record import TopicPartition
from . import scanning
from .letter import Letter, restored
from .memory import Memory
from .targets import Pending, Target

NAMED = 5  # letters that are named of each kind that was left

FILTERED = "not meant by the filters"
FOREIGN = "of another group or of topics that are not in kafka.topics"
AT_LIMIT = "redriven as often as --max-redrives allows"
HOMELESS = "not known where they came from"
# These were not asked for, so that leaving them is no failure.
UNASKED = {FILTERED, FOREIGN}


def group_of(config: Config) -> str:
    """Whose offsets remember what was sent back, and the id of the transactions."""
    return f"{config.kafka.group_id}.redrive"


@dataclass(frozen=True, slots=True)
class Rules:
    """Which letters are meant, and how they are sent. `rate` in letters a second, 0 for none."""

    wanted: Callable[[Letter], bool]
    max_redrives: int = 3
    rate: float = 0.0
    dry_run: bool = False
    pass_over: bool = False


@dataclass(slots=True)
class Report:
    """What a run has done. `left` counts by reason, `named` holds some of each."""

    seen: int = 0
    earlier: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)
    stopped: bool = False

    def leave(self, why: str, letter: Letter, detail: str = "") -> None:
        self.left[why] += 1
        named = self.named.setdefault(why, [])
        if len(named) < NAMED:
            named.append(f"{letter.place} ({letter.origin}){f': {detail}' if detail else ''}")

    @property
    def failures(self) -> Counter[str]:
        """What was asked for and yet left, by reason."""
        return Counter({why: n for why, n in self.left.items() if why not in UNASKED})

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for has been sent."""
        return not self.stopped and not self.failures


class Redrive:
    """One pass over some of the dead-letter topic.

    `originals` fetches what only a stub was kept of; `show` is told how many letters were seen.
    """

    def __init__(
        self,
        config: Config,
        rules: Rules,
        target: Target,
        memory: Memory,
        originals: Reader,
        stop: anyio.Event,
        report: Report,
        show: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._config = config
        self._rules = rules
        self._target = target
        self._memory = memory
        self._originals = originals
        self._stop = stop
        self._report = report
        self._show = show
        self._topics: dict[str, int] = {}  # of stubs, with how many partitions they have
        self._pending: list[Pending] = []
        self._bytes = 0
        self._size = target.size
        if rules.rate:
            self._size = min(self._size, max(1, int(rules.rate)))  # a burst is a second's worth
        self._due = time.monotonic()

    async def run(self, reader: Reader, spans: dict[TopicPartition, Span]) -> None:
        """Returns at the end of the spans, or after the send during which it was stopped."""
        expected = {tp: span.first for tp, span in spans.items()}
        async for page in scanning.letters(reader, spans):
            tp = TopicPartition(page[0].record.topic, page[0].record.partition)
            for letter in page:
                # Offsets without a record (transaction markers) are nothing to come back for.
                self._memory.add(tp, expected[tp], letter.record.offset - 1)
                expected[tp] = letter.record.offset + 1
                await self._take(letter)
                if self._stop.is_set():
                    self._report.stopped = True
                    return
            self._show(self._report.seen)
        await self._flush()
        if self._report.stopped:
            return
        for tp, span in spans.items():
            self._memory.add(tp, expected[tp], span.end - 1)
        if not self._rules.dry_run:
            await self._target.remember(self._memory)

    async def _take(self, letter: Letter) -> None:
        self._report.seen += 1
        if letter in self._memory:
            self._report.earlier += 1
            return
        pending = await self._pended(letter)
        if pending is None:
            if self._rules.pass_over:
                self._give_up(letter)
            return
        self._pending.append(pending)
        self._bytes += len(pending.record.value or b"")
        if len(self._pending) >= self._size or self._bytes >= self._config.window.max_bytes:
            await self._flush()

    async def _pended(self, letter: Letter) -> Pending | None:
        """The letter, ready to be sent; None if it is left, which is then reported."""
        why = self._objection(letter)
        if why is None and (objection := await self._target.objection(letter)):
            why = objection
        if why is not None:
            self._report.leave(why, letter)
            return None
        value = letter.record.value
        if letter.stubbed:
            value, error = await self._fetched(letter)
            if error:
                self._report.leave("only a stub, and the log has the record no more", letter, error)
                return None
        return Pending(letter, restored(letter, value))

    def _objection(self, letter: Letter) -> str | None:
        if not self._rules.wanted(letter):
            return FILTERED
        if letter.source is None:
            return HOMELESS
        kafka = self._config.kafka
        if letter.topic not in kafka.topics or letter.group not in ("", kafka.group_id):
            return FOREIGN
        return AT_LIMIT if letter.redrives >= self._rules.max_redrives else None

    async def _fetched(self, letter: Letter) -> tuple[bytes | None, str]:
        """The value that a stub stands for, from where the record once stood; or what is wrong."""
        stub = letter.stub
        if stub is None:
            return None, "the stub cannot be read"
        if not 0 <= stub.partition < await self._partitions(stub.topic):
            return None, "there is no such partition any more"  # which would not answer
        record = await self._originals.one(TopicPartition(stub.topic, stub.partition), stub.offset)
        if record is None:
            return None, "nothing is at its coordinates"
        size = len(record.value or b"")
        if (size, record.key) != (stub.size, letter.record.key):
            return None, "another record is at its coordinates"
        return record.value, ""

    async def _partitions(self, topic: str) -> int:
        if topic not in self._topics:
            self._topics[topic] = (await describe(self._config.kafka, [topic])).get(topic, 0)
        return self._topics[topic]

    def _give_up(self, letter: Letter) -> None:
        record = letter.record
        tp = TopicPartition(record.topic, record.partition)
        self._memory.add(tp, record.offset, record.offset)

    async def _flush(self) -> None:
        pending, self._pending, self._bytes = self._pending, [], 0
        if not pending:
            return
        topics = Counter(each.record.topic for each in pending)
        if self._rules.dry_run:
            self._report.sent += topics
            return
        self._memory.with_these(each.letter for each in pending)  # or it must not be sent
        result = await self._target.send(pending, self._memory)
        self._report.sent += Counter(letter.topic or "" for letter in result.sent)
        for letter in result.sent:
            self._give_up(letter)
        for letter, why in result.refused:
            self._report.leave("refused again", letter, why)
            if self._rules.pass_over:
                self._give_up(letter)
        if not result.remembered:
            await self._target.remember(self._memory)
        if result.error is not None:
            raise result.error
        if len(result.sent) + len(result.refused) < len(pending):
            self._report.stopped = True
        await self._pace(len(pending))

    async def _pace(self, count: int) -> None:
        if self._rules.rate:
            self._due = max(self._due, time.monotonic()) + count / self._rules.rate
            with anyio.move_on_after(self._due - time.monotonic()):
                await self._stop.wait()

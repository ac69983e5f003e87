"""`[dead_letter] retry_after`: the daemon sends dead letters back by itself, beside the line.

One daemon of a group does it at a time. Where two believe that it is their turn, the broker settles
it: both use one transactional id, and whoever begins later shuts the other one out and then reads
what that one has sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import anyio
import structlog

from ..config import Config
from ..errors import ConfigError, SluicedError
from ..kafka.scan import Reader, Span, existing, reading
from ..metrics import Metrics
from ..record import TopicPartition
from . import scanning
from .due import Due
from .letter import Letter, parse
from .memory import has_memory, remembering
from .to_topic import to_topic
from .work import Redrive, Report, Rules, group_of

log = structlog.get_logger("sluiced.redrive")

LONGEST_INTERVAL = 30.0  # seconds between looks at the topic
SHORTEST_INTERVAL = 0.5
BACKOFF = 5.0  # seconds after a failure, doubled with each further one
LONGEST_BACKOFF = 300.0
RATE = 100.0  # letters a second: what is new in the line is not to wait long behind them
PAGE = 200  # letters that are looked at before the line has its turn
IN_ONE_TURN = 1000  # letters of a partition that come due together

Spans = dict[TopicPartition, Span]


class Redriver:
    """`leads` is whether it is this daemon's turn now.

    Between two looks only the place where each partition was left is kept. What was sent is in the
    memory that `sluiced dead-letters redrive` uses, too.
    """

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        leads: Callable[[], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._leads = leads
        self._now = now
        self._due = Due.of(config)
        tenth = self._due.after.total_seconds() / 10
        self._interval = min(LONGEST_INTERVAL, max(SHORTEST_INTERVAL, tenth))
        self._places: dict[TopicPartition, int] = {}
        self.ended = anyio.Event()

    async def run(self, stop: anyio.Event) -> None:
        """Runs until `stop` is set, and then to the end of the send that is under way.

        Whatever goes wrong is logged, counted and tried again: it is never the line's concern.
        """
        failures = 0
        while not stop.is_set():
            error = await self._tried(stop) if self._leads() else None
            if error is None:
                failures, pause = 0, self._interval
            else:
                pause = min(LONGEST_BACKOFF, BACKOFF * 2**failures)
                failures = min(failures + 1, 10)
                self._places = {}
                self._metrics.redriven("failed", 1)
                bug = not isinstance(error, SluicedError)
                log.error(
                    "redrive_failed",
                    error=str(error) or type(error).__name__,
                    again_in=pause,
                    exc_info=error if bug else None,
                )
            with anyio.move_on_after(pause):
                await stop.wait()
        self.ended.set()

    async def _tried(self, stop: anyio.Event) -> BaseException | None:
        """One turn, or what went wrong."""
        try:
            await self._turn(stop)
        except asyncio.CancelledError as error:
            # aiokafka may raise one that nobody has asked for.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return error
        except Exception as error:
            return error
        return None

    async def _turn(self, stop: anyio.Event) -> None:
        async with scanning.opened(self._config) as (reader, held):
            if any(self._places.get(tp, span.end + 1) > span.end for tp, span in held.items()):
                self._places = await self._remembered(held)
            spans: Spans = {}
            found = False
            for tp, span in held.items():
                rest = Span(max(span.first, self._places[tp]), span.end)
                spans[tp], any_due = await self._looked(reader, tp, rest)
                found = found or any_due
            # Only now, since to begin means to shut out whoever is at it, the command perhaps.
            if found and (await self._sent(reader, held, spans, stop)).stopped:
                self._places = {}
            else:
                self._places = {tp: span.end for tp, span in spans.items()}

    async def _remembered(self, held: Spans) -> dict[TopicPartition, int]:
        """Up to where everything is done with. Raises SluicedError."""
        async with remembering(
            self._config.kafka, group_of(self._config), held, again=False
        ) as memory:
            return {tp: done.prefix for tp, done in memory.done.items()}

    async def _looked(self, reader: Reader, tp: TopicPartition, span: Span) -> tuple[Span, bool]:
        """The part of the span before its first letter that is due later, and whether anything in
        it is due now."""
        now, due = self._now(), 0
        async for page in reader.pages({tp: span}, PAGE):
            for record in page:
                verdict = self._due.verdict(parse(record), now)
                due += verdict == "now"
                if verdict == "later" or due > IN_ONE_TURN:
                    return Span(span.first, record.offset), due > 0
        return span, due > 0

    async def _sent(self, reader: Reader, held: Spans, spans: Spans, stop: anyio.Event) -> Report:
        """Sends what is due in these spans. Raises SluicedError; what was sent stays sent."""
        config, group, report = self._config, group_of(self._config), Report()
        rules = Rules(self._wanted, self._due.max_redrives, RATE)
        try:
            async with AsyncExitStack() as stack:
                target = await stack.enter_async_context(
                    to_topic(config, group, keep_timestamps=True)
                )
                if not target.transactional:
                    raise SluicedError(
                        f"the user may not use transactions under the id {group}",
                        "Grant WRITE on that transactional id, or remove dead_letter.retry_after.",
                    )
                originals = await stack.enter_async_context(reading(config.kafka))
                memory = await stack.enter_async_context(
                    remembering(config.kafka, group, held, again=False)
                )
                work = Redrive(config, rules, target, memory, originals, stop, report)
                await work.run(reader, spans)
        finally:
            self._tell(report)
        return report

    def _wanted(self, letter: Letter) -> bool:
        return self._due.verdict(letter, self._now()) == "now"

    def _tell(self, report: Report) -> None:
        left = report.failures
        self._metrics.redriven("sent", report.sent.total())
        self._metrics.redriven("left", left.total())
        if report.sent:
            log.info("redriven", records=report.sent.total(), topics=dict(report.sent))
        for why, number in left.items():
            log.warning("redrive_left", records=number, reason=why, first=report.named[why][0])


async def require_transactions(config: Config) -> None:
    """Raises ConfigError where the broker could not keep a letter from being sent twice.

    Some brokers list requests that they do not know, so that only beginning shows it. That would
    shut out whoever is at it, and is left out where something has been sent back before.
    """
    topic, group = scanning.dead_letter_topic(config), group_of(config)
    partitions = (await existing(config.kafka, [topic], "dead_letter.topic"))[topic]
    if await has_memory(config.kafka, group, [TopicPartition(topic, n) for n in range(partitions)]):
        return
    async with to_topic(config, group, keep_timestamps=True) as target:
        if not target.transactional:
            raise ConfigError(
                "dead_letter.retry_after needs transactions, which this broker does not have or "
                f"this user may not use under the id {group}: without them a letter could be sent "
                "back more than once",
                "Grant WRITE on that id, or remove retry_after and send letters back with "
                "`sluiced dead-letters redrive`.",
            )

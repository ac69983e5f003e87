"""Builds the objects from a configuration, and starts and stops them in order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import anyio
import structlog
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry

from . import notify
from .admin import Admin
from .attempts import Attempts
from .burial import Burial, Halt
from .config import Config
from .delivery import Delivery
from .errors import BurialError
from .gate import Gate
from .identity import COORDINATES, Identify, identity
from .intake import Intake, Objection
from .jobs import Harvester, Jobs
from .kafka import KafkaDeadLetters, KafkaSource
from .kafka.originals import KafkaOriginals
from .kafka.results import KafkaResults
from .kafka.watermarks import KafkaWatermarks
from .metrics import Metrics
from .pipeline import Pipeline
from .ports import Positions
from .prices import Prices, Usage
from .record import Record, TopicPartition
from .redrive.automatic import Redriver, require_transactions
from .reload import Reload, longest_attempt, memory, most_records
from .sinks.job_api import JobApi
from .sinks.job_settings import JobSettings
from .sinks.switch import Switch
from .spending import Spending
from .status import Status
from .window import Windows

log = structlog.get_logger("sluiced.app")

# Seconds that a transaction which is under way at a stop has to be completed.
REDRIVE_MARGIN = 5.0
# Seconds that a stop may take for a last watermark.
WATERMARK_MARGIN = 2.0


class NoDeadLetters:
    """Stands where no dead-letter topic is configured: `on_reject = "halt"` never gets here."""

    async def bury(self, letters: object) -> None:
        raise BurialError("there is no dead_letter.topic to write to")


class Daemon:
    """One pipeline with everything around it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.registry = CollectorRegistry()
        for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR):
            self.registry.register(collector)
        self.metrics = Metrics(config.name, self.registry)
        self.metrics.topics(config.kafka.topics)
        drain = float(config.shutdown.drain)
        record_memory, fetch_memory = memory(config)
        identify = identity(config.record.id)
        self._held = 0  # bytes
        self.sink = Switch(
            config.sink.build(replace(config.line, requests=self.metrics.request, held=self._hold))
        )
        self.source = KafkaSource(
            config.kafka,
            memory=fetch_memory,
            drain=drain,
            positions=self._positions if self.sink.identifies == "transaction" else None,
        )
        self.dead_letters = self._dead_letters()
        burial = Burial(
            config.dead_letter, self.dead_letters or NoDeadLetters(), Halt(), self.metrics
        )
        gate = Gate(config.limits, time.monotonic(), most_records(config))
        self.metrics.limits(gate.limits)
        intake = Intake(config.record, self._objection(identify))
        self.results = (
            None if config.results is None else KafkaResults(config.kafka, config.results)
        )
        self.pipeline = Pipeline(
            config.name,
            source=self.source,
            checkpoint=self.source,
            intake=intake,
            windows=Windows(config.name, config.window, identify),
            identify=identify,
            gate=gate,
            delivery=self._delivery(burial, gate, intake),
            burial=burial,
            metrics=self.metrics,
            plans=self.sink.identifies == "batch",
            held=lambda: self._held,
            memory=record_memory,
            drain=drain,
            clock=time.monotonic,
        )
        self.status = Status(self.pipeline, longest_attempt(config))
        self.metrics.watch(self.status.gauges)
        self.watermarks = self._watermarks()
        self.admin = Admin(
            config.admin,
            self.registry,
            live=self.status.live,
            ready=self.status.ready,
            healthy=self.status.healthy,
            status=self.status.report,
        )
        self.reload = Reload(
            config,
            pipeline=self.pipeline,
            sink=self.sink,
            dead_letters=self.dead_letters,
            status=self.status,
            metrics=self.metrics,
        )

        self.redriver = (
            None
            if config.dead_letter.retry_after is None
            else Redriver(config, self.metrics, self._leads)
        )

    def _hold(self, by: int) -> None:
        """The sink has so many bytes more in memory, or fewer."""
        self._held += by

    def _leads(self) -> bool:
        """Whether this member looks after the group's dead letters: whoever has the first
        partition, and only as long as the line takes records and the sink answers."""
        first = TopicPartition(self.config.kafka.topics[0], 0)
        assigned = self.pipeline.ledger.last_committed()
        return first in assigned and self.status.state()[0] == "running"

    def _positions(self) -> Positions:
        """The sink of the moment, which keeps the checkpoint."""
        return cast("Positions", self.sink.current)

    def _dead_letters(self) -> KafkaDeadLetters | None:
        settings = self.config.dead_letter
        if settings.topic is None:
            return None
        return KafkaDeadLetters(
            self.config.kafka,
            topic=settings.topic,
            pipeline=self.config.name,
            too_large=settings.too_large,
        )

    def _delivery(self, burial: Burial, gate: Gate, intake: Intake) -> Delivery | Jobs:
        attempts = Attempts(
            self.config.retry,
            gate,
            burial.halt,
            self.metrics,
            clock=time.monotonic,
            wall=time.time,
        )
        if self.results is not None:
            return self._jobs(self.results, burial, attempts, intake)
        return Delivery(self.sink, burial, attempts, self.metrics)

    def _jobs(
        self, results: KafkaResults, burial: Burial, attempts: Attempts, intake: Intake
    ) -> Jobs:
        """In place of a Delivery where the sink is one of jobs."""
        originals = KafkaOriginals(self.config.kafka)
        sink = self.config.sink
        model = sink.model if isinstance(sink, JobSettings) else ""
        spending = Spending(Prices(self.config.prices), self.metrics, model, self._expected)
        harvester = Harvester(
            self.sink, originals, results, burial, intake, self.metrics, time.time
        )
        return Jobs(
            self.config.name,
            self.sink,
            originals,
            harvester,
            burial,
            attempts,
            self.metrics,
            spending,
        )

    def _expected(self, records: Sequence[Record]) -> Iterable[Usage]:
        sink = self.sink.current
        return sink.expected(records) if isinstance(sink, JobApi) else ()

    def _watermarks(self) -> KafkaWatermarks | None:
        topic, interval = self.config.freshness.topic, self.config.freshness.interval
        if topic is None:
            return None
        return KafkaWatermarks(self.config.kafka, topic, interval, self.status.watermarks)

    def _objection(self, identify: Identify) -> Objection | None:
        """What a record must allow besides being of the right format, if anything."""
        asked: list[Objection] = []
        if self.sink.current.objections_needed:
            asked.append(self.sink.objection)
        if self.config.window.collapse and self.config.record.id != COORDINATES:
            asked.append(partial(_without_id, identify))
        if not asked:
            return None
        return lambda record: next((error for ask in asked if (error := ask(record))), None)

    @asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        """Everything connected, in the order that finds mistakes first; closed in reverse."""
        async with AsyncExitStack() as stack:
            await self.admin.start()
            stack.push_async_callback(self.admin.stop)
            await self.sink.open()
            stack.push_async_callback(self.sink.close)
            if self.redriver is not None:
                await require_transactions(self.config)
            if self.dead_letters is not None:
                stack.push_async_callback(self.dead_letters.stop)
                await self.dead_letters.start()
            if self.results is not None:
                stack.push_async_callback(self.results.stop)
                await self.results.start()
            if self.watermarks is not None:
                stack.push_async_callback(self.watermarks.stop)
                await self.watermarks.start()
            stack.push_async_callback(self.source.stop)
            await self.source.start(self.pipeline)
            yield

    async def run(self, stop: anyio.Event, path: Path) -> None:
        """Runs until `stop` is set. Raises SluicedError for what ends the daemon by itself. `path`
        is the file that a reload reads."""
        async with AsyncExitStack() as stack:
            if await self._begun(stack, stop):
                await self._work(stop, path)

    async def _begun(self, stack: AsyncExitStack, stop: anyio.Event) -> bool:
        """Whether all is connected. A stop waits for that as long as for a drain: who is about to
        join the group had better join and leave it than be missed by the others."""
        begun = False

        async def give_up() -> None:
            await stop.wait()
            await anyio.sleep(self.pipeline.drain)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_up)
            await stack.enter_async_context(self.started())
            begun = True
            tasks.cancel_scope.cancel()
        return begun

    async def _work(self, stop: anyio.Event, path: Path) -> None:
        async with anyio.create_task_group() as tasks:
            notify.ready(f"consuming {', '.join(self.config.kafka.topics)}")
            log.info("ready", admin=self.admin.address, group=self.config.kafka.group_id)
            tasks.start_soon(self._feed_watchdog)
            tasks.start_soon(self.reload.run, path)
            if self.redriver is not None:
                tasks.start_soon(self.redriver.run, stop)
            if self.watermarks is not None:
                tasks.start_soon(self.watermarks.run)
            try:
                await self.pipeline.run(stop)
                if self.watermarks is not None:
                    with anyio.move_on_after(WATERMARK_MARGIN):
                        await self.watermarks.last()
                if self.redriver is not None:
                    with anyio.move_on_after(REDRIVE_MARGIN):
                        await self.redriver.ended.wait()
            finally:
                notify.stopping()
                tasks.cancel_scope.cancel()

    async def _feed_watchdog(self) -> None:
        """Only while there is progress: a daemon that is stuck is to be killed and started anew."""
        interval = notify.watchdog_interval()
        while interval is not None:
            if (reason := self.status.live()) is None:
                notify.watchdog()
            else:
                log.error("no_progress", reason=reason, hint="The watchdog will start it anew.")
            await anyio.sleep(interval)


def _without_id(identify: Identify, record: Record) -> str | None:
    try:
        identify(record)
    except ValueError as error:
        return str(error)
    return None

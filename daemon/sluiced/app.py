"""Builds the objects from a configuration and runs them until told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskGroup
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry

from . import __version__, logs, notify
from .admin import Admin
from .burial import Burial, Halt
from .config import Config, conflicts
from .delivery import Delivery
from .errors import BurialError, SluicedError
from .gate import Gate
from .identity import COORDINATES, Identify, identity
from .intake import Intake, Objection
from .kafka import KafkaDeadLetters, KafkaSource, describe
from .metrics import Metrics
from .pipeline import Pipeline
from .record import Record
from .sinks.http import HttpSink
from .status import Status
from .window import Windows

log = structlog.get_logger("sluiced.app")

# aiokafka's fetch buffers get this part of the memory budget, records and requests the rest.
FETCH_SHARE = 0.25


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
        fetch_memory = int(config.limits.memory * FETCH_SHARE)
        identify = identity(config.record.id)
        self.source = KafkaSource(config.kafka, memory=fetch_memory, drain=drain)
        self.dead_letters = self._dead_letters()
        self.sink = HttpSink(
            config.sink,
            config.name,
            identify,
            requests=self.metrics.request,
            format=config.record.format,
        )
        burial = Burial(
            config.dead_letter, self.dead_letters or NoDeadLetters(), Halt(), self.metrics
        )
        gate = Gate(config.limits)
        delivery = Delivery(
            config.retry,
            self.sink,
            burial,
            gate,
            self.metrics,
            clock=time.monotonic,
            wall=time.time,
        )
        self.pipeline = Pipeline(
            config.name,
            source=self.source,
            checkpoint=self.source,
            intake=Intake(config.record, self._objection(identify)),
            windows=Windows(config.name, config.window, identify),
            gate=gate,
            delivery=delivery,
            burial=burial,
            metrics=self.metrics,
            memory=config.limits.memory - fetch_memory,
            drain=drain,
            clock=time.monotonic,
        )
        attempt = float(config.sink.timeout) + float(config.retry.max_delay)
        self.status = Status(self.pipeline, config.window, attempt)
        self.metrics.watch(self.status.gauges)
        self.admin = Admin(
            config.admin,
            self.registry,
            live=self.status.live,
            ready=self.status.ready,
            status=self.status.report,
        )

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

    def _objection(self, identify: Identify) -> Objection | None:
        """What a record must allow besides being of the right format, if anything."""
        asked: list[Objection] = []
        if self.sink.objections_needed:
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
            if self.dead_letters is not None:
                stack.push_async_callback(self.dead_letters.stop)
                await self.dead_letters.start()
            stack.push_async_callback(self.source.stop)
            await self.source.start(self.pipeline)
            yield

    async def run(self, stop: anyio.Event) -> None:
        """Runs until `stop` is set. Raises SluicedError for what ends the daemon by itself."""
        async with self.started(), anyio.create_task_group() as tasks:
            notify.ready(f"consuming {', '.join(self.config.kafka.topics)}")
            log.info("ready", admin=self.admin.address, group=self.config.kafka.group_id)
            tasks.start_soon(self._feed_watchdog)
            try:
                await self.pipeline.run(stop)
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
                log.error("no_progress", reason=reason)
            await anyio.sleep(interval)


def _without_id(identify: Identify, record: Record) -> str | None:
    try:
        identify(record)
    except ValueError as error:
        return str(error)
    return None


async def serve(config: Config) -> bool:
    """Runs the daemon under its signals: SIGTERM and SIGINT drain, a second one aborts without a
    commit, SIGHUP lifts a halt. Whether it stopped cleanly."""
    stop = anyio.Event()
    clean = False
    async with anyio.create_task_group() as tasks:
        daemon = Daemon(config)
        tasks.start_soon(_obey, daemon, stop, tasks)
        await daemon.run(stop)
        clean = True
        tasks.cancel_scope.cancel()
    return clean


async def _obey(daemon: Daemon, stop: anyio.Event, tasks: TaskGroup) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                log.info("signal", name=name, action="lifting a halt, if there is one")
                daemon.pipeline.resume()
            elif not stop.is_set():
                log.info("signal", name=name, action="draining")
                stop.set()
            else:
                log.warning("signal", name=name, action="aborting without a commit")
                tasks.cancel_scope.cancel()


def run(config: Config, path: Path) -> int:
    """`sluiced run`: the exit code. Errors are logged, and shown as text by the caller."""
    logs.configure(config.log)
    log.info("starting", version=__version__, pipeline=config.name, config=str(path))
    for problem in conflicts(config):
        log.warning("configuration", key=problem.key, text=problem.text)
    # Records wait in windows by the thousand, and the collector would look through all of them
    # again and again: with Python's own thresholds it costs a quarter of the daemon's CPU.
    gc.set_threshold(100_000, 20, 100)
    clean = asyncio.run(_unwrapped(config))
    log.info("stopped", clean=clean)
    return 0 if clean else 1


async def _unwrapped(config: Config) -> bool:
    """A task group wraps what it raises; one user error in it is what there is to say."""
    try:
        return await serve(config)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, SluicedError):
            raise error from None
        raise


def connect(config: Config) -> list[str]:
    """`sluiced check --connect`: a line for each part that was reached. Raises SluicedError."""
    return asyncio.run(_connect(config))


async def _connect(config: Config) -> list[str]:
    wanted = [
        *config.kafka.topics,
        *([config.dead_letter.topic] if config.dead_letter.topic else []),
    ]
    found = await describe(config.kafka, wanted)
    if missing := [topic for topic in wanted if topic not in found]:
        raise SluicedError(
            f"reached Kafka, but {', '.join(missing)} does not exist there",
            "Create the topic, or correct kafka.topics or dead_letter.topic.",
        )
    lines = [f"topic {topic}: {found[topic]} partitions" for topic in wanted]
    sink = HttpSink(
        config.sink, config.name, identity(config.record.id), format=config.record.format
    )
    await sink.probe()
    return [*lines, "sink: reached"]

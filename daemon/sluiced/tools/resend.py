"""Records through the sink once more: what the daemon does with a batch, without the daemon."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from ..app import Daemon
from ..attempts import Attempts, Flight
from ..batch import Batch
from ..burial import Burial, DeadLetterSettings, Halt
from ..config import Config
from ..delivery import Delivery
from ..errors import BurialError, SluicedError, SourceError
from ..gate import Gate
from ..intake import Intake
from ..outcome import Again, Answered, Fate, Outcome
from ..ports import DeadLetter, DeadLetters, Identifies, Sink
from ..record import Record

TICK = 0.5  # seconds between looks at a delivery that takes its time

Coordinates = tuple[str, int, int]


def coordinates(record: Record) -> Coordinates:
    return record.topic, record.partition, record.offset


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a batch. `open` are the records of which nothing is known: it was stopped."""

    delivered: Sequence[Record]
    refused: Sequence[DeadLetter]
    open: Sequence[Record]


class Witness:
    """A sink that notes which records were taken, and when it last said anything about any."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.identifies: Identifies = sink.identifies
        self.delivered: list[Record] = []
        self.answered_at = time.monotonic()

    async def send(self, batch: Batch) -> Outcome:
        outcome = await self._sink.send(batch)
        if isinstance(outcome, Answered):
            pairs = zip(batch.records, outcome.verdicts, strict=True)
            self.delivered += [r for r, verdict in pairs if verdict.fate is Fate.DELIVERED]
        if not isinstance(outcome, Again):
            self.answered_at = time.monotonic()
        return outcome

    def objection(self, record: Record) -> str | None:
        return self._sink.objection(record)


class Refusals:
    """Implements ports.DeadLetters: keeps the letters, and passes them on where there is an on."""

    def __init__(self, onward: DeadLetters | None = None) -> None:
        self._onward = onward
        self.letters: list[DeadLetter] = []

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        if self._onward is not None and letters:
            try:
                await self._onward.bury(letters)
            except BurialError as error:
                # The daemon would halt and wait for a person. Here one is present.
                raise SourceError(str(error)) from None
        self.letters += letters


class Resender:
    """The sink of a configuration with the daemon's own intake, gate and delivery.

    `stop` ends a delivery after [shutdown] drain, or at once while the sink is in outage;
    `patience` ends one after so many seconds in which the sink says nothing about any record.
    """

    def __init__(
        self,
        config: Config,
        stop: anyio.Event,
        patience: float,
        refusals: Refusals | None = None,
    ) -> None:
        daemon = Daemon(config)
        self._sink = daemon.sink
        self._witness = Witness(daemon.sink)
        self._refusals = refusals or Refusals()
        self._drain = float(config.shutdown.drain)
        self._stop = stop
        self._patience = patience
        self.intake: Intake = daemon.pipeline.intake
        self.gave_up: SluicedError | None = None
        # A person has asked for these records, so there is no brake on how many are refused.
        brake = DeadLetterSettings(topic=config.dead_letter.topic or "none", max_ratio=1.0)
        burial = Burial(brake, self._refusals, Halt(), daemon.metrics)
        attempts = Attempts(
            config.retry,
            Gate(config.limits),
            burial.halt,
            daemon.metrics,
            clock=time.monotonic,
            wall=time.time,
        )
        self._delivery = Delivery(self._witness, burial, attempts, daemon.metrics)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Raises SluicedError."""
        await self._sink.open()
        try:
            yield
        finally:
            await self._sink.close()

    async def deliver(self, batch: Batch, tick: Callable[[str], None]) -> Settled:
        """Returns once all is settled, or the delivery was stopped or given up: see `gave_up`.

        `tick` is called every now and then, with the reason of an outage or "".
        """
        self._witness.delivered = []
        self._refusals.letters = []
        self._witness.answered_at = time.monotonic()
        flight = Flight(batch, time.monotonic())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, flight, tick)
            with flight.scope:
                await self._delivery.deliver(flight)
            tasks.cancel_scope.cancel()
        return self._settled(batch)

    async def _watch(self, flight: Flight, tick: Callable[[str], None]) -> None:
        health = self._delivery.health
        while not self._stop.is_set():
            tick(health.outage or "")
            with anyio.move_on_after(TICK):
                await self._stop.wait()
            if time.monotonic() - self._witness.answered_at > self._patience:
                self.gave_up = self._impatience()
                flight.scope.cancel()
                return
        deadline = time.monotonic() + self._drain
        while health.outage is None and time.monotonic() < deadline:
            tick("stopping: what is at the sink may finish")
            await anyio.sleep(TICK)
        flight.scope.cancel()

    def _impatience(self) -> SluicedError:
        error = self._delivery.health.last_error
        return SluicedError(
            f"the sink has not taken or refused any record for {self._patience:g} s"
            + (f"; the last error: {error[1]}" if error else ""),
            "Mend the sink and run this again, or wait longer with --patience.",
        )

    def _settled(self, batch: Batch) -> Settled:
        delivered, refused = list(self._witness.delivered), list(self._refusals.letters)
        known = {coordinates(r) for r in delivered} | {coordinates(x.record) for x in refused}
        rest = [r for r in batch.records if coordinates(r) not in known]
        return Settled(delivered, refused, rest)

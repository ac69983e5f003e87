"""Batches go out: released by the gate, delivered, and settled in the books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

import structlog

from .attempts import Flight
from .batch import Batch
from .bell import Bells
from .buffer import Buffer
from .burial import Halt
from .committer import Committer
from .delivery import Delivery
from .gate import Gate, LimitSettings
from .jobs import Jobs
from .metrics import Metrics
from .tasks import Tasks
from .window import Cap

log = structlog.get_logger("sluiced.pipeline")


class Outflow:
    """From the buffer to the sink. Owns the batches that are at it, by their ids: `flights`.

    With jobs a batch is at the sink until it has become one, and the jobs go on by themselves.
    """

    def __init__(
        self,
        buffer: Buffer,
        committer: Committer,
        gate: Gate,
        delivery: Delivery | Jobs,
        halt: Halt,
        metrics: Metrics,
        tasks: Tasks,
        bells: Bells,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._buffer = buffer
        self._committer = committer
        self._gate = gate
        self._delivery = delivery
        self._jobs = delivery if isinstance(delivery, Jobs) else None
        self._halt = halt
        self._metrics = metrics
        self._tasks = tasks
        self._bells = bells
        self._clock = clock
        self.flights: dict[str, Flight] = {}
        self._closing = False  # nothing is begun any more, until `open`

    def occupied(self) -> int:
        """Bytes in memory, now and soon: each record counts for its request's body too."""
        return sum(f.batch.footprint + f.batch.size for f in self.flights.values())

    def leaving(self) -> bool:
        """Whether a batch is at the sink or still to be begun, or a job is about to be done."""
        if self.flights or (self._jobs is not None and self._jobs.taking_in):
            return True
        return bool(self._buffer.closed) and not self._closing

    # --- from the buffer to the sink ----------------------------------------------------------

    async def run(self) -> None:
        """Releases for ever."""
        while True:
            self._committer.propose(self._buffer.closed)
            held = self._halt.reason or self._closing
            free = 0 if held else max(0, self._gate.slots - self._gate.taken)
            if self._jobs is not None:
                free = max(0, min(free, self._jobs.room - len(self.flights)))
            if free and self._buffer.ripen(self._clock(), free):
                continue
            if free and (batch := self._buffer.next(self._committer.may_send)):
                self._launch(batch)
                continue
            due = self._buffer.due_at(free)
            await self._bells.work.heard(None if due is None else max(0.0, due - self._clock()))

    def _launch(self, batch: Batch) -> None:
        now = self._clock()
        flight = Flight(batch, now, self._gate.enter(now), touched=now)
        self.flights[batch.id] = flight
        self._tasks.start(partial(self._deliver, flight))
        self._bells.left.ring()

    async def _deliver(self, flight: Flight) -> None:
        batch, landing = flight.batch, None
        try:
            with flight.scope:
                await self._delivery.deliver(flight)
                if self._jobs is not None:
                    return  # it is settled when its job is
                landing = flight.landed(self._clock())
                self._committer.settle_batch(batch)
                for topic, count in Counter(r.topic for r in batch.skipped).items():
                    self._metrics.skipped(topic, "collapsed", count)
        finally:
            del self.flights[batch.id]
            self._gate.leave(self._clock(), landing)
            self._cap_windows()
            self._bells.gone()

    def queue_again(self, batch: Batch) -> None:
        """What is to be submitted again goes before all that is new; also into the plan, where it
        is not there yet."""
        if self._committer.plan.knows(batch.id):
            self._buffer.planned.append(batch)
        else:
            self._committer.withdraw(self._buffer.waiting)
            self._buffer.waiting.appendleft(batch)
        self._bells.work.ring()

    # --- how much may go out ------------------------------------------------------------------

    def share(self, part: float) -> None:
        """Of what the limits are for the whole group, this part is ours."""
        self._gate.share(part, self._clock())
        self._cap_windows()

    def adopt(self, limits: LimitSettings, most_records: int | None) -> None:
        self._gate.adopt(limits, self._clock(), most_records)
        self._cap_windows()

    def _cap_windows(self) -> None:
        """A full window must fit into our part of a budget, since it goes out as one, and should be
        of the size that serves best."""
        budgets = self._gate.budgets
        records = min(self._gate.size, budgets.least("records"))
        self._buffer.windows.cap(Cap(records, budgets.least("bytes")))

    # --- when the line is emptied -------------------------------------------------------------

    def open(self) -> None:
        self._closing = False

    def close(self) -> None:
        """Begins nothing any more, and gives up what was begun and not sent yet: a limit may hold
        it for longer than we have."""
        self._closing = True
        self._abandon([f for f in self.flights.values() if f.held and not f.attempts])

    def held_beyond(self, end: float) -> bool:
        """Whether nothing is under way, and a limit lets nothing through until then."""
        taking_in = self._jobs is not None and self._jobs.taking_in
        under_way = taking_in or not all(f.held for f in self.flights.values())
        now = self._clock()
        return not under_way and now + self._gate.holding(now).seconds > end

    async def leave(self) -> None:
        """Gives up what is at the sink, and lets the jobs be: they are in the metadata, and go on
        without us."""
        self._abandon(self.flights.values())
        while self.flights:
            await self._bells.left.heard()
        if self._jobs is not None:
            self._jobs.leave()
            while self._jobs.living:
                await self._bells.left.heard()

    def _abandon(self, flights: Iterable[Flight]) -> None:
        """They stay in the plan, also those that were never sent: something after them may be done
        already, and a plan without them would have a hole before it."""
        for flight in flights:
            if not flight.scope.cancel_called:
                log.warning("batch_abandoned", batch=flight.batch.id, records=len(flight.batch))
                flight.scope.cancel()

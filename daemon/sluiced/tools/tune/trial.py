"""Sends batches and measures what becomes of them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from ...batch import Batch
from ...budgets import NO_WAIT, Wait
from ...errors import SluicedError
from ...outcome import Again, Answered, Fate, Outcome, Refused, TooLarge
from ...ports import Sink
from .allowed import Allowed
from .load import Load
from .point import Point, Stopped
from .sweep import BudgetSpentError

ROUNDS = 4  # requests that each of those at once makes at the least
POINTS = 24  # settings that the budget is shared out among
BOUND = 0.1  # of the time: what has held requests back for so long bounds the throughput
GIVE_UP = 3  # failed requests of a setting before it is left

# Told of each request that has ended: how many there were, and what is being measured.
Tick = Callable[[int, str], None]


@dataclass(slots=True)
class Budget:
    """What a run may take, in requests and in seconds from now on."""

    requests: int
    seconds: float
    used: int = 0
    started: float = field(default_factory=anyio.current_time)

    @property
    def seconds_left(self) -> float:
        return self.started + self.seconds - anyio.current_time()

    @property
    def left(self) -> int:
        """Requests."""
        return 0 if self.seconds_left <= 0 else self.requests - self.used

    def requests_for(self, concurrency: int) -> int:
        """A whole number of rounds, so that at the end of the last one none runs by itself."""
        rounds = max(ROUNDS, self.requests // POINTS // concurrency)
        return rounds * concurrency


class Trial:
    """Measures settings, one after the other. `memory` is what batches may take, in bytes."""

    def __init__(
        self,
        sink: Sink,
        load: Load,
        budget: Budget,
        allowed: Allowed,
        *,
        memory: int,
        stop: anyio.Event,
        tick: Tick,
    ) -> None:
        self._sink = sink
        self._load = load
        self._budget = budget
        self._allowed = allowed
        self._memory = memory
        self._stop = stop
        self._tick = tick

    async def measure(self, size: int, concurrency: int) -> Point:
        """See sweep.Measure. Raises SluicedError where the sink takes nothing whatever the size."""
        count = min(self._budget.requests_for(concurrency), self._budget.left)
        if count < concurrency or self._stop.is_set():
            raise BudgetSpentError
        batches = deque(self._load.batches(size, count))
        point = Point(
            size,
            concurrency,
            memory=max(b.footprint + b.size for b in batches) * (concurrency + 2),
            value_bytes=max(b.size for b in batches),
        )
        if point.memory > self._memory:
            return replace(point, stopped="memory")
        return self._unfit(point) or await self._measured(point, batches)

    def _unfit(self, point: Point) -> Point | None:
        """Not tried, where limits would not let one request for each of those at once through."""
        left = self._budget.seconds_left
        if self._allowed.needed(1, 1).seconds > left:
            raise BudgetSpentError  # nor is there anything else that they would
        needed = self._allowed.needed(point.size, point.concurrency)
        if needed.seconds <= left:
            return None
        return replace(point, stopped="minutes", limit=needed.limit, needed=needed.seconds)

    async def _measured(self, point: Point, batches: deque[Batch]) -> Point:
        tally = _Tally(until=anyio.current_time() + self._budget.seconds / POINTS * 2)
        forgotten, held = _forget_peak(), dict(self._allowed.held)
        started, cpu = anyio.current_time(), time.process_time()
        async with anyio.create_task_group() as tasks:
            for _ in range(point.concurrency):
                tasks.start_soon(self._work, batches, tally, point)
        cpu = time.process_time() - cpu
        if tally.outage is not None:
            raise SluicedError(
                f"the sink takes nothing: {tally.outage}",
                "See to the API, or to our credentials; sluiced check --connect tells more.",
            )
        if not tally.answers:
            raise BudgetSpentError
        point = replace(
            point,
            records=tally.records,
            seconds=tally.last - started,
            latencies=tuple(tally.latencies),
            cpu=cpu,
            peak=_peak() if forgotten else 0,
            errors=dict(tally.errors),
            stopped=tally.stopped,
        )
        spent = {k: v - held.get(k, 0.0) for k, v in self._allowed.held.items()}
        return self._bounded(point, spent)

    def _bounded(self, point: Point, held: Mapping[str, float]) -> Point:
        """With the limit that bounds it: one that has held requests back for a good part of the
        time, or that will once nothing is saved up any more."""
        ceiling = self._allowed.ceiling(point.size)
        limit, seconds = max(held.items(), key=lambda x: x[1], default=("", 0.0))
        if seconds < BOUND * point.seconds:
            limit = ceiling.limit if point.unbounded > ceiling.rate else ""
        return replace(point, limit=limit, ceiling=ceiling.rate)

    async def _work(self, batches: deque[Batch], tally: _Tally, point: Point) -> None:
        what = f"{point.size:,} records, {point.concurrency} at once"

        def over(wait: Wait) -> bool:
            if wait.seconds:
                self._tick(self._budget.used, f"{what}, held by {wait.limit}")
            return self._over(tally, point, wait.seconds)

        while batches and not over(NO_WAIT):
            batch = batches.popleft()
            if (ticket := await self._allowed.admitted(batch, over)) is None:
                return
            self._budget.used += 1
            began = anyio.current_time()
            outcome = await self._sink.send(batch)
            tally.last = anyio.current_time()
            self._allowed.settle(ticket, outcome)
            tally.add(outcome, tally.last - began)
            self._tick(self._budget.used, what)

    def _over(self, tally: _Tally, point: Point, wait: float) -> bool:
        """Whether to leave it at what is known, if the next request has to wait so many seconds."""
        if tally.stopped is not None or self._stop.is_set() or not self._budget.left:
            return True
        if wait > self._budget.seconds_left:
            return True
        late = anyio.current_time() + wait > tally.until
        known = wait > 0 and tally.answers >= ROUNDS * point.concurrency
        return tally.answers > 0 and (late or known)


@dataclass(slots=True)
class _Tally:
    """The answers at one setting. From `until` on one is enough, and `last` is when the last one
    came."""

    until: float
    last: float = 0.0
    answers: int = 0
    records: int = 0
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    stopped: Stopped | None = None
    failures: int = 0
    outage: str | None = None  # an answer that no other size would change

    def add(self, outcome: Outcome, seconds: float) -> None:
        self.answers += 1
        if not (isinstance(outcome, TooLarge) and not outcome.sent):
            self.latencies.append(seconds)
        match outcome:
            case Answered():
                self._judged(outcome)
            case Refused(status):
                self.errors[f"refused {status}"] += 1
            case TooLarge(status):
                self.errors[f"too large {status}".rstrip()] += 1
                self.stopped = "too large"
            case Again(outage=True):
                self.outage, self.stopped = outcome.error, "failed"
            case Again():
                self._failed(outcome)

    def _judged(self, answer: Answered) -> None:
        slowed = 0
        for verdict in answer.verdicts:
            if verdict.fate is Fate.DELIVERED:
                self.records += 1
            else:
                self.errors[f"record {verdict.fate.value} {verdict.status}".rstrip()] += 1
                slowed += verdict.fate is Fate.RETRY and verdict.status == "429"
        if slowed:
            self.stopped = "throttled"

    def _failed(self, answer: Again) -> None:
        self.failures += 1
        self.errors[f"{answer.reason} {answer.status}".rstrip()] += 1
        if answer.reason == "timeout":
            self.stopped = "timeout"
        elif answer.reason == "throttled":
            self.stopped = "throttled"
        elif self.failures >= GIVE_UP:
            self.stopped = "failed"


def _forget_peak() -> bool:
    """Starts the process's peak memory over. Whether this system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> int:
    """What was resident at most since the peak was forgotten, in bytes. 0 where the system does
    not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:")), 0)

"""Servers of which the best load is known by construction, and a line that sends to them.

All on virtual time and without an event loop, so that minutes of thousands of requests take a
moment. What a server does with a request is decided in `Model`, which the benchmark's real server
uses as well.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, inf
from random import Random
from typing import Literal

from sluiced.adaptive import Bounds, Controller, Push
from sluiced.goodput import Landing

Verdict = Literal["ok", "slow", "too large"]


@dataclass(frozen=True, slots=True)
class Model:
    """A server with `workers` that take `per_request` + `per_record` times records seconds each.

    `network` are the seconds to it and back. Requests queue for a worker. Beyond `concurrent`
    requests at once it answers 429; beyond `knee` every further one makes all of them slower by
    `thrash`. Beyond `records` in a request it answers 413; beyond `cliff` records a request takes
    five times as long. `noise` is the relative spread of how long one takes. A part `errors` of all
    requests gets a 503 for no reason.
    """

    workers: int = 1
    per_request: float = 0.05
    per_record: float = 0.001
    network: float = 0.01
    concurrent: float = inf
    knee: float = inf
    thrash: float = 0.5
    records: float = inf
    cliff: float = inf
    noise: float = 0.0
    errors: float = 0.0

    def verdict(self, records: int, inside: int, dice: Random) -> Verdict:
        """On a request that comes in while `inside` others are there."""
        if records > self.records:
            return "too large"
        if inside >= self.concurrent or (self.errors and dice.random() < self.errors):
            return "slow"
        return "ok"

    def seconds(self, records: int, inside: int, dice: Random) -> float:
        """Of work, with `inside` requests there, itself included."""
        work = self.per_request + self.per_record * records
        if records > self.cliff:
            work *= 5
        work *= 1 + self.thrash * max(0.0, inside - self.knee)
        return work * dice.lognormvariate(0.0, self.noise) if self.noise else work

    def goodput(self, slots: int, size: int) -> float:
        """Records a second of a fixed setting, on the average."""
        if size > self.records:
            return 0.0
        inside = int(min(slots, self.concurrent))
        work = replace(self, noise=0.0).seconds(size, inside, Random(0)) * exp(self.noise**2 / 2)
        return size * min(inside / (work + self.network), self.workers / work)

    def best(self, most_slots: int, most_size: int) -> float:
        """The goodput of the best fixed setting."""
        return max(
            self.goodput(slots, size)
            for slots in range(1, most_slots + 1)
            for size in {*range(1, most_size + 1, max(1, most_size // 200)), most_size}
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """At `at`: records delivered since the last look, and the setting."""

    at: float
    goodput: float
    slots: int
    size: int


class Line:
    """What the pipeline, the gate and the delivery are to the controller, with records as numbers.

    As many windows as there are slots wait with the size that they were closed with; a batch that
    failed keeps its slot while it waits for its next attempt; a 413 makes two halves of it.
    """

    def __init__(
        self,
        model: Model,
        bounds: Bounds,
        changes: Sequence[tuple[float, Model]] = (),
        *,
        fixed: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self._changes = deque(changes)
        self._dice = Random(seed)
        self.controller = Controller(bounds)
        self._fixed = fixed
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.now = 0.0
        self._inside = 0
        self._busy: list[float] = []  # when each worker is free again
        self._taken = 0
        self._waiting: deque[int] = deque()
        self._delivered = 0
        self.requests = 0

    @property
    def _slots(self) -> int:
        return self._fixed[0] if self._fixed else self.controller.slots

    @property
    def _size(self) -> int:
        return self._fixed[1] if self._fixed else self.controller.size

    def run(self, seconds: float, every: float = 1.0) -> list[Seen]:
        seen, looked, before = [], self.now + every, self._delivered
        end = self.now + seconds
        self._fill()
        while self._events and self._events[0][0] <= end:
            while self._events[0][0] >= looked:
                rate = (self._delivered - before) / every
                seen.append(Seen(looked, rate, self._slots, self._size))
                looked, before = looked + every, self._delivered
            self.now, _, happen = heapq.heappop(self._events)
            while self._changes and self._changes[0][0] <= self.now:
                self.model = self._changes.popleft()[1]
            happen()
        self.now = end
        return seen

    def _after(self, delay: float, happen: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, happen))

    def _fill(self) -> None:
        while len(self._waiting) < self._slots:
            self._waiting.append(self._size)
        while self._taken < self._slots:
            size = self._waiting.popleft()
            self._taken += 1
            number = self.controller.launch(self.now, self._taken)
            self._send(_Flight(number, self.now, [size], size))
            self._waiting.append(self._size)

    def _send(self, flight: _Flight) -> None:
        self.requests += 1
        self._after(self.model.network / 2, lambda: self._arrive(flight))

    def _arrive(self, flight: _Flight) -> None:
        model, records = self.model, flight.parts[0]
        verdict = model.verdict(records, self._inside, self._dice)
        if verdict != "ok":
            self._after(model.network / 2, lambda: self._answered(flight, verdict))
            return
        self._inside += 1
        while len(self._busy) >= model.workers:
            start = heapq.heappop(self._busy)
            if len(self._busy) < model.workers:
                break
        else:
            start = self.now
        work = model.seconds(records, self._inside, self._dice)
        finish = max(self.now, start) + work
        heapq.heappush(self._busy, finish)
        self._after(finish - self.now, lambda: self._leaves(flight))

    def _leaves(self, flight: _Flight) -> None:
        self._inside -= 1
        self._after(self.model.network / 2, lambda: self._answered(flight, "ok"))

    def _answered(self, flight: _Flight, verdict: Verdict) -> None:
        push: Push | None = "slow" if verdict == "slow" else None
        self.controller.answered(flight.number, push, self.now)
        records = flight.parts[0]
        if verdict == "slow":
            flight.failures += 1
            ceiling = min(60.0, 0.25 * 2 ** (flight.failures - 1))
            self._after(self._dice.uniform(0, ceiling), lambda: self._send(flight))
            return
        if verdict == "too large":
            if records == flight.records:
                self.controller.too_large(flight.number, records, self.now)
            flight.parts[:1] = [records // 2, records - records // 2]
        else:
            del flight.parts[0]
            flight.failures = 0
            self._delivered += records
        if flight.parts:
            self._send(flight)
            return
        self._taken -= 1
        landing = Landing(flight.number, flight.records, self.now - flight.began, flight.records)
        self.controller.land(landing, self.now, self._taken)
        self._fill()


@dataclass(slots=True)
class _Flight:
    number: int
    began: float
    parts: list[int]
    records: int
    failures: int = 0


def faster(model: Model, **changes: object) -> Model:
    return replace(model, **changes)  # type: ignore[arg-type]

"""A run: the world that a seed stands for, from its first record to the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import trio
import trio._core._run
from trio.testing import MockClock

from .api import SimApi
from .audit import Audit, Violation
from .broker import Broker
from .chaos import Chaos
from .member import KEEPS_PLANS, SimMember, assignment
from .scenario import Odds, Scenario, dice, draw, window
from .timeline import Timeline
from .topics import Topics
from .trace import Trace

# Seconds after which an operator lifts a halt.
LIFTED_AFTER = 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """`counts` is how often what happened, by the words of the trace."""

    seed: int
    violation: Violation | None
    trace: Trace
    steps: int
    seconds: float

    @property
    def counts(self) -> Counter[str]:
        return self.trace.counts


class World:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.over = trio.Event()
        self.timeline = Timeline()
        self.trace = Trace(trio.current_time)
        self.topics = Topics(scenario, self.timeline, self.trace)
        self.audit = self.make_audit()
        self.broker = Broker(scenario, self.timeline, self.trace, self.topics, self.audit.committed)
        self.api = self.make_api()
        self.chaos = Chaos(self)
        self.members: list[SimMember] = []
        self.keeps_plans = KEEPS_PLANS
        self.assignment = assignment
        self._dice = dice(scenario.seed, "world")
        self._started = 0
        self._pending = 0  # members that are going to be started
        self._finishing = False
        self._nursery: trio.Nursery

    # What is another one in a world of jobs.

    def make_audit(self) -> Audit:
        return Audit(self)

    def make_api(self) -> Any:
        return SimApi(self)

    def make_member(self, name: str) -> SimMember:
        return SimMember(self, name, window(self.scenario, self._dice))

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self.timeline.run)
            for _ in range(self.scenario.members):
                self.replace(self._dice.choice((0.0, 1.0)))
            for time in self.scenario.joins:
                self.replace(time)
            self.chaos.start()
            self.timeline.at(self.scenario.calm, self._calm)
            self.timeline.after(LIFTED_AFTER, self._lift_halts)
            await self.over.wait()
            self._nursery.cancel_scope.cancel()
        self.audit.final()

    # --- members --------------------------------------------------------------------------------

    def alive(self) -> list[SimMember]:
        return [m for m in self.members if not (m.dead or m.ended)]

    def replace(self, delay: float) -> None:
        """A member, with settings of its own, is started in that many seconds."""
        self._pending += 1
        self.timeline.after(delay, self._start)

    def _start(self) -> None:
        self._pending -= 1
        self._started += 1
        member = self.make_member(f"m{self._started}")
        self.members.append(member)
        self.trace.note("world", "starts", member)
        self._nursery.start_soon(member.live)

    def leaves(self, member: SimMember, lasts: float) -> None:
        """A member is told to stop; another one comes in its place, or none if others are left."""
        member.stop()
        if lasts or len(self.alive()) == 1:
            self.replace(lasts)

    def ended(self, member: SimMember) -> None:
        """A member is gone. One that broke down is started again, as systemd would."""
        if not (member.dead or member.stopping or self.audit.violation):
            self.replace(self._dice.uniform(0, 2))
        if self._finishing and not self.alive():
            self.over.set()

    def _lift_halts(self) -> None:
        for member in self.alive():
            if member.pipeline.burial.halt.reason and not member.frozen:
                member.note("halt is lifted", member.pipeline.burial.halt.reason)
                member.must_halt = False
                member.pipeline.resume()
        self.timeline.after(LIFTED_AFTER, self._lift_halts)

    # --- the end --------------------------------------------------------------------------------

    @property
    def patience(self) -> float:
        """Seconds for everything to be committed in once all faults are over. A member's share of a
        limit may come to a request a second, and windows to a record each that the API knows."""
        limited = self.scenario.requests_per_second is not None
        return 120.0 + (2.0 * self.scenario.records if limited else 0.0)

    def fault(self, port: str, chance: Random) -> str:
        """The fault that a call of this port meets with, or ""."""
        if trio.current_time() >= self.scenario.calm:
            return ""
        fault = cast("str", self.odds(port).draw(chance))
        if fault:
            self.trace.counts[f"{port}: {fault}"] += 1
        return fault

    def odds(self, port: str) -> Odds:
        return cast("Odds", getattr(self.scenario, port))

    def _calm(self) -> None:
        self.trace.note("world", "all faults are over")
        self.chaos.calm()
        for member in self.alive():
            member.thaw()
        if not self._pending and all(member.stopping for member in self.alive()):
            self.replace(0)
        self.timeline.after(self.patience, self._too_late)
        self._finish_if_complete()

    def _finish_if_complete(self) -> None:
        if not self.audit.complete() or self._pending:
            self.timeline.after(0.25, self._finish_if_complete)
            return
        self.trace.note("world", "everything is committed")
        self._finishing = True
        if not self.alive():
            self.over.set()
        for member in self.alive():
            member.stop()

    def _too_late(self) -> None:
        ends, offsets = self.topics.ends, self.broker.offsets
        left = [f"{tp}: {offsets.get(tp, (0, ''))[0]} of {end}" for tp, end in ends.items()]
        self.audit.fail("progress", f"{self.patience:g} s after the last fault: {', '.join(left)}")


def make(seed: int) -> World:
    return World(draw(seed))


def simulate(
    seed: int,
    told: Callable[[World], object] = lambda world: None,
    make: Callable[[int], World] = make,
) -> Result:
    """Runs a seed in a world of this make. `told` gets hold of it before anything happens."""
    run: Any = trio._core._run
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    world: World

    async def main() -> float:
        nonlocal world
        world = make(seed)
        told(world)
        await world.run()
        return trio.current_time()

    seconds = trio.run(main, clock=MockClock(autojump_threshold=0))
    return Result(seed, world.audit.violation, world.trace, world.chaos.steps, seconds)

"""Strikes members: at a step, a time or just after something that they have seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .member import MEMBER, SimMember
from .scenario import Strike

if TYPE_CHECKING:
    from .world import World

# A run has some thousand steps; one that has this many goes round in circles.
MOST_STEPS = 400_000


class Chaos(trio.abc.Instrument):
    """Counts steps of tasks. A member is struck between two steps of its tasks, at any await."""

    def __init__(self, world: World) -> None:
        self.steps = 0
        self._world = world
        self._armed = [[s.count, s] for s in world.scenario.strikes if s.moment != "time"]
        self._lit: dict[SimMember, Strike] = {}
        self._on = True

    def start(self) -> None:
        for strike in self._world.scenario.strikes:
            if strike.moment == "time":
                self._world.timeline.at(strike.count, lambda strike=strike: self._any(strike))  # type: ignore[misc]
        trio.lowlevel.add_instrument(self)

    def calm(self) -> None:
        self._on = False
        self._lit.clear()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == MOST_STEPS:
            self._world.audit.fail("livelock", f"{MOST_STEPS} steps of tasks")
        if not self._on:
            return
        member = task.context.get(MEMBER)
        if member is None or member.dead:
            return
        if self._armed:
            self.saw(member, "step")
        if member.fuse >= 0:
            member.fuse -= 1
            if member.fuse < 0:
                self._strike(member)

    def saw(self, member: SimMember, moment: str) -> None:
        if not self._on:
            return
        for entry in self._armed:
            strike: Strike = entry[1]  # type: ignore[assignment]
            if strike.moment == moment:
                entry[0] -= 1  # type: ignore[operator]
                if entry[0] <= 0:  # type: ignore[operator]
                    self._armed.remove(entry)
                    self._light(member, strike)
                    return

    def _any(self, strike: Strike) -> None:
        alive = self._world.alive()
        if self._on and alive:
            self._light(alive[strike.steps % len(alive)], strike)

    def _light(self, member: SimMember, strike: Strike) -> None:
        if member not in self._lit:
            self._lit[member] = strike
            member.fuse = strike.steps

    def _strike(self, member: SimMember) -> None:
        strike = self._lit.pop(member, None)
        if strike is None or member.dead or member.ended:
            return
        if strike.what == "crash":
            member.kill()
            self._world.replace(strike.lasts)
        elif strike.what == "freeze" and not member.frozen:
            member.freeze()
            self._world.timeline.after(strike.lasts, member.thaw)
        elif strike.what == "stop":
            self._world.leaves(member, strike.lasts)

"""ports.Sink and ports.DeadLetters, as one member has them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from sluiced.batch import Batch
from sluiced.errors import BurialError
from sluiced.outcome import Again, Answered, Outcome, Refused
from sluiced.ports import DeadLetter
from sluiced.record import Record

from .api import Said
from .scenario import dice
from .timeline import Reply
from .topics import at

if TYPE_CHECKING:
    from .member import SimMember


class SimSink:
    """`sent_at` are the times of the last second's requests, `held_until` is when the API wants
    to hear from this member again."""

    def __init__(self, member: SimMember) -> None:
        scenario = member.world.scenario
        self.identifies = scenario.identifies
        self.busy = 0
        self.held_until = 0.0
        self.sent_at: deque[float] = deque()  # within the last second
        self._member = member
        self._world = member.world
        self._timeout = scenario.request_timeout
        self._max_delay = scenario.max_delay

    def objection(self, record: Record) -> str | None:
        """Where windows collapse, a record is known by its key."""
        if self._world.scenario.collapse and record.key is None:
            return "no key"
        return None

    async def send(self, batch: Batch) -> Outcome:
        root = self._world.audit.sends(self._member, batch)
        await self._member.awake()
        self._member.note("sends", batch, root)
        self._member.saw("sends")
        self.busy += 1
        try:
            reply = self._world.api.request(self._member.name, batch, root)
            said = await reply.within(self._timeout)
        finally:
            self.busy -= 1
        await self._member.awake()
        if said is None:
            said = Said(Again("timeout", f"no answer in {self._timeout:.3f} s"))
        outcome = said.outcome
        self._member.note("answered", batch, _summary(outcome))
        self._world.audit.heard(said)
        if isinstance(outcome, Again) and outcome.after is not None:
            wish = min(outcome.after, self._max_delay)
            self.held_until = max(self.held_until, trio.current_time() + wish)
        self._member.saw("answered")
        return outcome


def _summary(outcome: Outcome) -> str:
    if isinstance(outcome, Answered):
        counts = [v.fate.value for v in outcome.verdicts]
        return ", ".join(f"{counts.count(name)} {name}" for name in dict.fromkeys(counts))
    if isinstance(outcome, Again):
        return f"again: {outcome.reason} {outcome.status}"
    return ("refused: " if isinstance(outcome, Refused) else "too large: ") + outcome.status


class SimDeadLetters:
    """A letter that was sent may get there although nobody hears of it."""

    def __init__(self, member: SimMember) -> None:
        self._member = member
        self._world = member.world
        self._dice = dice(member.world.scenario.seed, f"{member.name}/dead letters")

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        await self._member.awake()
        self._member.saw("buries")
        fault = self._world.fault("burials", self._dice)
        delay = self._dice.uniform(0.001, 0.02)
        if fault == "slow":
            delay += self._dice.uniform(0, 4)
        reply: Reply[bool] = Reply()
        self._world.timeline.after(delay, lambda: reply.give(self._write(tuple(letters), fault)))
        written = await reply.wait()
        await self._member.awake()
        if not written:
            self._member.must_halt = True
            raise BurialError("the simulation says so")
        self._world.audit.buried(letters)
        self._member.saw("buried")

    def _write(self, letters: Sequence[DeadLetter], fault: str) -> bool:
        count = len(letters)
        if fault == "not written":
            count = 0
        elif fault == "written in part":
            count = self._dice.randrange(count + 1)
        for letter in letters[:count]:
            self._member.note("dead letter", at(letter.record), letter.reason, letter.status)
            self._world.audit.dead_letter(letter)
        return not fault or fault == "slow"

"""The bulk API: one for all members, with a memory for ids and bad days.

A request that has arrived is worked on to its end, whatever becomes of whoever sent it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import trio

from sluiced.batch import Batch
from sluiced.outcome import (
    DELIVERED,
    Again,
    Fate,
    Outcome,
    Refused,
    TooLarge,
    Verdict,
    answered,
)

from .scenario import dice
from .timeline import Reply
from .topics import Coordinates, at

if TYPE_CHECKING:
    from .audit import Root
    from .world import World

REJECTED = Verdict(Fate.REJECTED, "422", "poison")
LATER = Verdict(Fate.RETRY, "503", "not now")

# The API has done nothing for these: the request did not get there, or was turned away.
TURNED_AWAY = {
    "throttled": Again("throttled", "slow down", "429", after=1.0),
    "unavailable": Again("status", "unavailable", "503"),
    "unauthorised": Again("status", "who are you?", "401", outage=True),
    "request lost": Again("connection", "connection refused"),
    "garbage": Again("unknown", "cannot be read", "200"),
}


class Said(NamedTuple):
    """What the member hears, and of which records the API has truly said that it has them."""

    outcome: Outcome
    has: Sequence[Coordinates] = ()
    later: Sequence[Coordinates] = ()


@dataclass(frozen=True, slots=True)
class Request:
    who: str
    batch: Batch
    root: Root
    records: tuple[Coordinates, ...]
    reply: Reply[Said]


class SimApi:
    """`answers` are what it remembers by batch id: all but those that put off every record. Those
    are given to the same batch until it gets another one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._scenario = world.scenario
        self._dice = dice(world.scenario.seed, "api")
        self._answers: dict[str, Sequence[Verdict]] = {}
        self._busy: Counter[str] = Counter()
        self._honours_batches = world.scenario.identifies in ("batch", "transaction")
        self._honours_items = world.scenario.identifies == "item"
        self._has: set[Coordinates] = set()

    def request(self, who: str, batch: Batch, root: Root) -> Reply[Said]:
        """Sends a request, and returns what its answer will come by, if one ever does."""
        reply: Reply[Said] = Reply()
        request = Request(who, batch, root, tuple(map(at, batch.records)), reply)
        fault = self._outage() or self._world.fault("api", self._dice)
        delay = self._dice.uniform(0.001, 0.01)
        if fault == "request lost":
            self._reply(request, TURNED_AWAY[fault], delay)
        else:
            self._world.timeline.after(delay, lambda: self._arrives(request, fault))
        return reply

    def _outage(self) -> str:
        now = trio.current_time()
        return next((o.kind for o in self._scenario.api_outages if o.start <= now < o.end), "")

    def _arrives(self, request: Request, fault: str) -> None:
        batch = request.batch
        self._world.audit.received(batch, request.records)
        if fault in TURNED_AWAY:
            self._reply(request, self._turned_away(fault))
        elif len(batch) > self._scenario.api_records or batch.size > self._scenario.api_bytes:
            self._reply(request, TooLarge("413", "too large"))
        elif self._honours_batches and self._busy[batch.id]:
            self._reply(request, Again("status", "still in flight", "409"))
        elif self._scenario.poison == "request" and self._poisoned(request):
            self._reply(request, Refused("400", "one of these is poison"))
        else:
            self._busy[batch.id] += 1
            calm = trio.current_time() >= self._scenario.calm
            work = self._dice.uniform(0, 0.02 if calm else self._scenario.api_work)
            if fault == "slow":
                work += self._dice.uniform(0, 3 * self._scenario.request_timeout)
            self._world.timeline.after(work, lambda: self._done(request, fault))

    def _turned_away(self, fault: str) -> Outcome:
        if fault == "throttled":
            after = self._dice.choice((0.1, 1.0, 100.0))
            return Again("throttled", "slow down", "429", after=after)
        return TURNED_AWAY[fault]

    def _poisoned(self, request: Request) -> list[Coordinates]:
        kinds = self._world.topics.kinds
        return [where for where in request.records if kinds.get(where) == "poison"]

    def _done(self, request: Request, fault: str) -> None:
        batch = request.batch
        self._busy[batch.id] -= 1
        verdicts = self._answers.get(batch.id) if self._honours_batches else None
        if verdicts is not None:
            self._world.trace.note(request.who, "api knows it", batch)
        else:
            verdicts = self._judged(request, fault)
            done = [w for w, v in zip(request.records, verdicts, strict=True) if v is DELIVERED]
            if self._honours_items:
                done = [where for where in done if where not in self._has]
                self._has.update(done)
            if any(verdict is not LATER for verdict in verdicts):
                self._answers[batch.id] = verdicts
            if done:
                self._world.trace.note(
                    request.who, "api applies", batch, f"{len(done)} of {len(batch)}"
                )
                self._world.audit.applied(request, done)
        self._answer(request, verdicts, fault)

    def _judged(self, request: Request, fault: str) -> Sequence[Verdict]:
        poison = set(self._poisoned(request)) if self._scenario.poison == "item" else set()
        later = set()
        if fault == "items to be repeated":
            later = {where for where in request.records if self._dice.random() < 0.3}
        return [
            REJECTED if where in poison else LATER if where in later else DELIVERED
            for where in request.records
        ]

    def _answer(self, request: Request, verdicts: Sequence[Verdict], fault: str) -> None:
        batch = request.batch
        if fault == "answer never comes":
            return
        if fault == "answer lost":
            self._reply(request, Again("connection", "connection reset"))
        elif fault == "answer cut":
            self._reply(request, Again("unknown", "the answer ends too soon", "200"))
        elif fault == "list too short":
            self._reply(request, answered(batch, verdicts[: self._dice.randrange(len(batch))]))
        elif fault == "list too long":
            self._reply(request, answered(batch, [*verdicts, DELIVERED]))
        else:
            pairs = list(zip(request.records, verdicts, strict=True))
            has = [where for where, verdict in pairs if verdict is DELIVERED]
            later = [where for where, verdict in pairs if verdict is LATER]
            self._give(request, Said(answered(batch, verdicts), has, later))

    def _reply(self, request: Request, outcome: Outcome, delay: float = 0.0) -> None:
        """An answer that says nothing of any record."""
        self._give(request, Said(outcome), delay)

    def _give(self, request: Request, said: Said, delay: float = 0.0) -> None:
        delay += self._dice.uniform(0.001, 0.01)
        self._world.timeline.after(delay, lambda: request.reply.give(said))

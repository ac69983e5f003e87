"""The group's coordinator: who is a member, who has which partition, and the committed offsets.

Rebalances are eager, as with aiokafka: everyone gives up everything and joins again. A commit
counts if it comes from a member of the current generation, whatever has become of its sender.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from sluiced.ports import Mark
from sluiced.record import TopicPartition

from .scenario import Scenario, dice
from .timeline import Reply, Timeline
from .topics import Topics
from .trace import Trace, worded_offsets


class Joined(NamedTuple):
    """What a member gets when a rebalance is over. `notice` is how it hears of the next one, or
    that it was thrown out."""

    generation: int
    tps: tuple[TopicPartition, ...]
    notice: trio.Event


class Committed(NamedTuple):
    offset: int
    metadata: str


class Assigned(NamedTuple):
    """How a generation began: who got what, and what was committed."""

    generation: int
    owners: Mapping[TopicPartition, str]
    offsets: Mapping[TopicPartition, int]


@dataclass(eq=False, slots=True)
class _Member:
    name: str
    generation: int = 0
    joining: Reply[Joined | None] | None = None
    notice: trio.Event = field(default_factory=trio.Event)


class Broker:
    """`judge` is asked about each commit at the moment it is stored: the partition, what was
    committed before, and what is now."""

    def __init__(
        self,
        scenario: Scenario,
        timeline: Timeline,
        trace: Trace,
        topics: Topics,
        judge: Callable[[str, TopicPartition, int, Mark], None],
    ) -> None:
        self.topics = topics
        self.offsets: dict[TopicPartition, Committed] = {}
        self.history: list[Assigned] = []
        self.expired: dict[TopicPartition, int] = {}  # log ends when offsets were forgotten
        self.generation = 0
        self._scenario = scenario
        self._timeline = timeline
        self._trace = trace
        self._judge = judge
        self._dice = dice(scenario.seed, "broker")
        self._members: dict[str, _Member] = {}
        self._preparing = False
        self._round = 0  # counts rebalances, so that a late timer knows that it is late
        self._landed: dict[str, float] = {}  # by member, when its last commit gets here

    # --- membership -----------------------------------------------------------------------------

    def join(self, name: str) -> Reply[Joined | None]:
        """Answered when the rebalance that this begins, or that is under way, is over; with None
        if the member was thrown out before, and must join again."""
        member = self._members.setdefault(name, _Member(name))
        member.joining = Reply()
        self._prepare()
        self._complete_if_all_joined()
        return member.joining

    def leave(self, name: str, why: str = "leaves") -> None:
        member = self._members.pop(name, None)
        if member is None:
            return
        self._trace.note(name, why)
        self._notify(member)
        if member.joining is not None:
            member.joining.give(None)
        if self._members:
            self._prepare()
            self._complete_if_all_joined()
        else:
            self._round += 1
            self._preparing = False
            self._expire_later()

    def silent(self, name: str, still: Callable[[], bool]) -> None:
        """No heartbeat comes from this member as long as `still` says so."""

        def expire() -> None:
            if still():
                self.leave(name, "is thrown out")

        self._timeline.after(self._scenario.session, expire)

    def _prepare(self) -> None:
        if self._preparing:
            return
        self._preparing = True
        self._round += 1
        current = self._round
        for member in self._members.values():
            if member.joining is None:
                self._notify(member)
        scenario = self._scenario
        limit = scenario.rebalance
        if trio.current_time() >= scenario.calm:  # too little time for a drain is a fault as well
            limit = max(limit, 1.5 * scenario.drain + 0.5)
        self._timeline.after(limit, lambda: self._time_up(current))

    def _notify(self, member: _Member) -> None:
        """By way of its next heartbeat."""
        delay = self._dice.uniform(0, self._scenario.heartbeat) + self.down()
        self._timeline.after(delay, member.notice.set)

    def _time_up(self, current: int) -> None:
        if current != self._round or not self._preparing:
            return
        for member in [m for m in self._members.values() if m.joining is None]:
            del self._members[member.name]
            self._trace.note(member.name, "misses the rebalance")
            self._notify(member)
        if self._members:
            self._complete()
        else:
            self._preparing = False
            self._expire_later()

    def _complete_if_all_joined(self) -> None:
        if self._preparing and all(m.joining is not None for m in self._members.values()):
            delay, current = self.down() + self._dice.uniform(0, 0.3), self._round
            self._timeline.after(delay, lambda: self._complete_unless_late(current))

    def _complete_unless_late(self, current: int) -> None:
        waiting = current == self._round and self._preparing and self._members
        if waiting and all(m.joining is not None for m in self._members.values()):
            self._complete()

    def _complete(self) -> None:
        self._preparing = False
        self.generation += 1
        members = list(self._members.values())
        self._dice.shuffle(members)
        tps = list(self._scenario.tps)
        owners = {tp: members[i % len(members)].name for i, tp in enumerate(tps)}
        offsets = {tp: committed.offset for tp, committed in self.offsets.items()}
        self.history.append(Assigned(self.generation, owners, offsets))
        self._trace.note("broker", "generation", self.generation, worded_offsets(owners.items()))
        for member in members:
            reply, member.joining = member.joining, None
            assert reply is not None
            member.generation, member.notice = self.generation, trio.Event()
            mine = tuple(tp for tp in tps if owners[tp] == member.name)
            joined = Joined(self.generation, mine, member.notice)
            delay = self._dice.uniform(0, 0.05)
            self._timeline.after(delay, lambda reply=reply, joined=joined: reply.give(joined))  # type: ignore[misc]

    # --- offsets --------------------------------------------------------------------------------

    def down(self) -> float:
        """Seconds until the broker is back; 0 if it is there."""
        now = trio.current_time()
        return max(
            (o.end - now for o in self._scenario.broker_outages if o.start <= now < o.end),
            default=0.0,
        )

    def commit(
        self, name: str, generation: int, marks: Mapping[TopicPartition, Mark], delay: float
    ) -> Reply[bool]:
        """A commit on its way to the broker; whether it was stored. All or none of it is.

        A member has one connection, so that no commit overtakes another.
        """
        reply: Reply[bool] = Reply()
        when = max(trio.current_time() + delay + self.down(), self._landed.get(name, 0.0))
        self._landed[name] = when
        self._timeline.at(when, lambda: reply.give(self._store(name, generation, marks)))
        return reply

    def _store(self, name: str, generation: int, marks: Mapping[TopicPartition, Mark]) -> bool:
        member = self._members.get(name)
        if member is None or not member.generation == generation == self.generation:
            self._trace.note(name, "commit is fenced", generation)
            return False
        told = worded_offsets(
            (tp, f"{m.offset}{m.metadata and ' ' + m.metadata}") for tp, m in marks.items()
        )
        self._trace.note(name, "committed", told)
        for tp, mark in marks.items():
            before = self.offsets[tp].offset if tp in self.offsets else 0
            self._judge(name, tp, before, mark)
            self.offsets[tp] = Committed(mark.offset, mark.metadata)
        return True

    def _expire_later(self) -> None:
        self._trace.note("broker", "group is empty")
        current = self._round

        def expire() -> None:
            if current == self._round and not self._members and self.offsets:
                self._trace.note("broker", "offsets expire")
                self.offsets.clear()
                self.expired = dict(self.topics.ends)

        if trio.current_time() + self._scenario.retention < self._scenario.calm:
            self._timeline.after(self._scenario.retention, expire)

"""What must be true, checked at the moment at which it could become untrue.

Each rule has a name, and the first one that is broken ends the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import trio

from sluiced.batch import Batch
from sluiced.metadata import ForeignPlanError, UnreadablePlanError, decode
from sluiced.ports import DeadLetter, Mark
from sluiced.record import Range, TopicPartition

from .conduct import Conduct
from .topics import Coordinates, SimRecord, at
from .trace import worded_ranges

if TYPE_CHECKING:
    from .api import Request, Said
    from .member import SimMember
    from .world import World


# A member, and the epoch of its assignment.
Life: TypeAlias = tuple[str, int]
# How a record came to the API: the id of the request, and whose it was.
Arrival: TypeAlias = tuple[str, Life]


@dataclass(frozen=True, slots=True)
class Violation:
    rule: str
    text: str
    time: float

    def __str__(self) -> str:
        return f"{self.rule}: {self.text} (at {self.time:.3f} s)"


@dataclass(frozen=True, slots=True)
class Root:
    """What left a member's window as one batch; requests carry it, or parts of it."""

    id: str
    life: Life
    covers: Mapping[TopicPartition, tuple[Range, ...]]
    generation: int  # of the group when its records were fetched

    def __str__(self) -> str:
        spans = " ".join(f"{tp}:{worded_ranges(r)}" for tp, r in self.covers.items())
        return f"of {self.id[:6]} {spans}"


NOTHING = Root("", ("", 0), {}, 0)


class Audit:
    """Knows what every record has been through."""

    def __init__(self, world: World) -> None:
        self.violation: Violation | None = None
        self.conduct = Conduct(self.fail)
        self._arrivals: dict[Coordinates, list[Arrival]] = {}
        self._acknowledged: set[Coordinates] = set()
        self._buried: set[Coordinates] = set()
        self._world = world
        self._scenario = world.scenario
        self._topics = world.topics
        self._verified: dict[TopicPartition, int] = {}
        self._roots: dict[tuple[Life, str], Root] = {}
        self._roots_of: dict[Coordinates, list[Root]] = {}
        self._batches: dict[str, tuple[Coordinates, ...]] = {}
        self._ids: dict[tuple[Coordinates, ...], str] = {}
        self._later: set[Coordinates] = set()  # the API has asked for them to be repeated
        self._collapsed: set[Coordinates] = set()
        self._newest: dict[bytes | None, tuple[int, Coordinates]] = {}  # settled, by key
        self._last: dict[tuple[str, int, TopicPartition], int] = {}

    def fail(self, rule: str, text: str) -> None:
        if self.violation is None:
            self.violation = Violation(rule, text, trio.current_time())
            self._world.trace.note("audit", "VIOLATION", self.violation)
            self._world.over.set()

    # --- what is sent -----------------------------------------------------------------------------

    def sends(self, member: SimMember, batch: Batch) -> Root:
        """A request is made: may it be, and which batch is it of?"""
        if member.dead:
            return NOTHING
        self.conduct.sends(member)
        flights = [
            f.batch for f in member.pipeline.outflow.flights.values() if _holds(f.batch, batch)
        ]
        if len(flights) != 1:
            self.fail("identity", f"{len(flights)} batches are in flight that hold {batch.id}")
            return NOTHING
        whole = flights[0]
        life = (member.name, whole.covers[0].epoch)
        return self._roots.get((life, whole.id)) or self._register(life, whole, member)

    def _register(self, life: Life, batch: Batch, member: SimMember) -> Root:
        covers = {span.tp: span.ranges for span in batch.covers}
        root = Root(batch.id, life, covers, member.source.generations[life[1]])
        self._roots[life, batch.id] = root
        records = [*batch.records, *batch.skipped]
        # Where jobs are made, a part of a batch leaves as a batch too: that is no window.
        parted = any(r.life == life for x in records for r in self._roots_of.get(at(x), ()))
        for tp, ranges in covers.items():
            for span in ranges:
                for record in self._topics.within(tp, span):
                    self._roots_of.setdefault(at(record), []).append(root)
        self._collapsed.update(map(at, batch.skipped))
        if not parted:
            self.conduct.window(member, batch)
        return root

    def received(self, batch: Batch, records: tuple[Coordinates, ...]) -> None:
        """The API looks at a request: an id means these very records and no others."""
        if self._batches.setdefault(batch.id, records) != records:
            self.fail("identity", f"{batch.id} comes with other records than before")
        if self._ids.setdefault(records, batch.id) != batch.id:
            self.fail("identity", f"the records of {batch.id} have come under another id")
        if list(records) != sorted(records):
            self.fail("identity", f"the records of {batch.id} are not in order")
        for where in records:
            kind = self._topics.kinds.get(where)
            tombstone = kind == "tombstone" and self._scenario.on_tombstone != "send"
            if kind == "invalid" or tombstone:
                self.fail("intake", f"{where} is sent and is {kind}")

    def applied(self, request: Request, done: Sequence[Coordinates]) -> None:
        """The API has taken these records in."""
        life = request.root.life
        for where in done:
            tp = TopicPartition(where.topic, where.partition)
            arrivals = self._arrivals.setdefault(where, [])
            if not arrivals:
                self._in_order(life, tp, where)
            elif self._scenario.identifies in ("batch", "transaction"):
                self._again(where, arrivals[-1], (request.batch.id, life))
            arrivals.append((request.batch.id, life))

    def _again(self, where: Coordinates, before: Arrival, now: Arrival) -> None:
        """Within one life there is no excuse for a duplicate."""
        if before[1] != now[1] and self._excused(where):
            self._world.trace.note("audit", "duplicate is excused", where, before[0], now[0])
        elif before[1] == now[1] or self._world.keeps_plans:
            self.fail("duplicate", f"{where} came with {before[0]} and with {now[0]}")

    def _in_order(self, life: Life, tp: TopicPartition, where: Coordinates) -> None:
        key = (*life, tp)
        before = self._last.get(key, -1)
        self._last[key] = where.offset
        if where.offset < before and self._scenario.keeps_order:
            self.fail("order", f"{where} is taken in after {before}")

    def _excused(self, where: Coordinates) -> bool:
        """Offsets were forgotten, or a batch of several partitions went to several members."""
        tp = TopicPartition(where.topic, where.partition)
        if where.offset < self._world.broker.expired.get(tp, 0):
            return True
        return any(map(self._was_split, self._roots_of[where]))

    def _was_split(self, root: Root) -> bool:
        for generation, owners, offsets in self._world.broker.history:
            parted = len({owners[tp] for tp in root.covers}) > 1
            open_ = any(offsets.get(tp, 0) <= r[-1][1] for tp, r in root.covers.items())
            if generation > root.generation and parted and open_:
                return True
        return False

    # --- what becomes of it -----------------------------------------------------------------------

    def heard(self, said: Said) -> None:
        """A member has got this answer."""
        self._later.update(said.later)
        for where in said.has:
            self._acknowledged.add(where)
            self._settled(where)

    def dead_letter(self, letter: DeadLetter) -> None:
        """It is in the dead-letter topic: does it belong there, and is it whole?"""
        where = at(letter.record)
        original = self._topics.find(where)
        if (letter.record.key, letter.record.value) != (original.key, original.value):
            self.fail("dead letter", f"{where} has not its original bytes")
        if not self._deserves(original, letter):
            self.fail("dead letter", f"{where} is buried as {letter.reason}: {letter.error}")
        if (letter.attempts == 0) != (letter.reason == "invalid"):
            self.fail("dead letter", f"{where} was {letter.reason}, attempts {letter.attempts}")

    def _deserves(self, record: SimRecord, letter: DeadLetter) -> bool:
        reason = letter.reason
        kind = self._topics.kinds.get(at(record), "")
        if reason == "invalid":
            policy = self._scenario.on_tombstone == "dead-letter"
            return kind == "invalid" or (kind == "tombstone" and policy)
        if reason == "rejected":
            return kind == "poison" and self._scenario.poison != "none"
        if reason == "too_large":
            return len(record.value or b"") > self._scenario.api_bytes
        often = letter.attempts >= self._scenario.max_item_attempts
        return (often and at(record) in self._later) or not math.isinf(self._scenario.give_up_after)

    def buried(self, letters: Sequence[DeadLetter]) -> None:
        """A member knows that these have been written."""
        for letter in letters:
            self._buried.add(at(letter.record))
            self._settled(at(letter.record))

    def _settled(self, where: Coordinates) -> None:
        if self._scenario.collapse:
            record = self._topics.find(where)
            rank = (record.timestamp, where)
            self._newest[record.key] = max(rank, self._newest.get(record.key, rank))

    def done(self, record: SimRecord) -> bool:
        where = at(record)
        if where in self._acknowledged or where in self._buried:
            return True
        if where in self._collapsed and record.key in self._newest:
            return self._newest[record.key] > (record.timestamp, where)
        tombstone = self._topics.kinds.get(where) == "tombstone"
        return tombstone and self._scenario.on_tombstone == "skip"

    def committed(self, who: str, tp: TopicPartition, before: int, mark: Mark) -> None:
        """The broker stores a commit: everything below it must be done at this moment."""
        if mark.offset < before:
            self.fail("prefix", f"{who} moves {tp} back from {before} to {mark.offset}")
        if mark.offset > self._topics.ends[tp]:
            self.fail("prefix", f"{who} commits {mark.offset} of {tp}, beyond its end")
        if len(mark.metadata.encode()) > self._scenario.metadata_limit:
            self.fail("metadata", f"{who} commits {len(mark.metadata)} bytes for {tp}")
        try:
            decode(mark.offset, mark.metadata)
        except (ForeignPlanError, UnreadablePlanError) as error:
            self.fail("metadata", f"{who} commits {mark.metadata} for {tp}: {error}")
        start = self._verified.get(tp, 0)
        for record in self._topics.within(tp, (start, mark.offset - 1)):
            if not self.done(record):
                self.fail("prefix", f"{who} commits {mark.offset} of {tp}, {at(record)} is open")
        self._verified[tp] = max(start, mark.offset)

    # --- at the end ------------------------------------------------------------------------------

    def complete(self) -> bool:
        """Everything is committed to the end of the log."""
        offsets = self._world.broker.offsets
        return all(
            (offsets[tp].offset if tp in offsets else 0) == end
            for tp, end in self._topics.ends.items()
        )

    def final(self) -> None:
        for records in self._topics.records.values():
            for record in records:
                if not self.done(record):
                    self.fail("lost", f"{at(record)} is nowhere")


def _holds(whole: Batch, part: Batch) -> bool:
    """Whether a batch is one of the other's records, or the whole of it."""
    tp, epoch, ranges = part.spans[0]
    return any(
        (tp, epoch) == (other, e) and r[0][0] <= ranges[0][0] <= r[-1][1]
        for other, e, r in whole.covers
    )

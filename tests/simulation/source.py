"""The stream as one member has it: ports.Source and ports.Checkpoint, after kafka.source.

As there, an assignment is only noted when it comes; the next fetch learns the committed offsets
and tells the pipeline. And as there, a commit is sent under the generation of the assignment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from sluiced.errors import SourceError
from sluiced.pipeline import Pipeline
from sluiced.ports import CommitOutcome, Fetched, Mark
from sluiced.record import TopicPartition, footprint_of, size_of

from .scenario import dice
from .topics import Coordinates, SimRecord, at
from .trace import worded_offsets

if TYPE_CHECKING:
    from .member import SimMember


class SimSource:
    def __init__(self, member: SimMember) -> None:
        world = member.world
        self.metadata_limit = world.scenario.metadata_limit
        self.stopped: frozenset[TopicPartition] = frozenset()  # no partition is damaged here
        self.partitions = len(world.topics.ends)
        self.generations: dict[int, int] = {}  # by epoch
        self.fetched_at: dict[Coordinates, float] = {}
        self.largest_fetch = 0
        self.largest_return = 0  # of what a job leaves to be submitted again
        self.found_plans = False  # in the metadata, at the latest assignment
        self._member = member
        self._world = world
        self._broker = world.broker
        self._topics = world.topics
        self._dice = dice(world.scenario.seed, f"{member.name}/source")
        self._pipeline: Pipeline
        self._epoch = 0
        self._generation = -1
        self._positions: dict[TopicPartition, int] = {}
        self._to_set_up: tuple[TopicPartition, ...] | None = None
        self._latest: Sequence[Fetched] = ()
        self._former: Sequence[Fetched] = ()  # the latest of an epoch that is over

    @property
    def generation(self) -> int:
        """Of the group, as far as this member knows; -1 where it has none."""
        return self._generation

    # --- membership -----------------------------------------------------------------------------

    async def coordinate(self, pipeline: Pipeline) -> None:
        """What aiokafka does in the background: joins, hears of rebalances, joins again."""
        self._pipeline = pipeline
        while True:
            joined = await self._broker.join(self._member.name).wait()
            await self._member.awake()
            if joined is None:
                continue
            self._epoch += 1
            self._positions = {}
            self._generation = joined.generation
            self.generations[self._epoch] = joined.generation
            self._to_set_up = joined.tps
            await joined.notice.wait()
            await self._member.awake()
            await self._revoke(joined.tps)
            await self._member.awake()

    async def _revoke(self, tps: Sequence[TopicPartition]) -> None:
        self._to_set_up = None
        self._member.saw("revoking")
        began = trio.current_time()
        await self._pipeline.revoked(tps)
        self._world.audit.conduct.drained(self._member, began)
        self._epoch += 1  # from here on no commit of what was ours is sent
        self._positions = {}
        self._generation = -1
        self._former, self._latest = self._latest, ()

    async def _set_up(self) -> None:
        epoch, tps = self._epoch, self._to_set_up or ()
        await trio.sleep(self._broker.down() + self._dice.uniform(0, 0.02))
        await self._member.awake()
        if epoch != self._epoch or self._to_set_up is None:
            return  # another rebalance came in between
        self._to_set_up = None
        assignments = {}
        self.found_plans = False
        for tp in tps:
            committed = self._broker.offsets.get(tp)
            assignments[tp] = self._world.assignment(epoch, committed, 0, self._topics.ends[tp])
            self._positions[tp] = assignments[tp].position
            self.found_plans |= bool(assignments[tp].metadata)
        self._member.note("assigned", f"epoch {epoch}", worded_offsets(self._positions.items()))
        self._pipeline.assigned(assignments)
        self._member.saw("assigned")

    # --- fetching -------------------------------------------------------------------------------

    async def fetch(
        self, ready: Collection[TopicPartition], max_records: int, timeout: float
    ) -> Sequence[Fetched]:
        self._world.audit.conduct.fetches(self._member, ready)
        await self._member.awake()
        fault = self._world.fault("fetches", self._dice)
        if fault == "broken":
            raise SourceError("the simulation says so")
        if self._to_set_up is not None:
            await self._set_up()
        live = sorted(tp for tp in ready if tp in self._positions)
        epoch = self._epoch
        if not live:
            await trio.sleep(timeout if ready else 0)
            return ()
        if fault == "stale":
            stale, self._former = self._former, ()
            return stale
        if fault or self._broker.down():
            await trio.sleep(timeout)
            return ()
        with trio.move_on_after(timeout):
            while not any(self._behind(tp) for tp in live):
                await self._topics.grown.wait()
            await trio.sleep(self._dice.uniform(0, 0.01))
        await self._member.awake()
        if epoch != self._epoch or not self._positions:
            return ()
        return self._read(live, max_records)

    def _behind(self, tp: TopicPartition) -> bool:
        return self._positions.get(tp, 0) < self._topics.ends[tp]

    def _read(self, live: Sequence[TopicPartition], max_records: int) -> Sequence[Fetched]:
        fetched = []
        left = min(max_records, self._dice.choice((1, 7, 30, 2000)))
        turn = self._dice.randrange(len(live))
        for tp in [*live[turn:], *live[:turn]]:
            if left > 0 and self._behind(tp):
                records = self._topics.read(tp, self._positions[tp], left + 1)
                more = records[left:]
                records = records[:left]
                left -= len(records)
                fetched.append(self._fetched(tp, records, more))
        self.largest_fetch = max(self.largest_fetch, sum(weight_of(f.records) for f in fetched))
        if fetched:
            self._latest = fetched
            self._member.saw("fetched")
        return fetched

    def _fetched(
        self, tp: TopicPartition, records: Sequence[SimRecord], more: Sequence[SimRecord]
    ) -> Fetched:
        """A fetch may end before or behind what lies between two records and is none."""
        start, now = self._positions[tp], trio.current_time()
        if not more:
            end = self._topics.ends[tp]
        else:
            end = self._dice.choice((records[-1].offset + 1, more[0].offset))
        self._positions[tp] = end
        for record in records:
            self.fetched_at[at(record)] = now
        self._member.note("fetched", tp, f"{start}-{end - 1}", len(records), "records")
        return Fetched(tp, self._epoch, records, end)

    async def starts(self, timeout: float) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(self._positions, 0)

    async def ends(self, timeout: float) -> Mapping[TopicPartition, int]:
        await self._member.awake()
        await trio.sleep(0.001)
        return {tp: self._topics.ends[tp] for tp in self._positions}

    # --- checkpoints ----------------------------------------------------------------------------

    async def commit(self, marks: Mapping[TopicPartition, Mark], timeout: float) -> CommitOutcome:
        self._world.audit.conduct.commits(
            self._member, marks, self._epoch if self._positions else None
        )
        await self._member.awake()
        current = {
            tp: mark
            for tp, mark in sorted(marks.items())
            if mark.epoch == self._epoch and tp in self._positions
        }
        self._member.saw("commits")
        if not current:
            return "failed"
        outcome = await self._sent(current, timeout)
        await self._member.awake()
        self._member.saw("committed")
        if outcome != "ok":
            self._member.note("commit fails" if outcome == "failed" else "commit is unknown")
        return "failed" if outcome == "ok" and len(current) < len(marks) else outcome

    async def _sent(self, marks: Mapping[TopicPartition, Mark], timeout: float) -> CommitOutcome:
        fault = self._world.fault("commits", self._dice)
        delay = self._dice.uniform(0.001, 0.01)
        if fault in ("refused", "reset before"):
            await trio.sleep(min(timeout, delay))
            return "failed" if fault == "refused" else "unknown"
        if fault == "lost":
            await trio.sleep(timeout)
            return "unknown"
        if fault == "slow":
            delay = self._dice.choice((self._dice.uniform(0, 2), self._dice.uniform(5, 15)))
        reply = self._broker.commit(self._member.name, self._generation, marks, delay)
        stored = await reply.within(timeout)
        if stored is None or fault == "reset after":
            return "unknown"
        return "ok" if stored else "failed"


def weight_of(records: Sequence[SimRecord]) -> int:
    """What these take up by the pipeline's own count: themselves, and the bodies made of them."""
    size = size_of(records)
    return footprint_of(records, size) + size

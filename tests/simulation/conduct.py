"""How a member must behave towards the world, whatever becomes of its records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import trio

from sluiced.batch import Batch
from sluiced.pipeline import committing
from sluiced.ports import Mark
from sluiced.record import TopicPartition

from .topics import EPOCH, at

if TYPE_CHECKING:
    from .member import SimMember

# Seconds that may pass in the world's small delays without anybody being late.
SLACK = 0.1
EXACT = 1e-6


def wall() -> float:
    return EPOCH + trio.current_time()


class Conduct:
    """Asked at the very moment at which a member calls a port, before the port may have to wait.

    `fail` is told the rule that is broken, and how.
    """

    def __init__(self, fail: Callable[[str, str], None]) -> None:
        self._fail = fail

    def sends(self, member: SimMember) -> None:
        self._not_halted(member, "sends")
        sink, scenario = member.sink, member.world.scenario
        if sink.busy >= scenario.max_in_flight:
            self._fail("slots", f"{member.name} sends a request more than it may")
        if trio.current_time() < sink.held_until - EXACT:
            self._fail("throttle", f"{member.name} does not wait until {sink.held_until:.3f}")
        self._within_budget(member)

    def _within_budget(self, member: SimMember) -> None:
        """Of requests. What share of a budget of records a member has, the others know as little
        as it does: that is held by tests of its own."""
        now, sent = trio.current_time(), member.sink.sent_at
        sent.append(now)
        while sent[0] <= now - 1:
            sent.popleft()
        most = member.world.scenario.requests_per_second
        if most is not None and len(sent) > most:
            self._fail("budget", f"{member.name} sends {len(sent)} requests in a second")

    def commits(
        self, member: SimMember, marks: Mapping[TopicPartition, Mark], epoch: int | None
    ) -> None:
        """`epoch` is that of the assignment, None between two of them."""
        self._not_halted(member, "commits")
        for tp, mark in marks.items():
            if epoch is not None and mark.epoch != epoch:
                self._fail("epoch", f"{member.name} commits {tp} under {mark.epoch}, not {epoch}")

    def fetches(self, member: SimMember, ready: Collection[TopicPartition]) -> None:
        """Memory may be exceeded by one fetch, or where batches of a former life have to be formed
        again, which may have been larger, by one more for each partition; and by what one job has
        left to be submitted again."""
        if ready:
            self._not_halted(member, "fetches")
            self._in_time(member, ready)
        scenario, source = member.world.scenario, member.source
        fetches = 1 + len(scenario.tps) if source.found_plans else 1
        allowed = scenario.memory + source.largest_fetch * fetches + source.largest_return
        occupied = member.pipeline.memory.occupied()
        if occupied > allowed and not member.dead:
            self._fail("memory", f"{member.name} holds {occupied} bytes of {allowed}")

    def _in_time(self, member: SimMember, ready: Collection[TopicPartition]) -> None:
        """Outside of the active times only plans are read again, and what is part of a job."""
        active, recovery = member.window.active, member.pipeline.recovery
        if active is None or active.at(wall()) or member.dead:
            return
        jobs = member.pipeline.jobs
        planned = [*recovery.reading(), *(jobs.passing() if jobs else ())]
        if new := [tp for tp in ready if tp not in planned]:
            self._fail("hours", f"{member.name} wants {', '.join(map(str, new))} out of time")

    def window(self, member: SimMember, batch: Batch) -> None:
        """A batch of a former life has that life's boundaries; the others keep to the settings."""
        settings = member.window
        records = [*batch.records, *batch.skipped]
        size = sum(len(r.value or b"") for r in records)
        if settings.span == "partition" and len(batch.spans) > 1:
            self._fail("window", f"{batch.id} is of more than one partition")
        if batch.closed_by == "plan":
            return
        if len(records) > settings.max_records or (size > settings.max_bytes and records[1:]):
            self._fail("window", f"{batch.id} has {len(records)} records and {size} bytes")
        self._of_one_release(member, batch)
        if batch.closed_by == "age":
            oldest = min(member.source.fetched_at[at(r)] for r in records)
            if trio.current_time() - oldest < settings.max_age - EXACT:
                self._fail("window", f"{batch.id} is closed by age before its time")

    def _of_one_release(self, member: SimMember, batch: Batch) -> None:
        """A batch that leaves out of time was released in time: what was read beyond a plan waits
        for that, and a fetch may end a little later than the time does. Whoever stands still
        meanwhile may read it at any time."""
        active, align = member.world.scenario.active, member.world.scenario.align
        if member.last_thawed >= 0 or member.frozen:
            return
        read = [EPOCH + member.source.fetched_at[at(r)] for r in batch.records]
        late = member.world.scenario.poll + SLACK
        out_of_time = active is not None and not active.at(wall())
        if active and out_of_time and not all(active.within(t - late, wall()) for t in read):
            self._fail("hours", f"{batch.id} leaves out of time and was never released")
        if member.source.found_plans:
            return  # what was read beyond a plan comes into its window later
        if align and len({align.slot(t) for t in read}) > 1:
            self._fail("hours", f"{batch.id} has records of both sides of a multiple")

    def drained(self, member: SimMember, began: float) -> None:
        """A stop or a revocation that began then is over; a member that stood still is excused."""
        seconds, drain = trio.current_time() - began, member.world.scenario.drain
        if seconds > drain + committing(drain) + SLACK and member.last_thawed < began:
            self._fail("drain", f"{member.name} took {seconds:.3f} s of {drain} s")

    def _not_halted(self, member: SimMember, what: str) -> None:
        reason = member.pipeline.burial.halt.reason
        if member.dead:
            return
        if reason is not None:
            self._fail("halt", f"{member.name} {what} although it is halted: {reason}")
        elif member.must_halt:
            self._fail("halt", f"{member.name} {what} although a dead letter has failed")

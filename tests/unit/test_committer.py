"""The one that commits, on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import pytest
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from fakes import P0, P1, batch_of, until
from sluiced.batch import Batch
from sluiced.burial import Halt
from sluiced.committer import LINGER, Committer
from sluiced.metadata import PREFIX, UnreadablePlanError, decode
from sluiced.metrics import Metrics
from sluiced.ports import Assignment, CommitOutcome, Mark
from sluiced.record import TopicPartition

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Store:
    """ports.Checkpoint: keeps what was asked of it, and takes its time."""

    metadata_limit = 4096

    def __init__(self) -> None:
        self.asked: list[tuple[float, Mapping[TopicPartition, Mark]]] = []
        self.outcomes: list[CommitOutcome] = []
        self.takes = 0.0
        self.busy = 0

    async def commit(self, marks: Mapping[TopicPartition, Mark], timeout: float) -> CommitOutcome:
        self.asked.append((anyio.current_time(), marks))
        assert marks, "a commit of nothing"
        self.busy += 1
        assert self.busy == 1, "two commits at once"
        await anyio.sleep(self.takes)
        self.busy -= 1
        return self.outcomes.pop(0) if self.outcomes else "ok"

    def ids(self, number: int) -> list[str]:
        """The batches that are open by the commit of this number."""
        return [e.id for m in self.asked[number][1].values() for e in decode(m.offset, m.metadata)]


class Desk:
    def __init__(self, *, plans: bool = True) -> None:
        self.store = Store()
        self.registry = CollectorRegistry()
        self.told: list[float] = []
        self.halt = Halt()
        self.committer = Committer(
            self.store,
            Metrics("pages", self.registry),
            self.halt,
            plans=plans,
            clock=anyio.current_time,
            committed=lambda: self.told.append(anyio.current_time()),
        )

    @asynccontextmanager
    async def open(self, *, metadata: str = "", fresh: bool = False) -> AsyncIterator[None]:
        """At work, with one partition that starts at 0."""
        self.committer.assigned({P0: Assignment(1, 0, metadata, end=1000, fresh=fresh)})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.committer.run)
            yield
            tasks.cancel_scope.cancel()

    def take(self, first: int, count: int) -> Batch:
        self.committer.ledger.take(P0, 1, [(first, first + count - 1)], first + count)
        self.committer.took()
        return batch_of(count, start=first)


async def test_a_plan_is_committed_at_once_and_only_then_may_the_batch_be_sent() -> None:
    desk = Desk()
    async with desk.open():
        batch = desk.take(0, 10)
        desk.store.takes = 3.0
        desk.committer.propose([batch])
        await anyio.sleep(2.9)
        assert not desk.committer.may_send(batch)
        await anyio.sleep(0.2)
        assert desk.committer.may_send(batch)
    assert desk.told == [3.0]
    took = desk.registry.get_sample_value("sluiced_plan_seconds_sum", {"pipeline": "pages"})
    assert took == 3.0
    assert [(at, desk.store.ids(n)) for n, (at, _) in enumerate(desk.store.asked)] == [
        (0.0, [batch.id])
    ]


async def test_a_plan_that_is_not_acknowledged_lets_nothing_out() -> None:
    desk = Desk()
    desk.store.outcomes = ["failed", "unknown"]
    async with desk.open():
        batch = desk.take(0, 10)
        desk.committer.propose([batch])
        await anyio.sleep(1.9)
        assert len(desk.store.asked) == 2
        assert not desk.committer.may_send(batch)
        await until(lambda: desk.committer.may_send(batch))
    assert len(desk.store.asked) == 3


async def test_a_plan_made_while_a_commit_is_under_way_goes_with_the_next_one() -> None:
    desk = Desk()
    desk.store.takes = 5.0
    async with desk.open():
        first, second = desk.take(0, 10), desk.take(10, 10)
        desk.committer.propose([first])
        await anyio.sleep(1.0)
        desk.committer.propose([first, second])
        await anyio.sleep(5.0)
        assert desk.committer.may_send(first)
        assert not desk.committer.may_send(second)
        await until(lambda: desk.committer.may_send(second))
    assert [desk.store.ids(0), desk.store.ids(1)] == [[first.id], [first.id, second.id]]


async def test_what_is_done_goes_along_with_the_next_plan() -> None:
    desk = Desk()
    async with desk.open():
        first = desk.take(0, 10)
        desk.committer.propose([first])
        await until(lambda: desk.committer.may_send(first))
        desk.committer.settle_batch(first)
        await anyio.sleep(LINGER / 2)
        second = desk.take(10, 10)
        desk.committer.propose([second])
        await until(lambda: desk.committer.may_send(second))
        mark = desk.store.asked[-1][1][P0]
    assert (len(desk.store.asked), mark.offset, desk.store.ids(1)) == (2, 10, [second.id])


async def test_what_is_done_is_committed_by_itself_if_no_plan_comes() -> None:
    desk = Desk()
    async with desk.open():
        batch = desk.take(0, 10)
        desk.committer.propose([batch])
        await anyio.sleep(1.0)
        desk.committer.settle_batch(batch)
        await anyio.sleep(1.0)
    at, marks = desk.store.asked[-1]
    assert at == pytest.approx(1.0 + LINGER)
    assert marks == {P0: Mark(1, 10, "")}


async def test_without_plans_everything_may_be_sent_and_what_is_done_is_committed_at_once() -> None:
    desk = Desk(plans=False)
    async with desk.open():
        batch = desk.take(0, 10)
        desk.committer.propose([batch])
        assert desk.committer.may_send(batch)
        await anyio.sleep(1.0)
        assert desk.store.asked == []
        desk.committer.settle_batch(batch)
        await anyio.sleep(0.01)
    assert desk.store.asked == [(1.0, {P0: Mark(1, 10, "")})]


async def test_what_is_no_news_is_not_committed() -> None:
    desk = Desk()
    async with desk.open():
        desk.committer.took()
        await anyio.sleep(10.0)
    assert desk.store.asked == []


async def test_a_group_that_has_no_checkpoint_gets_one_where_it_starts() -> None:
    """Else a restart before the first delivery would start at the end of the log once more."""
    desk = Desk()
    async with desk.open(fresh=True):
        await anyio.sleep(1.0)
    assert [marks for _, marks in desk.store.asked] == [{P0: Mark(1, 0, "")}]


async def test_what_may_stand_there_after_an_unknown_commit_is_written_over() -> None:
    """The plan of a batch that was withdrawn must not be found by whoever comes next."""
    desk = Desk()
    desk.store.outcomes = ["unknown"]
    async with desk.open():
        batch = desk.take(0, 10)
        desk.committer.propose([batch])
        await anyio.sleep(0.5)
        desk.committer.withdraw([batch])
        await anyio.sleep(5.0)
    assert [marks for _, marks in desk.store.asked][1:] == [{P0: Mark(1, 0, "")}]


async def test_a_halted_pipeline_commits_nothing() -> None:
    desk = Desk()
    async with desk.open():
        desk.halt.set("trouble")
        desk.committer.propose([desk.take(0, 10)])
        await anyio.sleep(60.0)
        assert await desk.committer.commit(1.0) == "ok"
        assert desk.store.asked == []
        desk.halt.lift()
        await until(lambda: desk.store.asked)


async def test_a_batch_that_finds_no_room_waits_and_later_ones_of_its_partition_too() -> None:
    desk = Desk()
    desk.store.metadata_limit = 128
    async with desk.open():
        batches = [desk.take(n, 10) for n in range(0, 50, 10)]
        desk.committer.propose(batches)
        await anyio.sleep(1.0)
        assert [desk.committer.may_send(b) for b in batches] == [True, True, True, False, False]
        desk.committer.settle_batch(batches[0])
        await anyio.sleep(1.0)
        desk.committer.propose(batches[1:])
        await anyio.sleep(1.0)
        assert [desk.committer.may_send(b) for b in batches[1:]] == [True, True, True, False]


async def test_foreign_metadata_counts_as_absent_and_is_written_over() -> None:
    desk = Desk()
    async with desk.open(metadata="somebody else's"):
        await anyio.sleep(1.0)
    assert [marks for _, marks in desk.store.asked] == [{P0: Mark(1, 0, "")}]
    name = "sluiced_foreign_metadata_total"
    assert desk.registry.get_sample_value(name, {"pipeline": "pages"}) == 1


async def test_a_plan_of_a_newer_version_opens_no_book_and_is_never_written_over() -> None:
    desk = Desk()
    newer = Assignment(1, 0, "sluiced9:0+5", end=1000)
    with pytest.raises(UnreadablePlanError, match="pages/0"):
        desk.committer.assigned({P1: Assignment(1, 0, ""), P0: newer})
    assert desk.committer.ledger.last_committed() == {}
    assert await desk.committer.commit(1.0) == "ok"
    assert desk.store.asked == []


async def test_a_plan_that_was_found_is_kept_in_every_commit_until_it_is_worked_off() -> None:
    desk = Desk()
    found = PREFIX + "0+10=" + "e" * 32
    desk.committer.assigned({P0: Assignment(1, 0, found, end=1000), P1: Assignment(1, 0, "")})
    desk.committer.ledger.take(P1, 1, [], 50)
    assert await desk.committer.commit(1.0) == "ok"
    assert desk.store.asked[0][1] == {P1: Mark(1, 50, "")}, "of P0 it is known"
    desk.committer.ledger.take(P0, 1, [(10, 19)], 20)
    desk.committer.propose([later := batch_of(10, start=10)])
    assert await desk.committer.commit(1.0) == "ok"
    assert desk.store.ids(1) == ["e" * 32, later.id]


async def test_an_answer_of_another_epoch_does_not_settle_a_batch_that_is_formed_again() -> None:
    desk = Desk()
    desk.committer.assigned({P0: Assignment(1, 0, end=1000)})
    batch = desk.take(0, 10)
    desk.committer.propose([batch])
    assert await desk.committer.commit(1.0) == "ok"
    metadata = desk.store.asked[0][1][P0].metadata
    works, _ = desk.committer.assigned({P0: Assignment(2, 0, metadata, end=1000)})
    desk.committer.settle_batch(batch)
    assert [work.id for work in works] == [batch.id]
    await desk.committer.commit(1.0)
    assert desk.committer.plan.metadata(P0) == metadata

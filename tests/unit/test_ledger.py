from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fakes import P0, P1
from sluiced.batch import Span
from sluiced.ledger import Ledger
from sluiced.record import Range, TopicPartition
from strategies import steady


def ranges_from(offsets: set[int]) -> tuple[Range, ...]:
    found: list[Range] = []
    for offset in sorted(offsets):
        if found and found[-1][1] + 1 == offset:
            found[-1] = (found[-1][0], offset)
        else:
            found.append((offset, offset))
    return tuple(found)


class LedgerAgainstSets(RuleBasedStateMachine):
    """The ledger beside a model that keeps every single offset in a set."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.epoch: dict[TopicPartition, int] = {}
        self.position: dict[TopicPartition, int] = {}
        self.owed: dict[TopicPartition, set[int]] = {}
        self.last: dict[TopicPartition, int] = {}
        self.epochs = 0

    some_tp = st.sampled_from([P0, P1])

    @rule(tp=some_tp, position=st.integers(0, 50))
    def assign(self, tp: TopicPartition, position: int) -> None:
        self.epochs += 1
        self.ledger.assign(tp, self.epochs, position)
        self.epoch[tp], self.position[tp], self.owed[tp] = self.epochs, position, set()
        self.last[tp] = position

    @rule(tp=some_tp)
    def revoke(self, tp: TopicPartition) -> None:
        self.ledger.revoke([tp])
        self.epoch.pop(tp, None)

    @precondition(lambda self: self.epoch)
    @rule(data=st.data(), gaps=st.lists(st.booleans(), max_size=8), behind=st.integers(0, 3))
    def take(self, data: st.DataObject, gaps: list[bool], behind: int) -> None:
        tp = data.draw(st.sampled_from(sorted(self.epoch)))
        start = self.position[tp]
        new = {start + i for i, gap in enumerate(gaps) if not gap}
        end = start + len(gaps) + behind
        assert self.ledger.take(tp, self.epoch[tp], ranges_from(new), end)
        self.owed[tp] |= new
        self.position[tp] = end

    @rule(tp=some_tp, ago=st.integers(1, 3))
    def take_of_another_epoch(self, tp: TopicPartition, ago: int) -> None:
        stale = self.epoch.get(tp, 0) - ago
        assert not self.ledger.take(tp, stale, [(1000, 1001)], 1002)

    @precondition(lambda self: any(self.owed[tp] for tp in self.epoch))
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        tp = data.draw(st.sampled_from(sorted(t for t in self.epoch if self.owed[t])))
        done = data.draw(st.sets(st.sampled_from(sorted(self.owed[tp])), min_size=1))
        assert self.ledger.settle([Span(tp, self.epoch[tp], ranges_from(done))]) == 0
        self.owed[tp] -= done

    @rule(tp=some_tp, ago=st.integers(1, 3))
    def settle_of_another_epoch(self, tp: TopicPartition, ago: int) -> None:
        stale = self.epoch.get(tp, 0) - ago
        assert self.ledger.settle([Span(tp, stale, ((0, 5),))]) == 1

    @precondition(lambda self: self.epoch)
    @rule(data=st.data(), stale=st.booleans())
    def commit(self, data: st.DataObject, stale: bool) -> None:
        tp = data.draw(st.sampled_from(sorted(self.epoch)))
        self.ledger.committed(tp, self.epoch[tp] - stale, self.checkpoint(tp))
        if not stale:
            self.last[tp] = max(self.last[tp], self.checkpoint(tp))

    def checkpoint(self, tp: TopicPartition) -> int:
        return min(self.owed[tp], default=self.position[tp])

    @invariant()
    def the_checkpoint_is_the_first_offset_that_is_owed_or_the_position(self) -> None:
        for tp in self.epoch:
            assert self.ledger.checkpoint(tp) == self.checkpoint(tp)

    @invariant()
    def a_range_is_owed_if_any_offset_in_it_is(self) -> None:
        for tp in self.epoch:
            for first, last in ((0, 5), (4, 4), (3, 20), (10, 80)):
                owed = any(first <= offset <= last for offset in self.owed[tp])
                assert self.ledger.owes(tp, first, last) == owed

    @invariant()
    def it_knows_position_epoch_debt_and_last_commit(self) -> None:
        for tp in (P0, P1):
            assert self.ledger.epoch(tp) == self.epoch.get(tp)
        for tp in self.epoch:
            assert self.ledger.position(tp) == self.position[tp]
        assert self.ledger.last_committed() == {tp: self.last[tp] for tp in self.epoch}
        assert self.ledger.owed() == sum(len(self.owed[tp]) for tp in self.epoch)


TestLedgerAgainstSets = LedgerAgainstSets.TestCase
TestLedgerAgainstSets.settings = steady


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    ledger.assign(P0, 1, 100)
    ledger.take(P0, 1, [(100, 109)], 110)
    return ledger


def settle(ledger: Ledger, *ranges: Range, epoch: int = 1) -> int:
    return ledger.settle([Span(P0, epoch, ranges)])


def test_what_is_settled_out_of_order_waits_for_what_stands_before_it(ledger: Ledger) -> None:
    assert ledger.checkpoint(P0) == 100
    settle(ledger, (105, 109))
    assert ledger.checkpoint(P0) == 100
    settle(ledger, (100, 101))
    assert ledger.checkpoint(P0) == 102
    settle(ledger, (102, 104))
    assert ledger.checkpoint(P0) == 110


def test_a_gap_is_owed_to_nobody(ledger: Ledger) -> None:
    settle(ledger, (100, 109))
    ledger.take(P0, 1, [(115, 115)], 120)
    assert ledger.checkpoint(P0) == 115
    settle(ledger, (115, 115))
    assert ledger.checkpoint(P0) == 120


def test_a_fetch_of_no_records_moves_the_checkpoint_past_what_is_no_record() -> None:
    ledger = Ledger()
    ledger.assign(P0, 1, 100)
    ledger.take(P0, 1, [], 107)
    assert ledger.checkpoint(P0) == 107


@pytest.mark.parametrize("twice", [(100, 109), (100, 100), (104, 106), (109, 110), (99, 100)])
def test_settling_what_is_not_owed_is_an_error(ledger: Ledger, twice: Range) -> None:
    settle(ledger, (100, 100), (105, 105), (109, 109))
    with pytest.raises(ValueError, match="not owed"):
        settle(ledger, twice)


def test_taking_what_was_taken_is_an_error(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="taken already"):
        ledger.take(P0, 1, [(109, 111)], 112)


def test_a_new_assignment_forgets_what_the_old_one_owed(ledger: Ledger) -> None:
    ledger.assign(P0, 2, 103)
    assert ledger.owed() == 0
    assert settle(ledger, (100, 109), epoch=1) == 1
    assert ledger.checkpoint(P0) == 103
    assert ledger.position(P0) == 103


def test_a_commit_that_is_acknowledged_late_does_not_take_a_newer_one_back(ledger: Ledger) -> None:
    settle(ledger, (100, 109))
    ledger.committed(P0, 1, 110)
    ledger.committed(P0, 1, 105)
    assert ledger.last_committed() == {P0: 110}


def test_spans_of_a_live_epoch_are_settled_beside_stale_ones(ledger: Ledger) -> None:
    assert ledger.settle([Span(P1, 1, ((0, 5),)), Span(P0, 1, ((100, 109),))]) == 1
    assert ledger.checkpoint(P0) == 110

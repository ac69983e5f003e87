"""What is formed again of a former run's batches, whatever has become of their records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import P0, P1, P2, FakeRecord, offsets, records_at
from sluiced.batch import Batch, Run
from sluiced.identity import identity
from sluiced.metadata import Entry
from sluiced.plan import Work
from sluiced.record import TopicPartition
from sluiced.recovery import Formed, Recovery, regrouped
from sluiced.window import collapsed
from strategies import steady

OTHER = "f" * 32


def run(tp: TopicPartition, where: Iterable[int]) -> Run:
    return Run(tp, 2, records_at(tp, where))


def batch_at(*runs: tuple[TopicPartition, Iterable[int]]) -> Batch:
    """A batch as a former run has sent it."""
    return Batch.of("pages", [Run(tp, 1, records_at(tp, where)) for tp, where in runs], "age")


def planned(batch: Batch) -> Work:
    spans = {s.tp: (s.ranges[0][0], s.ranges[-1][1]) for s in batch.covers}
    return Work(batch.id, len(spans), bool(batch.skipped), spans)


def recovery(*works: Work, id_template: str = "/id") -> Recovery:
    made = Recovery("pages", identity(id_template))
    made.start(works, {})
    return made


def read(r: Recovery, tp: TopicPartition, records: Sequence[FakeRecord], end: int) -> list[Formed]:
    """As the pipeline does it: everything that was fetched, and where the next fetch goes on."""
    left = r.undone(tp, records)
    if left:
        r.add(Run(tp, 2, left))
    return r.reached(tp, end, 0.0)


def test_a_planned_batch_is_formed_exactly_however_its_records_arrive() -> None:
    batch = batch_at((P0, range(5)), (P1, range(10, 13)))
    r = recovery(planned(batch))
    assert read(r, P1, records_at(P1, range(10, 12)), 12) == []
    assert read(r, P0, records_at(P0, range(9)), 9) == []
    assert r.batches == 1, "one batch, although over two partitions"
    (formed,) = read(r, P1, records_at(P1, range(12, 15)), 15)
    assert formed.exact
    assert r.batches == 0
    assert formed.batch is not None
    assert (formed.batch.id, formed.batch.closed_by) == (batch.id, "plan")
    assert list(formed.batch.records) == list(batch.records)


def test_records_beyond_the_plan_are_held_until_their_partition_is_through_with_it() -> None:
    r = recovery(planned(batch_at((P0, range(5)), (P1, range(5)))))
    r.add(run(P0, range(9)))
    assert (r.reached(P0, 9, 0.0), r.freed()) == ([], [])
    assert r.reading() == [P1], "P0 has given what is wanted of it"
    assert set(r.recovering()) == {P0, P1}
    assert r.records == 9
    r.add(run(P1, range(5)))
    formed, held = r.reached(P1, 5, 0.0), r.freed()
    assert len(formed) == 1
    assert [(offsets(each.run.records), each.hole) for each in held] == [([5, 6, 7, 8], False)]
    assert P0 not in r
    assert (r.records, r.occupied()) == (0, 0)


def test_batches_come_in_the_order_of_each_partition() -> None:
    first = batch_at((P0, range(3)), (P1, range(3)))
    second = batch_at((P0, range(3, 6)))
    third = batch_at((P0, range(6, 9)), (P1, range(3, 9)))
    r = recovery(planned(third), planned(second), planned(first))
    assert read(r, P0, records_at(P0, range(9)), 9) == []
    formed = read(r, P1, records_at(P1, range(9)), 9)
    assert [f.work.id for f in formed] == [first.id, second.id, third.id]
    assert all(f.exact for f in formed)


def test_a_batch_does_not_wait_for_records_that_are_none() -> None:
    """Compaction has taken the last ones; the fetch tells that it is beyond them."""
    r = recovery(planned(batch_at((P0, range(10)))))
    (formed,) = read(r, P0, records_at(P0, range(8)), 10)
    assert not formed.exact
    assert formed.batch is not None
    assert offsets(formed.batch.records) == list(range(8))


def test_a_batch_of_which_nothing_is_left_is_formed_of_nothing() -> None:
    r = recovery(planned(batch_at((P0, range(10)))))
    (formed,) = read(r, P0, [], 10)
    assert formed.batch is None
    assert P0 not in r


def test_an_empty_place_at_the_end_of_a_plan_is_waited_for_no_longer_than_the_log_goes() -> None:
    entries = {P0: [Entry(0, 4, OTHER), Entry(5, 9, "e" * 32), Entry(10, 14)]}
    works, done, apart = regrouped(entries, {P0: 7})
    assert [work.spans for work in works] == [{P0: (0, 4)}, {P0: (5, 6)}]
    assert (done, apart) == ({}, 0)
    works, done, _ = regrouped(entries, {P0: 12})
    assert done == {P0: [(10, 11)]}


def test_a_batch_whose_partitions_are_not_all_here_is_taken_apart() -> None:
    plans = {P0: [Entry(0, 4, OTHER, 3)], P1: [Entry(7, 9, OTHER, 3)]}
    works, _, apart = regrouped(plans, {P0: 100, P1: 100})
    assert [work.spans for work in works] == [{P0: (0, 4)}, {P1: (7, 9)}]
    assert apart == 1
    r = recovery(*works)
    (formed,) = read(r, P1, records_at(P1, range(7, 10)), 10)
    assert not formed.exact
    assert formed.batch is not None
    assert formed.batch.id == batch_at((P1, range(7, 10))).id


def test_a_batch_that_was_taken_apart_is_never_put_together_again() -> None:
    plans = {P0: [Entry(0, 4, OTHER, 0)], P1: [Entry(7, 9, OTHER, 2)]}
    works, _, apart = regrouped(plans, {P0: 100, P1: 100})
    assert [(work.spans, work.parts) for work in works] == [({P0: (0, 4)}, 0), ({P1: (7, 9)}, 0)]
    assert apart == 1


def test_a_whole_batch_is_one_work() -> None:
    plans = {tp: [Entry(0, 4, OTHER, 3)] for tp in (P0, P1, P2)}
    works, _, apart = regrouped(plans, dict.fromkeys(plans, 100))
    assert (len(works), apart) == (1, 0)
    assert works[0].spans == {P0: (0, 4), P1: (0, 4), P2: (0, 4)}


def test_what_a_former_run_has_done_is_not_seen_again() -> None:
    r = Recovery("pages", identity("/id"))
    r.start([], {P0: [(3, 5), (8, 8)]})
    assert offsets(r.undone(P0, records_at(P0, range(2, 10)))) == [2, 6, 7, 9]
    assert offsets(r.undone(P1, records_at(P1, range(2, 10)))) == list(range(2, 10))
    r.reached(P0, 6, 0.0)
    assert P0 in r
    r.reached(P0, 9, 0.0)
    assert P0 not in r


def test_a_collapsed_batch_is_collapsed_again_whatever_the_settings_are() -> None:
    values = [b'{"id":%d}' % n for n in (1, 2, 1, 3)]
    records = [FakeRecord(offset=n, value=value) for n, value in enumerate(values)]
    batch = collapsed(Batch.of("pages", [Run(P0, 1, records)], "age"), identity("/id"))
    assert offsets(batch.records) == [1, 2, 3]
    (formed,) = read(recovery(planned(batch)), P0, records, 4)
    assert formed.exact
    assert formed.batch is not None
    assert [s.ranges for s in formed.batch.covers] == [s.ranges for s in batch.covers]
    assert offsets(formed.batch.skipped) == [0]
    (otherwise,) = read(recovery(planned(batch), id_template="/slug"), P0, records, 4)
    assert not otherwise.exact


def test_plans_that_go_round_in_a_circle_end_all_the_same() -> None:
    works = [
        Work("a" * 32, 2, False, {P0: (0, 4), P1: (5, 9)}),
        Work("b" * 32, 2, False, {P0: (5, 9), P1: (0, 4)}),
    ]
    r = recovery(*works)
    assert read(r, P0, records_at(P0, range(10)), 10) == []
    assert len(read(r, P1, records_at(P1, range(10)), 10)) == 2


def test_where_there_is_no_room_for_all_one_batch_at_a_time_is_read() -> None:
    first, second = batch_at((P0, range(3)), (P1, range(3))), batch_at((P2, range(3)))
    r = recovery(planned(first), planned(second))
    assert r.first() == [P0, P1]
    read(r, P0, records_at(P0, range(3)), 3)
    assert r.first() == [P1]
    read(r, P1, records_at(P1, range(3)), 3)
    assert r.first() == [P2]


def test_what_is_dropped_is_forgotten() -> None:
    r = recovery(planned(batch_at((P0, range(5)))))
    r.add(run(P0, range(3)))
    r.drop()
    assert (r.records, P0 in r, r.reading(), r.first()) == (0, False, [], [])


@pytest.mark.parametrize("gap", [0, 1, 4])
@steady
@given(data=st.data())
def test_whatever_the_cuts_of_the_fetches_every_record_goes_somewhere_once(
    gap: int, data: st.DataObject
) -> None:
    """Two planned batches with something between them, and more after them."""
    plan = [batch_at((P0, range(4))), batch_at((P0, range(4 + gap, 10)))]
    r = recovery(*map(planned, plan))
    formed: list[Formed] = []
    free: list[int] = []
    holes: list[int] = []
    position = 0
    while position < 16:
        end = data.draw(st.integers(position + 1, 16))
        r.add(run(P0, range(position, end)))
        more, held = r.reached(P0, end, 0.0), r.freed()
        formed += more
        free += [o for each in held for o in offsets(each.run.records)]
        holes += [o for each in held if each.hole for o in offsets(each.run.records)]
        position = end
    assert [f.batch.id for f in formed if f.batch] == [batch.id for batch in plan]
    assert free == [*range(4, 4 + gap), *range(10, 16)]
    assert holes == [*range(4, 4 + gap)]

from __future__ import annotations

from collections.abc import Callable

from fakes import P0, P1, P2, batch_of, records_at
from sluiced.batch import Batch, Run
from sluiced.buffer import Buffer
from sluiced.record import OVERHEAD, TopicPartition
from sluiced.units import Duration
from sluiced.window import Windows, WindowSettings


def buffer(span: str = "partition", max_records: int = 2, max_age: float = 10.0) -> Buffer:
    settings = WindowSettings(
        max_records=max_records,
        max_age=Duration(max_age),
        span=span,  # type: ignore[arg-type]
    )
    return Buffer(Windows("pages", settings))


def fill(b: Buffer, tp: TopicPartition, count: int, now: float = 0.0, start: int = 0) -> None:
    b.add(Run(tp, 1, records_at(tp, range(start, start + count))), now)


def anything(_: Batch) -> bool:
    return True


def taken(
    b: Buffer, now: float, may_go: Callable[[Batch], bool] = anything
) -> list[tuple[int, int]]:
    """Partition and first offset of every batch that comes out, through a gate with one slot."""
    out = []
    while True:
        b.ripen(now, 1)
        if (batch := b.next(may_go)) is None:
            return out
        out.append((batch.spans[0].tp.partition, batch.records[0].offset))


def test_what_is_neither_full_nor_old_stays() -> None:
    b = buffer()
    assert taken(b, 0.0) == []
    fill(b, P0, 1)
    assert taken(b, 9.9) == []
    assert taken(b, 10.0) == [(0, 0)]


def test_with_one_window_batches_come_out_in_the_order_they_closed() -> None:
    b = buffer("topics")
    fill(b, P1, 4)
    fill(b, P0, 5)
    assert taken(b, 0.0) == [(1, 0), (1, 2), (0, 0), (0, 2)]
    assert taken(b, 10.0) == [(0, 4)]


def test_with_a_window_each_partitions_take_turns_and_each_stays_in_order() -> None:
    b = buffer()
    fill(b, P0, 6)
    fill(b, P1, 4)
    assert taken(b, 0.0) == [(0, 0), (1, 0), (0, 2), (1, 2), (0, 4)]


def test_an_old_window_takes_its_turn_among_full_ones() -> None:
    b = buffer()
    fill(b, P0, 8)
    fill(b, P2, 1)
    assert taken(b, 10.0)[:2] == [(0, 0), (2, 0)]


def test_an_old_window_never_overtakes_a_batch_of_its_own_partition() -> None:
    b = buffer()
    fill(b, P0, 3)
    assert taken(b, 10.0) == [(0, 0), (0, 2)]


def test_with_one_window_all_partitions_are_wanted_until_each_slot_has_a_batch_waiting() -> None:
    b = buffer("topics")
    fill(b, P0, 2)
    assert set(b.wanting([P0, P1], slots=2)) == {P0, P1}
    fill(b, P0, 2, start=2)
    assert not b.wanting([P0, P1], slots=2)


def test_with_a_window_each_only_partitions_with_a_batch_waiting_are_not_wanted() -> None:
    b = buffer()
    fill(b, P0, 2)
    fill(b, P1, 1)
    assert list(b.wanting([P0, P1, P2], slots=1)) == [P1, P2]


def test_it_knows_what_it_holds_and_since_when() -> None:
    b = buffer()
    assert (b.records, b.bytes, b.occupied(), b.since()) == (0, 0, 0, None)
    fill(b, P0, 3, now=5.0)
    fill(b, P1, 1, now=4.0)
    assert (b.records, b.bytes, b.since()) == (4, 8, 4.0)
    assert b.occupied() == 4 * OVERHEAD + 2 * 8, "records, and the requests made of them"
    b.drop()
    assert (b.records, b.occupied(), b.since()) == (0, 0, None)
    assert taken(b, 100.0) == []


def test_closing_all_puts_open_windows_behind_what_waits() -> None:
    b = buffer("topics")
    fill(b, P0, 3)
    b.close_all("drain")
    assert taken(b, 0.0) == [(0, 0), (0, 2)]


def test_the_largest_window_is_closed_if_there_is_one() -> None:
    b = buffer(max_records=10)
    assert not b.close_largest()
    fill(b, P0, 1)
    fill(b, P1, 5)
    assert b.close_largest()
    assert taken(b, 0.0) == [(1, 0)]


def test_a_batch_that_may_not_go_yet_holds_up_its_own_queue_and_no_other() -> None:
    b = buffer()
    fill(b, P0, 4)
    fill(b, P1, 2)
    assert taken(b, 0.0, lambda batch: batch.spans[0].tp != P0) == [(1, 0)]
    assert taken(b, 0.0) == [(0, 0), (0, 2)]


def test_batches_of_a_former_plan_go_first_in_their_order_and_nothing_passes_them() -> None:
    b = buffer(max_records=10)
    fill(b, P0, 1)
    b.planned += [batch_of(3, P1, start=7), batch_of(3, P1, start=20)]
    assert b.records == 7
    assert taken(b, 10.0, lambda batch: batch.records[0].offset != 7) == []
    assert taken(b, 10.0) == [(1, 7), (1, 20), (0, 0)]


def test_an_old_window_fills_for_as_long_as_the_gate_has_no_slot_for_it() -> None:
    b = buffer(max_records=10)
    fill(b, P0, 1)
    fill(b, P1, 1)
    assert b.due_at(slots=1) == 10.0
    assert b.ripen(10.0, slots=1)
    assert not b.ripen(10.0, slots=1), "one batch waits already for the one slot"
    assert b.due_at(slots=1) is None, "time alone changes nothing now"
    assert b.ripen(10.0, slots=2)
    assert len(b.waiting) == 2

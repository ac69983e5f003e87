from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import P0, P1, FakeRecord, at, offsets, records_at
from sluiced.batch import Batch, Run
from sluiced.identity import identity
from sluiced.record import Record, TopicPartition, footprint_of, size_of
from sluiced.units import Duration, Size, decode
from sluiced.window import Cap, Window, Windows, WindowSettings
from strategies import runs, steady


def settings(
    max_records: int = 500, max_bytes: int = 4096, max_age: float = 2.0, **others: object
) -> WindowSettings:
    return WindowSettings(
        max_records=max_records,
        max_bytes=Size(max_bytes),
        max_age=Duration(max_age),
        **others,  # type: ignore[arg-type]
    )


def window(**limits: float) -> Window:
    return Window("pages", settings(**limits))  # type: ignore[arg-type]


def run(*sizes: int, tp: TopicPartition = P0, start: int = 0) -> Run:
    return Run(
        tp,
        1,
        [FakeRecord(tp.topic, tp.partition, start + i, b"x" * n) for i, n in enumerate(sizes)],
    )


def model(records: list[Record], max_records: int, max_bytes: int) -> list[list[Record]]:
    """The windows as one would say it: take in records one by one, and close when it is time.

    The last list is what is still open; it may be empty.
    """
    closed: list[list[Record]] = []
    now: list[Record] = []
    for record in records:
        if now and size_of([*now, record]) > max_bytes:
            closed.append(now)
            now = []
        now.append(record)
        if len(now) >= max_records or size_of(now) >= max_bytes:
            closed.append(now)
            now = []
    return [*closed, now]


@steady
@given(runs(least=1), st.integers(1, 20), st.integers(1, 30))
def test_the_batches_are_those_of_the_plain_rule(
    stream: list[Run], max_records: int, max_bytes: int
) -> None:
    w = window(max_records=max_records, max_bytes=max_bytes)
    batches = [batch for r in stream for batch in w.add(r, 0.0)]
    last = w.close("drain")
    *closed, still_open = model([r for run in stream for r in run.records], max_records, max_bytes)
    # Within a batch, partitions are sorted; the order within each partition is the stream's.
    assert [list(b.records) for b in batches] == [sorted(c, key=at) for c in closed]
    assert (list(last.records) if last else []) == sorted(still_open, key=at)
    assert all(b.closed_by == ("records" if len(b) == max_records else "bytes") for b in batches)


@steady
@given(runs(), st.integers(1, 20), st.integers(1, 30))
def test_no_record_is_lost_or_doubled_and_no_cap_is_broken(
    stream: list[Run], max_records: int, max_bytes: int
) -> None:
    w = window(max_records=max_records, max_bytes=max_bytes)
    batches = [batch for r in stream for batch in w.add(r, 0.0)]
    batches += [last] if (last := w.close("drain")) else []
    for tp in {r.tp for r in stream}:
        expected = [at(r) for run in stream if run.tp == tp for r in run.records]
        assert [at(r) for b in batches for r in b.records if at(r)[:2] == tp] == expected
    for b in batches:
        assert b.size == size_of(b.records)
        assert b.size <= max_bytes or len(b) == 1
        assert len(b) <= max_records


@steady
@given(runs(), st.integers(1, 20), st.integers(1, 30))
def test_the_open_window_knows_what_it_holds(
    stream: list[Run], max_records: int, max_bytes: int
) -> None:
    w = window(max_records=max_records, max_bytes=max_bytes)
    taken: list[Record] = []
    for r in stream:
        taken += r.records
        for batch in w.add(r, 0.0):
            taken = taken[len(batch) :]
        size = size_of(taken)
        assert (w.records, w.bytes, w.footprint) == (len(taken), size, footprint_of(taken, size))
        assert (w.opened_at is None) == (not taken)


@steady
@given(runs(least=1), *(st.integers(1, most) for most in (20, 30, 20, 30)))
def test_under_other_limits_it_goes_on_as_if_they_had_held_since_it_was_opened(
    stream: list[Run], records_before: int, bytes_before: int, max_records: int, max_bytes: int
) -> None:
    w = window(max_records=records_before, max_bytes=bytes_before)
    half = len(stream) // 2
    closed = [batch for r in stream[:half] for batch in w.add(r, 1.0)]
    opened_at = w.opened_at
    batches = w.adopt(settings(max_records, max_bytes))
    assert w.opened_at in (opened_at, None)
    batches += [batch for r in stream[half:] for batch in w.add(r, 1.0)]
    batches += [last] if (last := w.close("drain")) else []
    all_records = [r for run in stream for r in run.records]
    open_then = all_records[sum(map(len, closed)) :]
    expected = [sorted(c, key=at) for c in model(open_then, max_records, max_bytes) if c]
    assert [list(b.records) for b in batches] == expected


def test_every_window_that_is_open_takes_on_other_limits_and_so_do_later_ones() -> None:
    windows = Windows("pages", settings(span="partition"))
    windows.add(run(1, 1), 0.0)
    windows.add(run(1, 1, tp=P1), 5.0)
    assert len(windows.adopt(settings(max_records=2, max_age=9.0, span="partition"))) == 2
    windows.drop()
    assert len(windows.add(run(1, 1), 7.0)) == 1
    windows.add(run(1, tp=P1), 7.0)
    assert windows.due_at() == 16.0


def test_it_closes_on_the_record_that_makes_the_count_full() -> None:
    w = window(max_records=3)
    assert not w.add(run(1, 1), 0.0)
    (batch,) = w.add(run(1, 1, start=2), 0.0)
    assert offsets(batch.records) == [0, 1, 2]
    assert batch.closed_by == "records"
    assert w.records == 1


def test_a_window_of_exactly_the_byte_cap_is_full() -> None:
    (batch,) = window(max_bytes=10).add(run(4, 6), 0.0)
    assert batch.size == 10
    assert batch.closed_by == "bytes"


def test_a_record_that_does_not_fit_goes_into_the_next_window() -> None:
    w = window(max_bytes=10)
    (batch,) = w.add(run(4, 5, 2), 0.0)
    assert offsets(batch.records) == [0, 1]
    assert (w.records, w.bytes) == (1, 2)


def test_a_record_above_the_cap_travels_alone() -> None:
    w = window(max_bytes=10)
    batches = w.add(run(1, 25, 1), 0.0)
    assert [offsets(b.records) for b in batches] == [[0], [1]]
    assert w.records == 1


def test_one_long_run_fills_many_windows() -> None:
    batches = window(max_records=10).add(run(*[1] * 95), 0.0)
    assert [len(b) for b in batches] == [10] * 9


def test_age_counts_from_the_first_record_and_later_ones_do_not_renew_it() -> None:
    w = window(max_age=2.0)
    assert w.due_at() is None
    w.add(run(1), 100.0)
    w.add(run(1, start=1), 101.9)
    assert w.due_at() == 102.0


def test_after_a_close_age_counts_from_the_first_record_of_the_new_window() -> None:
    w = window(max_age=2.0, max_records=2)
    w.add(run(1), 100.0)
    w.add(run(1, 1, start=1), 101.0)
    assert w.due_at() == 103.0
    assert w.close("age") is not None
    assert w.due_at() is None


def test_a_window_opened_at_time_zero_has_an_age_as_well() -> None:
    w = window(max_age=2.0)
    w.add(run(1), 0.0)
    assert w.due_at() == 2.0


def test_a_batch_knows_since_when_its_first_record_was_held() -> None:
    w = window(max_records=2)
    w.add(run(1), 7.0)
    (batch,) = w.add(run(1, start=1), 9.0)
    assert batch.since == 7.0


def test_an_empty_window_closes_to_nothing() -> None:
    w = window()
    assert w.close("drain") is None


def test_what_is_dropped_is_gone() -> None:
    w = window()
    w.add(run(5, 5), 0.0)
    w.drop()
    assert (w.records, w.bytes, w.footprint, w.due_at()) == (0, 0, 0, None)
    assert w.close("drain") is None


# --- collapse -------------------------------------------------------------------------------------


def keyed(offset: int, key: str, timestamp: int = 0, tp: TopicPartition = P0) -> FakeRecord:
    return FakeRecord(tp.topic, tp.partition, offset, b"{}", key.encode(), timestamp)


def collapse(*records: FakeRecord) -> Batch:
    w = Window("pages", settings(collapse=True), identity("$key"))
    for r in records:
        w.add(Run(TopicPartition(r.topic, r.partition), 1, [r]), 0.0)
    batch = w.close("drain")
    assert batch is not None
    return batch


def test_collapse_keeps_the_newest_of_each_id_in_order() -> None:
    batch = collapse(keyed(0, "a"), keyed(1, "b"), keyed(2, "a"), keyed(3, "c"), keyed(4, "a"))
    assert offsets(batch.records) == [1, 3, 4]
    assert offsets(batch.skipped) == [0, 2]


def test_a_collapsed_batch_covers_what_it_skipped() -> None:
    batch = collapse(keyed(0, "a"), keyed(1, "a"), keyed(2, "a"))
    assert batch.covers[0].ranges == ((0, 2),)
    assert batch.spans[0].ranges == ((2, 2),)


def test_within_a_partition_the_later_offset_is_newer_whatever_the_clock_says() -> None:
    assert offsets(collapse(keyed(0, "a", 900), keyed(1, "a", 100)).records) == [1]


def test_between_partitions_the_later_timestamp_is_newer() -> None:
    batch = collapse(keyed(0, "a", 200), keyed(9, "a", 100, P1))
    assert [at(r) for r in batch.records] == [("pages", 0, 0)]


def test_a_clock_that_runs_backwards_does_not_revive_an_older_record() -> None:
    # In partition 0 the record of time 50 replaces that of time 300, so it is as new as that.
    batch = collapse(keyed(0, "a", 300), keyed(1, "a", 50), keyed(0, "a", 200, P1))
    assert [at(r) for r in batch.records] == [("pages", 0, 1)]


@steady
@given(
    st.lists(
        st.tuples(st.sampled_from([P0, P1]), st.sampled_from("ab"), st.integers(0, 3)), min_size=1
    )
)
def test_collapse_keeps_one_record_of_each_id_and_covers_all(
    drawn: list[tuple[TopicPartition, str, int]],
) -> None:
    records = [keyed(i, key, time, tp) for i, (tp, key, time) in enumerate(drawn)]
    batch, again = collapse(*records), collapse(*sorted(records, key=at))
    assert sorted(r.key for r in batch.records) == sorted({r.key for r in records})  # type: ignore[type-var]
    assert sorted(map(at, [*batch.records, *batch.skipped])) == sorted(map(at, records))
    assert sum(b - a + 1 for s in batch.covers for a, b in s.ranges) == len(records)
    assert batch.id == again.id


def test_without_collapse_equal_ids_stay() -> None:
    w = Window("pages", settings(), identity("$key"))
    w.add(Run(P0, 1, [keyed(0, "a"), keyed(1, "a")]), 0.0)
    batch = w.close("drain")
    assert batch is not None
    assert len(batch) == 2


def test_limits_count_records_before_the_collapse() -> None:
    w = Window("pages", settings(max_records=3, collapse=True), identity("$key"))
    (batch,) = w.add(Run(P0, 1, [keyed(i, "a") for i in range(3)]), 0.0)
    assert offsets(batch.records) == [2]


# --- several windows ------------------------------------------------------------------------------


def windows(**others: object) -> Windows:
    return Windows("pages", settings(**others))  # type: ignore[arg-type]


def test_one_window_over_all_partitions_mixes_them() -> None:
    ws = windows(max_records=2)
    ws.add(run(1), 0.0)
    (batch,) = ws.add(run(1, tp=P1), 0.0)
    assert len(batch.spans) == 2


def test_a_window_for_each_partition_never_mixes_them() -> None:
    ws = windows(max_records=2, span="partition")
    assert not ws.add(run(1), 0.0)
    assert not ws.add(run(1, tp=P1), 0.0)
    (batch,) = ws.add(run(1, start=1), 0.0)
    assert [s.tp for s in batch.spans] == [P0]
    assert (ws.records, ws.bytes) == (1, 1)


def test_each_window_has_its_own_age() -> None:
    ws = windows(span="partition", max_age=2.0)
    ws.add(run(1, tp=P1), 10.0)
    ws.add(run(1), 11.0)
    assert ws.due_at() == 12.0
    assert ws.opened_at() == 10.0
    assert ws.due(11.9) == []
    assert ws.due(12.5) == [P1]
    assert set(ws.due(13.0)) == {P0, P1}
    batch = ws.close(P1, "age")
    assert batch is not None
    assert (batch.spans[0].tp, batch.closed_by) == (P1, "age")
    assert ws.due(13.0) == [P0]
    assert ws.close(P0, "age") is not None
    assert ws.due_at() is None


def test_a_window_is_due_at_its_age_and_not_before() -> None:
    ws = windows(max_age=2.0)
    assert ws.due(10.0) == []
    ws.add(run(1), 10.0)
    assert ws.due(12.0 - 1e-6) == []
    assert ws.due(12.0) == [None]
    assert ws.close(None, "age") is not None
    assert ws.due(100.0) == []


def test_closing_all_leaves_nothing_open() -> None:
    ws = windows(span="partition")
    ws.add(run(1), 0.0)
    ws.add(run(1, tp=P1), 0.0)
    assert [b.closed_by for b in ws.close_all("drain")] == ["drain", "drain"]
    assert ws.close_all("drain") == []


def test_the_largest_window_is_the_one_that_makes_most_room() -> None:
    ws = windows(span="partition")
    assert ws.close_largest() is None
    ws.add(run(1), 0.0)
    ws.add(run(50, tp=P1), 0.0)
    batch = ws.close_largest()
    assert batch is not None
    assert batch.spans[0].tp == P1


def test_dropping_forgets_every_window() -> None:
    ws = windows(span="partition")
    ws.add(Run(P0, 1, records_at(P0, range(3))), 0.0)
    ws.drop()
    assert (ws.records, ws.footprint, ws.due_at()) == (0, 0, None)


@pytest.mark.parametrize(
    "document", [{"max_records": 0}, {"max_bytes": "0B"}, {"max_age": "0s"}, {"span": "topic"}]
)
def test_limits_that_let_nothing_through_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, WindowSettings, dec_hook=decode)


def test_another_cap_counts_from_the_next_window_on() -> None:
    w = Windows("pages", settings(max_records=10))
    w.cap(Cap(4, 4096))
    assert [len(b) for b in w.add(run(*[1] * 3), 0.0)] == []
    w.cap(Cap(2, 4096))
    assert w.most_records == 2
    closed = w.add(run(*[1] * 5, start=3), 0.0)
    assert [len(b) for b in closed] == [4, 2, 2], "the one that was open keeps its own"
    w.cap(Cap(3, 4096))
    assert [len(b) for b in w.add(run(*[1] * 6, start=8), 0.0)] == [3, 3], (
        "at once where it is empty"
    )


def test_a_cap_that_is_a_part_of_a_limit_closes_at_the_whole_number_below_it() -> None:
    w = window()
    w.cap(Cap(10 / 3))
    [batch] = w.add(run(1, 1, 1), 0.0)
    assert (len(batch), batch.closed_by, w.records) == (3, "records", 0)


def test_a_cap_never_allows_more_than_the_settings_and_auto_is_bounded_by_it_alone() -> None:
    w = Windows("pages", settings(max_records=2))
    w.cap(Cap(100, 100))
    assert [len(b) for b in w.add(run(*[1] * 4), 0.0)] == [2, 2]
    auto = Windows("pages", WindowSettings(max_records="auto"))
    assert auto.most_records is None
    auto.cap(Cap(3))
    assert [len(b) for b in auto.add(run(*[1] * 6), 0.0)] == [3, 3]

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fakes import P0, P1, P2, FakeRecord, at, batch_of, offsets, records_at
from sluiced.batch import Batch, Run, Span, batch_id
from sluiced.record import TopicPartition
from strategies import runs, steady


def of(*runs: Run, name: str = "pages") -> Batch:
    return Batch.of(name, runs, "records")


def run(tp: TopicPartition, *where: int, epoch: int = 1, value: bytes = b"{}") -> Run:
    return Run(tp, epoch, records_at(tp, where, value))


def test_an_empty_batch_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="never empty"):
        of()


@steady
@given(runs(), st.integers())
def test_partitions_may_come_in_any_order_and_make_the_same_batch(
    stream: list[Run], seed: int
) -> None:
    assume(stream)
    turn = Random(seed)
    # Any order of the partitions among one another; each one's own runs stay in theirs.
    shuffled = [r.tp for r in stream]
    turn.shuffle(shuffled)
    own = {tp: iter([r for r in stream if r.tp == tp]) for tp in shuffled}
    one, other = of(*stream), of(*[next(own[tp]) for tp in shuffled])
    assert one.id == other.id
    assert one.spans == other.spans
    assert list(one.records) == list(other.records)
    assert one.records == sorted(one.records, key=at)


@steady
@given(st.sets(st.integers(0, 30), min_size=1), st.sets(st.integers(0, 30), min_size=1))
def test_two_ids_are_equal_exactly_where_the_offsets_are(a: set[int], b: set[int]) -> None:
    assert (of(run(P0, *sorted(a))).id == of(run(P0, *sorted(b))).id) == (a == b)


def test_the_id_depends_on_the_pipeline_the_topic_and_the_partition() -> None:
    batches = [
        of(run(P0, 1, 2)),
        of(run(P1, 1, 2)),
        of(run(TopicPartition("page", 0), 1, 2)),
        of(run(P0, 1, 2), name="other"),
        of(run(P0, 1), run(P1, 2)),
        of(run(P0, 1, 2), run(P1, 2)),
    ]
    assert len({b.id for b in batches}) == len(batches)


def test_the_id_depends_on_nothing_but_the_coordinates() -> None:
    a = of(run(P0, 1, 2, epoch=1, value=b"a"))
    b = Batch.of("pages", [run(P0, 1, epoch=7), run(P0, 2, epoch=7)], "age", since=99.0)
    assert a.id == b.id


def test_the_id_is_the_same_in_every_release() -> None:
    # A batch that was sent by one release and is sent again by the next must be recognised.
    assert batch_id("pages", [Span(P0, 1, ((0, 4),))]) == "df8383b3d16fdf95184c80e98df1b759"


def test_the_id_is_safe_in_headers_urls_and_file_names() -> None:
    strange = of(run(TopicPartition("a.b_c-" + "x" * 240, 12), 0, 2**62), name="ä/ö\r\n")
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", strange.id)


@steady
@given(runs(), st.data())
def test_a_part_of_a_batch_has_another_id_and_covers_only_itself(
    stream: list[Run], data: st.DataObject
) -> None:
    assume(stream)
    whole = of(*stream)
    chosen = data.draw(st.sets(st.sampled_from(range(len(whole))), min_size=1))
    part = whole.only([whole.records[i] for i in sorted(chosen)])
    if len(chosen) == len(whole):
        assert part is whole
    else:
        assert part.id != whole.id
    assert {at(r) for r in part.records} == covered(part)
    assert part.covers == part.spans


def covered(batch: Batch) -> set[tuple[str, int, int]]:
    return {
        (*span.tp, offset)
        for span in batch.covers
        for first, last in span.ranges
        for offset in range(first, last + 1)
    }


@steady
@given(runs())
def test_the_halves_are_the_whole_in_order_and_both_have_ids_of_their_own(
    stream: list[Run],
) -> None:
    assume(sum(len(r.records) for r in stream) > 1)
    whole = of(*stream)
    first, second = whole.halves()
    assert [*first.records, *second.records] == list(whole.records)
    assert abs(len(first) - len(second)) <= 1
    assert len({whole.id, first.id, second.id}) == 3


def test_a_part_keeps_the_epoch_the_reason_and_the_time() -> None:
    whole = Batch.of("pages", [run(P0, 1, 2, epoch=5), run(P1, 1, epoch=6)], "age", since=12.5)
    part = whole.only(whole.records[1:])
    assert [(s.tp, s.epoch, s.ranges) for s in part.spans] == [
        (P0, 5, ((2, 2),)),
        (P1, 6, ((1, 1),)),
    ]
    assert (part.closed_by, part.since, part.pipeline) == ("age", 12.5, "pages")


def test_a_part_with_skipped_records_covers_those_too() -> None:
    whole = of(run(P0, 1, 2), run(P1, 1))
    part = whole.only([whole.records[0]], skipped=whole.records[1:])
    assert covered(part) == covered(whole)
    assert part.spans == (Span(P0, 1, ((1, 1),)),)
    assert part.id == of(run(P0, 1)).id


def test_the_topic_is_known_where_there_is_one() -> None:
    assert of(run(P0, 1), run(P1, 1)).topic == "pages"
    assert of(run(P0, 1), run(TopicPartition("news", 0), 1)).topic is None


def test_the_newest_record_of_each_partition_is_its_last() -> None:
    batch = of(run(P2, 9), run(P0, 1, 2, 7), run(P1, 4, 5))
    assert [(tp, r.offset) for tp, r in batch.newest()] == [(P0, 7), (P1, 5), (P2, 9)]


def test_the_size_counts_value_bytes_and_the_footprint_more() -> None:
    batch = of(Run(P0, 1, [FakeRecord(value=b"abcd"), FakeRecord(offset=1, value=None)]))
    assert batch.size == 4
    assert batch.footprint > batch.size


def test_runs_of_one_partition_are_joined_in_the_order_they_came() -> None:
    batch = of(run(P0, 3, 4), run(P1, 0), run(P0, 5, 8))
    assert offsets(batch.records) == [3, 4, 5, 8, 0]
    assert batch.spans[0].ranges == ((3, 5), (8, 8))


def test_a_batch_of_consecutive_offsets_is_one_range() -> None:
    assert batch_of(1000).spans == (Span(P0, 1, ((0, 999),)),)


def test_the_oldest_record_of_each_partition_is_its_first() -> None:
    runs = [Run(P1, 1, records_at(P1, [7, 9])), Run(P0, 1, records_at(P0, [3, 4, 8]))]
    assert list(map(at, Batch.of("pages", runs, "age").firsts())) == [
        ("pages", 0, 3),
        ("pages", 1, 7),
    ]


def test_its_ranges_are_named_as_the_tools_take_them() -> None:
    runs = [Run(P1, 1, records_at(P1, [7])), Run(P0, 1, records_at(P0, [0, 1, 2, 5]))]
    assert Batch.of("pages", runs, "age").ranges == "pages/0/0-2,pages/0/5-5,pages/1/7-7"

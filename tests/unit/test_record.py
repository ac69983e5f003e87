from __future__ import annotations

import itertools
import sys

from hypothesis import given
from hypothesis import strategies as st

from fakes import P0, FakeRecord, records_at
from sluiced.record import OVERHEAD, TopicPartition, footprint_of, ranges_of, size_of, without
from strategies import steady


@steady
@given(st.sets(st.integers(0, 60), min_size=1))
def test_the_ranges_hold_exactly_the_offsets_of_the_records(where: set[int]) -> None:
    ranges = ranges_of(records_at(P0, sorted(where)))
    assert {o for first, last in ranges for o in range(first, last + 1)} == where


@steady
@given(st.sets(st.integers(0, 60), min_size=1))
def test_there_are_as_few_ranges_as_there_can_be(where: set[int]) -> None:
    ranges = ranges_of(records_at(P0, sorted(where)))
    assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(ranges))


@steady
@given(st.sets(st.integers(0, 60), min_size=1), st.sets(st.integers(0, 60), min_size=1))
def test_ranges_without_others_hold_exactly_what_is_left(one: set[int], other: set[int]) -> None:
    ranges = [ranges_of(records_at(P0, sorted(where))) for where in (one, other)]
    left = without(*ranges)
    assert [o for first, last in left for o in range(first, last + 1)] == sorted(one - other)


def test_the_size_is_that_of_the_values_and_a_tombstone_has_none() -> None:
    assert size_of([FakeRecord(value=b"abc", key=b"k"), FakeRecord(value=None)]) == 3


def test_the_footprint_counts_keys_headers_and_the_objects_as_well() -> None:
    bare = FakeRecord(value=b"abc")
    full = FakeRecord(value=b"abc", key=b"k" * 100, headers=[("name", b"v" * 50)])
    assert footprint_of([bare], 3) == 3 + OVERHEAD
    assert footprint_of([full], 3) >= 3 + OVERHEAD + 100 + 4 + 50


def test_the_footprint_takes_a_header_without_a_value() -> None:
    assert footprint_of([FakeRecord(headers=[("name", None)])], 2) > 2 + OVERHEAD  # type: ignore[list-item]


def test_the_overhead_covers_what_an_object_with_its_fields_takes() -> None:
    record = FakeRecord(offset=10**9)
    parts = [record, record.offset, record.timestamp, b"", b"", ()]
    assert sum(map(sys.getsizeof, parts)) <= OVERHEAD


def test_a_topic_partition_equals_the_one_of_the_kafka_client() -> None:
    from aiokafka import TopicPartition as KafkaTopicPartition

    assert {KafkaTopicPartition("pages", 3): 1}[TopicPartition("pages", 3)] == 1  # type: ignore[index]

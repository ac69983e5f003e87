"""A redrive sends nothing of which it could not remember that it was sent."""

from __future__ import annotations

from random import Random

import pytest

from fakes import FakeRecord
from sluiced.errors import SluicedError
from sluiced.record import TopicPartition
from sluiced.redrive.done import LONGEST, Done
from sluiced.redrive.letter import Letter
from sluiced.redrive.memory import Memory

TP = TopicPartition("pages.dead", 0)


def memory(done: Done) -> Memory:
    return Memory(None, "pages-to-cms.redrive", {TP: done})


def letter(offset: int) -> Letter:
    return Letter(FakeRecord(TP.topic, TP.partition, offset), "unknown")


def test_what_is_to_be_sent_is_not_yet_sent() -> None:
    before = memory(Done(3))
    after = before.with_these([letter(3), letter(5)])
    assert after == {TP: Done(4, [(5, 5)])}
    assert letter(3) not in before
    before.done = after
    assert letter(3) in before
    assert letter(4) not in before
    assert letter(5) in before


def test_a_gap_is_refused_where_no_metadata_is_kept() -> None:
    forgetful = memory(Done(3))
    forgetful.keeps = False
    assert forgetful.with_these([letter(3), letter(4)]) == {TP: Done(5)}
    with pytest.raises(SluicedError, match="letters before 5 are passed over") as refused:
        forgetful.with_these([letter(3), letter(5)])
    assert "--pass-over" in refused.value.hint


def test_more_gaps_than_metadata_holds_are_refused_before_anything_is_sent() -> None:
    random = Random(1)
    done = Done(0)
    offset = 0
    while len(done.metadata()) < LONGEST:
        offset += random.randrange(2, 200)
        done.add(offset, offset)
    full = memory(done)
    with pytest.raises(SluicedError, match="more than a commit's metadata can hold"):
        full.with_these([letter(offset + 2), letter(offset + 5)])
    assert len(done.ranges) > 2000, "metadata holds this many at the very least"

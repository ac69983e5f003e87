"""What hypothesis draws for more than one test."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from fakes import P0, P1, P2, FakeRecord
from sluiced.batch import Run
from sluiced.record import TopicPartition

# No deadline for one example: a shared machine is slow at times, and that is no finding.
steady = settings(deadline=None)

tps = st.sampled_from([P0, P1, P2, TopicPartition("news", 0)])


@st.composite
def runs(draw: st.DrawFn, max_runs: int = 12, max_run: int = 12, least: int = 0) -> list[Run]:
    """A stream as it is fetched: runs of some partitions, with gaps between offsets.

    `least` is the size of the smallest value; with 0 there are tombstones as well.
    """
    position: dict[TopicPartition, int] = {}
    stream = []
    for tp in draw(st.lists(tps, max_size=max_runs)):
        records = []
        sizes = st.one_of(st.integers(least, 12), st.just(40), *([] if least else [st.none()]))
        for size, gap in draw(
            st.lists(
                st.tuples(sizes, st.sampled_from([0, 0, 0, 1, 5])), min_size=1, max_size=max_run
            )
        ):
            offset = position.get(tp, 0) + gap
            value = None if size is None else b"x" * size
            records.append(FakeRecord(tp.topic, tp.partition, offset, value))
            position[tp] = offset + 1
        stream.append(Run(tp, 1, records))
    return stream

"""Notices a fetcher that died in silence: the log has records, and none comes."""

from __future__ import annotations

from .errors import SourceError
from .record import TopicPartition

STALL = 300.0  # seconds without a record, although the log has some, before we say so and die


class Stall:
    """Where each partition stood when it last moved or had no reason to. Told the time."""

    def __init__(self) -> None:
        self._moved: dict[TopicPartition, tuple[int, float]] = {}

    def check(self, tp: TopicPartition, position: int, behind: bool, now: float) -> None:
        """`behind` is whether there are records that we want. Raises SourceError after `STALL`."""
        before, since = self._moved.get(tp, (-1, now))
        if position != before or not behind:
            self._moved[tp] = (position, now)
        elif now - since > STALL:
            raise SourceError(
                f"{tp} has records beyond {position}, and none has come for {now - since:.0f} s",
                "The daemon ends so that it is started afresh; look at the broker's log if it "
                "happens again.",
            )

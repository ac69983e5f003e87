"""Records that may not be sent, on their way from the intake to the dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .batch import Span
from .bell import Bells
from .burial import Burial
from .committer import Committer
from .ports import DeadLetter
from .record import Record, TopicPartition, footprint_of, ranges_of, size_of
from .tasks import Tasks


class Invalid:
    """Buries them beside the line, each run of them in a task of its own."""

    def __init__(self, burial: Burial, committer: Committer, tasks: Tasks, bells: Bells) -> None:
        self._burial = burial
        self._committer = committer
        self._tasks = tasks
        self._bells = bells
        self._footprints: dict[int, int] = {}  # of each run that is on its way

    @property
    def leaving(self) -> bool:
        """Whether there are any."""
        return bool(self._footprints)

    def occupied(self) -> int:
        """Bytes in memory."""
        return sum(self._footprints.values())

    def bury(self, tp: TopicPartition, epoch: int, invalid: Sequence[tuple[Record, str]]) -> None:
        """Each record with what is wrong with it."""
        self._footprints[id(invalid)] = _footprint(invalid)
        self._tasks.start(partial(self._bury, tp, epoch, invalid))

    async def _bury(
        self, tp: TopicPartition, epoch: int, invalid: Sequence[tuple[Record, str]]
    ) -> None:
        records = [record for record, _ in invalid]
        try:
            letters = [DeadLetter(record, "invalid", error) for record, error in invalid]
            while not await self._burial.bury(letters):
                pass
            self._committer.settle([Span(tp, epoch, ranges_of(records))])
        finally:
            del self._footprints[id(invalid)]
            self._bells.left.ring()
            self._bells.moved()


def _footprint(invalid: Sequence[tuple[Record, str]]) -> int:
    records = [record for record, _ in invalid]
    return footprint_of(records, size_of(records))

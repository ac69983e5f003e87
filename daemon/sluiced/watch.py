"""Looks at the ends of the log: for the lag, and for a fetcher that died in silence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import anyio

from .freshness import Pace
from .ledger import Ledger
from .ports import Source
from .record import TopicPartition
from .stall import Stall

OBSERVE_EVERY = 5.0  # seconds between two looks


class Watch:
    """What the last look showed of the partitions that are assigned. `ready` tells of which of them
    records are wanted, `clock` seconds that only go forward."""

    def __init__(
        self,
        source: Source,
        ledger: Ledger,
        ready: Callable[[], Collection[TopicPartition]],
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._ready = ready
        self._clock = clock
        self.ends: Mapping[TopicPartition, int] = {}
        self.starts: Mapping[TopicPartition, int] = {}
        self.pace = Pace()
        self._stall = Stall()

    async def run(self) -> None:
        while True:
            await anyio.sleep(OBSERVE_EVERY)
            self.ends = await self._source.ends(OBSERVE_EVERY)
            self.starts = await self._source.starts(OBSERVE_EVERY)
            ready = set(self._ready())
            checkpoints = self._ledger.last_committed()
            here = {tp: end for tp, end in self.ends.items() if tp in checkpoints}
            self.pace.look(self._clock(), here, checkpoints)
            for tp in here:
                behind = tp in ready and self._ledger.position(tp) < self.ends[tp]
                self._stall.check(tp, self._ledger.position(tp), behind, self._clock())

    def forget(self) -> None:
        """The partitions are no longer ours."""
        self.ends = self.starts = {}
        self._stall = Stall()
        self.pace.forget()

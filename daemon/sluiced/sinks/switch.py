"""The sink of the moment: it can be replaced while requests are under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import anyio

from ..batch import Batch
from ..outcome import Again, Outcome, Refused, TooLarge
from ..ports import Identifies, JobResult, JobSink, OnCancel, Progress, Sink, Submitted, Undecided
from ..record import Record

CLOSE_TIMEOUT = 5.0  # seconds; connections that are not closed by then are left to themselves


class Replaceable(Sink, Protocol):
    """A sink with a life of its own."""

    async def open(self) -> None:
        """Makes ready to send. Raises ConfigError."""
        ...

    async def close(self) -> None: ...

    def successor(self, settings: Any) -> Self:
        """One for the same pipeline by other settings, not open yet."""
        ...


T = TypeVar("T", bound=Replaceable)


class Switch(Generic[T]):
    """Implements ports.Sink by whichever sink is `current` when a request begins.

    One that was replaced is closed once the last request that it was given has ended.
    """

    def __init__(self, sink: T) -> None:
        self.current = sink
        self._under_way: Counter[T] = Counter()

    @property
    def identifies(self) -> Identifies:
        return self.current.identifies

    def objection(self, record: Record) -> str | None:
        return self.current.objection(record)

    async def open(self) -> None:
        await self.current.open()

    async def close(self) -> None:
        await self.current.close()

    async def send(self, batch: Batch) -> Outcome:
        async with self._used() as sink:
            return await sink.send(batch)

    @asynccontextmanager
    async def _used(self) -> AsyncIterator[T]:
        """The sink of the moment, which is not closed before this is over."""
        sink = self.current
        self._under_way[sink] += 1
        try:
            yield sink
        finally:
            self._under_way[sink] -= 1
            await self._close_if_done(sink)

    # What a sink of jobs has besides: see ports.JobSink. A download that a replacement cuts off is
    # begun again.

    @property
    def most_jobs(self) -> int:
        return self._jobs.most_jobs

    @property
    def poll_every(self) -> float:
        return self._jobs.poll_every

    @property
    def on_cancel(self) -> OnCancel:
        return self._jobs.on_cancel

    async def submit(self, batch: Batch, name: str) -> Submitted | Again | Refused | TooLarge:
        async with self._used() as sink:
            return await cast("JobSink", sink).submit(batch, name)

    async def find(
        self, batch: Batch, name: str, known: Collection[str], *, whole: bool = True
    ) -> Submitted | Undecided | Again | None:
        async with self._used() as sink:
            return await cast("JobSink", sink).find(batch, name, known, whole=whole)

    async def poll(self, job: str) -> Progress | Again:
        async with self._used() as sink:
            return await cast("JobSink", sink).poll(job)

    def results(self, job: str) -> AsyncIterator[JobResult]:
        return self._jobs.results(job)

    async def cancel(self, job: str) -> Again | None:
        async with self._used() as sink:
            return await cast("JobSink", sink).cancel(job)

    @property
    def _jobs(self) -> JobSink:
        return cast("JobSink", self.current)

    async def replace(self, sink: T) -> None:
        """Every request from now on goes to `sink`, which is open."""
        former, self.current = self.current, sink
        await self._close_if_done(former)

    async def _close_if_done(self, sink: T) -> None:
        if sink is self.current or self._under_way[sink]:
            return
        del self._under_way[sink]
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await sink.close()

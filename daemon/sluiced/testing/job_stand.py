"""What whoever tests a sink of jobs writes: whoever works on the jobs, and what may go wrong."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from ..batch import Batch
from ..outcome import Fate
from ..ports import JobResult, Progress, Submitted, Undecided
from ..record import TopicPartition
from ..sinks.job_settings import ConfiguredJobs, JobSettings
from ..sinks.settings import Line
from .stand import AnyStand

Where = tuple[TopicPartition, int]

# Of the form that the daemon's names have; the longest that may come.
NAME, OTHER = "0123456789abcdef" * 2 + ".89abcdef-" + "9" * 22, "f" * 32 + "-1"


class JobStand(AnyStand[ConfiguredJobs]):
    """The real thing behind a sink of jobs, and what a test may do to it.

    `once` is True where the sink promises that a batch which is submitted twice under a name is one
    job.
    """

    line: Line = Line("pages", ["pages"])
    once = False

    @abstractmethod
    def settings(self, **keys: Any) -> JobSettings:
        """The sink's settings, with these keys as they would stand in a file."""

    @abstractmethod
    async def jobs(self) -> int:
        """How many jobs have ever been made."""

    @abstractmethod
    async def begin(self) -> None:
        """Each job that is at work comes to be half done."""

    @abstractmethod
    async def finish(self) -> None:
        """Each job ends: one that was cancelled as it is, the others when all is done."""

    @abstractmethod
    def number(self, body: bytes) -> int:
        """Of which record, by its `n`, this is the answer."""

    @abstractmethod
    async def wait(self, seconds: float) -> None:
        """So much time goes by, for the sink and for what is behind it."""

    def lost(self) -> AbstractAsyncContextManager[None] | None:
        """Inside of it a job is made, and the answer is lost. None: that cannot be done."""
        return None

    def broken(self) -> AbstractAsyncContextManager[None] | None:
        """Inside of it results break off before their end. None: that cannot be done."""
        return None

    async def untouched(self) -> bool:
        return not await self.jobs()


async def submitted(sink: ConfiguredJobs, batch: Batch, name: str = NAME) -> str:
    """The job that was made of it."""
    answer = await sink.submit(batch, name)
    assert isinstance(answer, Submitted), answer
    return answer.job


async def found(
    stand: JobStand,
    sink: ConfiguredJobs,
    batch: Batch,
    known: Sequence[str] = (),
    *,
    name: str = NAME,
    whole: bool = True,
) -> str | None:
    """What is found under a name, once it can be said."""
    for _ in range(3):
        answer = await sink.find(batch, name, known, whole=whole)
        if not isinstance(answer, Undecided):
            assert answer is None or isinstance(answer, Submitted), answer
            return None if answer is None else answer.job
        if answer.job:
            await stand.finish()  # once it has ended that can be said
        await stand.wait(sink.poll_every)
    pytest.fail(f"it is still not said whether there is a job: {answer}")


async def ended(sink: ConfiguredJobs, job: str) -> Progress:
    progress = await sink.poll(job)
    assert isinstance(progress, Progress), progress
    assert progress.state == "ended", progress
    return progress


async def results(sink: ConfiguredJobs, job: str) -> dict[Where | None, JobResult]:
    """By the record that each is about, none of which may be there twice."""
    all_of_them = [result async for result in sink.results(job)]
    by_record = {result.where: result for result in all_of_them}
    assert len(by_record) == len(all_of_them), "a record has two results"
    return by_record


def places(batch: Batch) -> set[Where | None]:
    return {(TopicPartition(r.topic, r.partition), r.offset) for r in batch.records}


def fates(of: dict[Where | None, JobResult]) -> set[Fate]:
    return {result.verdict.fate for result in of.values()}

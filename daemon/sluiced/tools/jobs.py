"""The jobs of a group, as its checkpoint's metadata tells of them and the API says how they are.

Nobody joins the group: the daemon may run meanwhile, and goes on with what was cancelled here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import msgspec

from ..config import Config
from ..errors import SluicedError
from ..kafka.peek import where_a_daemon_would_start
from ..kafka.scan import existing, reading
from ..metadata import ForeignPlanError, decode
from ..outcome import Again
from ..plan import Work
from ..ports import JobSink, Progress
from ..prices import Prices
from ..record import TopicPartition
from ..recovery import regrouped
from ..sinks.job_settings import JobSettings
from . import costs
from .text import count, fields, table


@dataclass(frozen=True, slots=True)
class Found:
    """A batch that is a job, or is about to be one again; what the API says where it was asked.

    `costs` is what all of its records are likely to take, where that was looked up.
    """

    work: Work
    said: Progress | Again | None
    most: int  # jobs that it may become
    costs: str = ""

    @property
    def job(self) -> str:
        return self.work.jobs[-1]

    @property
    def state(self) -> str:
        if self.work.written:
            return "taken in, goes again"
        if isinstance(self.said, Progress):
            gone = self.said.state == "missing"
            return "not there any more" if gone else self.said.status or self.said.state
        return "not known" if self.said is None else f"not known: {self.said.error}"

    @property
    def done(self) -> str:
        known = isinstance(self.said, Progress) and self.said.total
        return f"{self.said.done:,}/{self.said.total:,}" if known else "-"  # type: ignore[union-attr]

    @property
    def attempt(self) -> str:
        return f"{len(self.work.jobs)} of {self.most}"

    @property
    def ranges(self) -> str:
        return ",".join(f"{tp}/{first}-{last}" for tp, (first, last) in self.work.spans.items())

    @property
    def error(self) -> str:
        return "" if self.said is None else self.said.error

    @property
    def cancellable(self) -> bool:
        return isinstance(self.said, Progress) and self.said.state == "working"


async def find(config: Config) -> list[Found]:
    """All jobs of the group, in the order of their offsets. Raises SluicedError."""
    works = await _works(config)
    async with _opened(config) as sink:
        return [await _looked_at(config, sink, work) for work in works]


async def show(config: Config, job: str) -> Found:
    """One job. Raises SluicedError where the group has no such job."""
    work = _named(config, await _works(config), job)
    async with _opened(config) as sink:
        found = await _looked_at(config, sink, work)
        expected = await costs.of_records(config, sink, work.spans)
        text = costs.as_text(expected, Prices(config.prices)) if expected else ""
        return replace(found, costs=text)


async def cancel(config: Config, job: str, *, really: bool) -> Found:
    """Asks the API to end a job of this group, where that is really meant. Raises SluicedError
    where there is nothing to be cancelled."""
    work = _named(config, await _works(config), job)
    async with _opened(config) as sink:
        if work.at_work != job:
            raise SluicedError(f"job {job} has ended", "Its results are taken in already.")
        found = await _looked_at(config, sink, work)
        if isinstance(found.said, Again):
            raise SluicedError(f"job {job} cannot be looked at: {found.error}", _API)
        if not found.cancellable:
            raise SluicedError(
                f"job {job} is not at work any more: {found.state}",
                "The daemon takes its results in by itself.",
            )
        if not really:
            return found
        if (trouble := await sink.cancel(job)) is not None:
            raise SluicedError(f"job {job} could not be cancelled: {trouble.error}", _API)
        return await _looked_at(config, sink, work)


_API = "Try it again in a while; `sluiced check CONFIG --connect` says whether the API can be used."


async def _looked_at(config: Config, sink: JobSink, work: Work) -> Found:
    said = await sink.poll(work.at_work) if work.at_work else None
    return Found(work, said, config.retry.max_item_attempts)


def as_text(found: Sequence[Found], width: int) -> Iterator[str]:
    """A line for each job; its id stands last, where it is never cut in the middle."""
    if not found:
        yield "no jobs: nothing of this group is at the API"
        return
    known = [
        f.state if isinstance(f.said, Progress) or f.work.written else "not known" for f in found
    ]
    rows = [(f.done, f.attempt, state, f.job) for f, state in zip(found, known, strict=True)]
    yield from table(("DONE", "ATTEMPT", "STATE", "JOB"), rows, width)
    yield count(len(found), "job")
    # Mostly it is the same for all of them.
    for error in dict.fromkeys(f.error for f in found if isinstance(f.said, Again)):
        yield from fields([("not known", error)], width)


def one_as_text(found: Found, width: int) -> list[str]:
    """All that is known of a job."""
    pairs = [
        ("job", found.job),
        ("state", found.state),
        ("done", found.done),
        ("batch", found.work.id),
        ("records", found.ranges),
        ("attempt", found.attempt),
        ("jobs before", ", ".join(found.work.jobs[:-1]) or "none"),
    ]
    if found.costs:
        pairs.append(("estimated", found.costs))
    if isinstance(found.said, Progress) and found.said.error:
        pairs.append(("error", found.said.error))
    return fields(pairs, width)


def cancelled_as_text(found: Found, config: Config, width: int, *, really: bool) -> list[str]:
    """What has become of it or would, and what the daemon will do about it."""
    kinds = {
        "again": f"goes into a next job at once; this one was attempt {found.attempt}. "
        'sink.on_cancel = "halt" or "dead-letter" is another choice, and takes effect by SIGHUP',
        "halt": "waits: the daemon halts, and submits it again once you send SIGHUP",
        "dead-letter": "becomes dead letters, with the reason cancelled",
    }
    on_cancel = cast("JobSettings", config.sink).on_cancel
    pairs = [
        ("job", found.job),
        ("state", found.state if really else f"{found.state}; it would be cancelled"),
        ("done", f"{found.done}; what the API has done by the end is taken in, and paid for"),
        ("the rest", kinds[on_cancel]),
    ]
    lines = fields(pairs, width)
    return lines if really else [*lines, "Nothing was cancelled; --yes cancels it."]


def as_json(found: Sequence[Found]) -> str:
    """One document for scripts."""
    jobs: list[dict[str, Any]] = [
        {
            "job": f.job,
            "jobs": list(f.work.jobs),
            "state": f.state,
            "done": f.said.done if isinstance(f.said, Progress) else None,
            "total": f.said.total if isinstance(f.said, Progress) else None,
            "attempt": len(f.work.jobs),
            "error": f.error or None,
            "batch": f.work.id,
            "records": f.ranges,
        }
        for f in found
    ]
    return msgspec.json.encode({"jobs": jobs}).decode()


async def _works(config: Config) -> list[Work]:
    async with reading(config.kafka) as reader:
        topics = await existing(config.kafka, config.kafka.topics, "kafka.topics")
        tps = [TopicPartition(topic, n) for topic, many in topics.items() for n in range(many)]
        starts = await where_a_daemon_would_start(config.kafka, reader, tps)
    plans = {}
    for tp, start in starts.items():
        try:
            plans[tp] = decode(start.position, start.metadata, str(tp))
        except ForeignPlanError:
            continue
    works, _, _ = regrouped(plans, {tp: start.end for tp, start in starts.items()})
    return [work for work in works if work.jobs]


def _named(config: Config, works: Sequence[Work], job: str) -> Work:
    found = next((work for work in works if job in work.jobs), None)
    if found is None:
        raise SluicedError(
            f"group {config.kafka.group_id} has no job {job}",
            "`sluiced jobs list CONFIG` shows those that it has. One that was taken in is none of "
            "them any more, and one of another pipeline needs that one's configuration.",
        )
    return found


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[JobSink]:
    if not isinstance(config.sink, JobSettings):
        kind = str(config.sink.__struct_config__.tag)
        raise SluicedError(
            f'a sink of type "{kind}" makes no jobs', "Give the configuration of one that does."
        )
    sink = config.sink.build(config.line)
    await sink.open()
    try:
        yield cast("JobSink", sink)
    finally:
        await sink.close()

"""What can be seen of jobs from outside: for `/status` and for gauges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ..gauges import JobState
from .book import Job

SHOWN = 50  # the oldest; of the others it is told how many there are


def state(job: Job) -> JobState:
    if job.work.at_work is None:
        return "waiting"
    working = job.progress is None or job.progress.state == "working"
    return "working" if working and not job.taking_in else "ended"


def states(jobs: Iterable[Job]) -> Mapping[JobState, int]:
    return Counter(map(state, jobs))


def age(job: Job, now: float, wall: float) -> float:
    """Seconds since the API made it, or where it has not said when, since we know of it."""
    created = None if job.progress is None else job.progress.created
    return max(0.0, now - job.since if created is None else wall - created)


def oldest(jobs: Iterable[Job], now: float, wall: float) -> float:
    """The age of the oldest one that the API is to work on; 0 if there is none."""
    return max((age(job, now, wall) for job in jobs if state(job) == "working"), default=0.0)


def unseen(jobs: Iterable[Job], now: float) -> float:
    """Seconds since the API last said how a job is, of that for which it is the longest."""
    return max((now - job.seen for job in jobs if state(job) == "working"), default=0.0)


def report(jobs: Iterable[Job], now: float, wall: float) -> dict[str, Any]:
    """As part of the body of `/status`."""
    found = sorted(jobs, key=lambda job: -age(job, now, wall))
    return {
        **{name: states(found).get(name, 0) for name in ("working", "ended", "waiting")},
        "oldest_seconds": round(oldest(found, now, wall), 3),
        "unseen_seconds": round(unseen(found, now), 3),
        "shown": [_job(job, now, wall) for job in found[:SHOWN]],
        "more": max(0, len(found) - SHOWN),
    }


def _job(job: Job, now: float, wall: float) -> dict[str, Any]:
    work, progress = job.work, job.progress
    return {
        "job": work.at_work,
        "batch": work.id,
        "state": state(job),
        "status": None if progress is None else progress.status or None,
        "done": None if progress is None else progress.done,
        "total": None if progress is None else progress.total,
        "age_seconds": round(age(job, now, wall), 3),
        "attempt": len(work.jobs) + (work.at_work is None),
        "partitions": [str(tp) for tp in sorted(work.spans)],
    }

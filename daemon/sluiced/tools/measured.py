"""Whether `[sink] timeout` has room for the requests that a running daemon has seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

from ..config import Config
from ..errors import Problem, SluicedError
from ..sinks.job_settings import JobSettings
from ..units import Duration
from .status import address_of, ask

ROOM = 2  # times what is to be expected; an API has slower days than the last few batches
LIKE = 0.5  # of a full window: what a much smaller batch took tells nothing of it


async def problems(config: Config) -> list[Problem]:
    """None where no daemon answers at `[admin] listen`, or another pipeline's does; nor where what
    a batch takes is not what its request does: with budgets it waits, and a job is not answered."""
    if any(config.limits.budgets()) or isinstance(config.sink, JobSettings):
        return []
    try:
        status, _ = await ask(address_of(config.admin))
    except SluicedError:
        return []
    return list(tight(config, status)) if status.get("pipeline") == config.name else []


def tight(config: Config, status: Mapping[str, Any]) -> Iterator[Problem]:
    """What the last batches of this `/status` say about the timeout.

    A batch that is half full is taken to need twice its time when it is full, which is the most
    that it can be. Those that needed several attempts tell nothing of one.
    """
    full = config.window.max_records
    once = [b for b in status["recent_batches"] if b["attempts"] == 1]
    if full != "auto":
        once = [b for b in once if b["records"] >= LIKE * full]
    slowest = max(once, key=lambda b: b["seconds"], default=None)
    if slowest is None:
        return
    records, took = slowest["records"], slowest["seconds"]
    expected = took if full == "auto" else took * max(1.0, full / records)
    if expected * ROOM <= config.sink.timeout:
        return
    more = ""
    if expected > took:
        more = f", so that one of window.max_records = {full} may take {_text(expected)}"
    yield Problem(
        "sink.timeout",
        f"the slowest of the running daemon's last batches took {_text(took)} for {records} "
        f"records{more}; a request that is given up is made again from the start, so raise this to "
        f"{Duration(ceil(expected * ROOM))} or lower window.max_records",
        "warning",
        str(config.sink.timeout),
    )


def _text(seconds: float) -> str:
    return f"{seconds:.1f}s"

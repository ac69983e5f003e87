"""Interleaved rounds of all contestants over the same records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from brokers.base import unique

from .contestants import Contestant, DidNotFinishError, Running, Site, running
from .server import Result, Server

_POLL_SECONDS = 0.1
_QUIET_SECONDS = 0.5  # after the last record, in which one that comes twice would show up
_START_SECONDS = 60.0  # to the first request
_STANDSTILL_SECONDS = 20.0  # without a request, while records are missing


@dataclass(frozen=True)
class Run:
    """One contestant, once. `rate` in records/s, `cpu` in microseconds a record, `rss` in bytes."""

    rate: float
    cpu: float
    rss: int
    requests: int
    lost: int
    duplicated: int


@dataclass(frozen=True)
class Standing:
    """One contestant over all rounds: medians, but the worst of memory, lost and duplicated.

    The ratios are medians of the ratios within a round: what slows the machine down for a while
    slows down neighbours alike.
    """

    rate: float
    cpu: float
    rss: int
    requests: int
    lost: int
    duplicated: int
    rate_ratio: float
    cpu_ratio: float


def measure(server: Server, command: Sequence[str], records: int) -> Run:
    """Runs a contestant until every record has come. Raises DidNotFinishError."""
    with running(command) as contestant:
        server.begin(contestant.pid)
        _await_all(server, contestant, records)
        rss = contestant.peak_rss()
    return _run(server.result(records), rss)


def _await_all(server: Server, contestant: Running, records: int) -> None:
    started = time.monotonic()
    while True:
        time.sleep(_POLL_SECONDS)
        progress = server.progress()
        came, idle = int(progress["records"]), progress["idle"]
        if came >= records and idle > _QUIET_SECONDS:
            return
        late = not came and time.monotonic() - started > _START_SECONDS
        still = idle > _STANDSTILL_SECONDS
        contestant.check(f"stood still after {came:,} records" if late or still else "")


def _run(result: Result, rss: int) -> Run:
    return Run(
        rate=result.records / result.seconds,
        cpu=result.cpu_seconds / result.records * 1e6,
        rss=rss,
        requests=result.requests,
        lost=result.lost,
        duplicated=result.duplicated,
    )


def compete(
    contestants: Sequence[Contestant],
    site: Site,
    server: Server,
    records: int,
    rounds: int,
    say: Callable[[str], None],
) -> Mapping[str, Standing | None]:
    """One warm-up, which does not count, and so many rounds of everyone in turn.

    The first contestant is what the others are compared with. Who does not finish once is
    out, and has no standing.
    """
    runs: dict[str, list[Run]] = {c.name: [] for c in contestants}
    for number in range(rounds + 1):
        for contestant in contestants:
            name = contestant.name
            if name not in runs:
                continue
            label = f"round {number} of {rounds}" if number else "warm-up"
            try:
                run = measure(server, contestant.command(site, unique("bench")), records)
            except DidNotFinishError as error:
                del runs[name]
                say(f"{label}: {name}: {error}")
                continue
            say(f"{label}: {name}: {run.rate:,.0f} records/s, {run.cpu:.2f} µs CPU a record")
            if number:
                runs[name].append(run)
    base = runs.get(contestants[0].name, [])
    return {c.name: _standing(runs[c.name], base) if c.name in runs else None for c in contestants}


def _standing(runs: Sequence[Run], base: Sequence[Run]) -> Standing:
    pairs = list(zip(runs, base, strict=False))
    return Standing(
        rate=median(r.rate for r in runs),
        cpu=median(r.cpu for r in runs),
        rss=max(r.rss for r in runs),
        requests=max(r.requests for r in runs),
        lost=max(r.lost for r in runs),
        duplicated=max(r.duplicated for r in runs),
        rate_ratio=median(r.rate / b.rate for r, b in pairs) if pairs else float("nan"),
        cpu_ratio=median(r.cpu / b.cpu for r, b in pairs) if pairs else float("nan"),
    )

"""From what was measured to what should stand in the configuration, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from ...budgets import SERVER
from ...config import Config
from ...units import Duration, Size
from ..text import count
from .point import Point
from .sweep import MOST, SLACK, fastest, knee

PATIENCE = 10  # times the slowest answer that was seen: an API has worse days than this one
CLOSE = 1.25  # a failure at so many times the size is what keeps it from being larger
WORTH = 1.2  # times the throughput: what could be more than that without a limit is told
ROOM = 1.5  # times the largest request that was seen, for records that are larger than these

# Seconds; an attempt gets the first of them, however fast the API is.
_STEPS = (5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900, 1800)


@dataclass(frozen=True, slots=True)
class Advice:
    """`values` by key, "window.max_records", as they are written into the file; `reason` is one
    sentence; `remarks` are what else to know before following it."""

    point: Point
    best: Point
    values: Mapping[str, int | str]
    reason: str
    remarks: Sequence[str]


def advise(config: Config, points: Sequence[Point], most: int = MOST) -> Advice | None:
    """None where no setting can be recommended. `most` is how many at once might be tried."""
    point, best = knee(points), fastest(points)
    if point is None or best is None:
        return None
    slowest = _seconds(max(point.latencies))
    values: dict[str, int | str] = {}
    if config.window.max_records != "auto":
        values["window.max_records"] = point.size
    if config.limits.max_in_flight != "auto":
        values["limits.max_in_flight"] = point.concurrency
    values["sink.timeout"] = str(timeout(point))
    if (size := _window_bytes(config, point)) != config.window.max_bytes:
        values["window.max_bytes"] = str(size)
    if (drain := timeout(point)) > config.shutdown.drain:
        values["shutdown.drain"] = str(drain)
    edge = _edge(points)
    if edge is not None and edge.size <= config.sink.max_records:
        values["sink.max_records"] = max(p.size for p in points if p.sound and p.size < edge.size)
    reason = (
        f"{count(point.size, 'record')} a request and {point.concurrency} at once "
        f"{'are the fastest' if point is best else f'come within {SLACK:.0%} of the fastest'} "
        f"setting that was seen ({best.rate:,.0f} records/s): {_why(config, points, point, most)}; "
        f"the slowest answer took {slowest}, for which a timeout of {timeout(point)} has room."
    )
    return Advice(point, best, values, reason, list(_remarks(config, point)))


def timeout(point: Point) -> Duration:
    """For one attempt at this setting: a round number of seconds."""
    wanted = PATIENCE * max(point.latencies)
    return Duration(next((s for s in _STEPS if s >= wanted), ceil(wanted)))


def _window_bytes(config: Config, point: Point) -> Size:
    """What is there if it does, otherwise as much as is needed and fits; `_bounds` of the
    configuration has the same rule for the memory."""
    limits = config.limits
    needed = ceil(point.value_bytes * ROOM / 1024**2) * 1024**2
    slots = limits.slots if limits.max_in_flight == "auto" else point.concurrency
    budgets = (limit for _, what, limit in limits.budgets() if what == "bytes")
    most = min(limits.memory * 3 // 4 // (slots + 2), config.sink.max_bytes, *budgets)
    if needed <= config.window.max_bytes <= most:
        return config.window.max_bytes
    return Size(min(needed, most))


def _edge(points: Sequence[Point]) -> Point | None:
    """The smallest request that was too large for the API."""
    over = (p for p in points if p.stopped == "too large")
    return min(over, key=lambda p: p.size, default=None)


def _why(config: Config, points: Sequence[Point], point: Point, most: int) -> str:
    """What keeps it from being larger, and more at once."""
    if not point.limit:
        return f"{_why_no_larger(points, point)} and {_why_no_more(points, point, most)}"
    if point.limit == SERVER:
        return f"the API bounds it by limits of its own, and {_why_no_larger(points, point)}"
    bounds = f"{named(config, point.limit)}, not the API, is what bounds it"
    if point.limit.startswith("requests"):
        return f"{bounds} at this size, and {_why_no_larger(points, point)}"
    return f"{bounds}, however large requests are and however many at once"


def named(config: Config, limit: str) -> str:
    """A limit with its value, as it stands in the file."""
    if limit == SERVER:
        return "the API's own limits"
    return f"limits.{limit} = {getattr(config.limits, limit)}"


def _why_no_larger(points: Sequence[Point], point: Point) -> str:
    larger = [p for p in points if p.size > point.size]
    over = min((p for p in larger if not p.sound), key=lambda p: p.size, default=None)
    if not larger:
        return "no larger request is allowed or could be made of these records"
    if over is None or over.size > CLOSE * point.size:
        return "larger requests bring nothing more"
    what = {
        "too large": "is too large for the API",
        "timeout": "gets no answer in time",
        "memory": "does not fit into [limits] memory",
        "throttled": "is throttled",
        "failed": "fails",
        "minutes": "does not pass the limits within the minutes",
        None: "is refused",
    }[over.stopped]
    return f"one of {over.size:,} {what}"


def _why_no_more(points: Sequence[Point], point: Point, most: int) -> str:
    more = min(
        (p for p in points if p.concurrency > point.concurrency),
        key=lambda p: p.concurrency,
        default=None,
    )
    if more is None:
        return f"more than {most} at once are not tried"
    if more.stopped == "memory":
        return f"{more.concurrency} at once do not fit into [limits] memory"
    if more.stopped == "minutes":
        return f"{more.concurrency} at once do not pass the limits within the minutes"
    return f"{more.concurrency} at once " + (
        "bring nothing more" if more.sound else f"are too many ({more.stopped})"
    )


def _remarks(config: Config, point: Point) -> Iterator[str]:
    auto = {
        "window.max_records": config.window.max_records,
        "limits.max_in_flight": config.limits.max_in_flight,
    }
    if found := [key for key, value in auto.items() if value == "auto"]:
        yield (
            f'{" and ".join(found)} = "auto" stays as it is: the daemon finds out by itself, and '
            "goes with the API when that changes. What was measured here is what it may find."
        )
    if point.limit and point.unbounded > WORTH * point.rate:
        yield (
            f"Without that limit this setting could do {point.unbounded:,.0f} records/s, as far as "
            "one can tell from how fast the answers came."
        )
    if point.concurrency > 1 and config.limits.max_in_flight == 1:
        yield (
            "limits.max_in_flight = 1 keeps the records of a partition in order; more does not. "
            "Leave it where the API needs that order."
        )
    if config.sink.identified_by == "item":
        yield (
            "The API knows items by their ids and may have had these before: new ones may take it "
            "longer."
        )
    filled = point.size / float(config.window.max_age)
    yield (
        f"A window fills to {count(point.size, 'record')} within window.max_age = "
        f"{config.window.max_age} only where {filled:,.0f} records/s come in."
    )


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"

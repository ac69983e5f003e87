"""What a run of `sluiced tune` would do, and what it has found, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from ...units import Size
from ..text import count, shortened, table
from .advice import Advice, named
from .point import Point
from .tune import Tuned

HEADER = ("RECORDS", "AT ONCE", "REC/S", "P50", "P95", "P99", "CPU", "PEAK", "BOUND BY")
UNITS = {"second": "s", "minute": "min", "hour": "h", "day": "day"}
NOTHING = "No setting can be recommended: nothing was delivered at any."


def planned(tuned: Tuned, width: int) -> list[str]:
    """Before anything is sent."""
    config, options, load = tuned.config, tuned.options, tuned.load
    return [
        f"Would send {count(load['records'], 'record')} of {', '.join(config.kafka.topics)} "
        f"({Size(load['bytes'])} of values) over and over to",
        f"  {config.sink.summary}",
        f"in requests of 1 to {load['largest']:,} records, 1 to {options.at_once} at once, "
        f"{count(options.requests, 'request')} and {options.minutes:g} minutes at most.",
        "These are real records, and what answers there takes them for real: batch ids are new,",
        "so that an API which knows batches takes each one anew. Better tune against a test",
        "system: --url ADDRESS. No checkpoint is touched.",
        *_limits(tuned, width),
        "",
        "Nothing was sent; --yes sends it.",
    ]


def _limits(tuned: Tuned, width: int) -> list[str]:
    """What they mean for a run, if there are any."""
    budgets = [named(tuned.config, name) for name, _, _ in tuned.config.limits.budgets()]
    if not budgets:
        return []
    text = (
        f"{' and '.join(budgets)} {'is' if len(budgets) == 1 else 'are'} kept by this run; a "
        "daemon that runs meanwhile keeps its own, so that both together may be too much."
    )
    passing, minutes = tuned.load["passing"], tuned.options.minutes
    if passing < tuned.options.requests:
        text += f" No more than {count(passing, 'request')} can go out in {minutes:g} minutes."
    return ["", *wrap(text, width)]


def as_text(tuned: Tuned, width: int) -> list[str]:
    """The table, and what follows from it."""
    points, advice = tuned.points, tuned.advice
    lines = table(HEADER, [row(p, advice) for p in ordered(points)], width)
    lines += [line for text in held(tuned) for line in ["", *wrap(text, width)]]
    if found := errors(points):
        lines += ["", "Answers other than a delivery:", *(shortened(e, width) for e in found)]
    if (why := unfinished(tuned)) is not None:
        lines += ["", why]
    if advice is None:
        return [*lines, "", NOTHING]
    lines += ["", *wrap(advice.reason, width), ""]
    lines += [f"  {key} = {shown(value)}" for key, value in advice.values.items()]
    for remark in advice.remarks:
        lines += ["", *wrap(remark, width)]
    return lines


def unfinished(tuned: Tuned) -> str | None:
    """That there would have been more to try, if so."""
    if not (tuned.stopped or tuned.cut_short):
        return None
    why = "It was stopped" if tuned.stopped else "The budget ended"
    return f"{why} before all that would have been worth trying was tried."


def shown(value: int | str) -> str:
    """As it stands in a TOML file."""
    return f'"{value}"' if isinstance(value, str) else str(value)


def seconds(value: float) -> str:
    """Three digits at most: "840 µs", "12 ms", "1.3 s"."""
    if value < 0.001:
        return f"{value * 1_000_000:.0f} µs"
    if value < 1:
        return f"{value * 1000:.{1 if value < 0.01 else 0}f} ms"
    return f"{value:.1f} s"


def rate(value: float) -> str:
    """Of records a second: "0.25", "12", "1,234"."""
    return f"{value:.2g}" if 0 < value < 10 else f"{value:,.0f}"


def size(value: float) -> str:
    """In the unit that leaves it below a thousand."""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def ordered(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda p: (p.concurrency, p.size))


def row(point: Point, advice: Advice | None) -> tuple[str, ...]:
    chosen = advice is not None and point is advice.point
    numbers = (f"{point.size:,}", f"{point.concurrency}")
    if not point.latencies:
        return (*numbers, "", "", "", "", "", "", bound(point))
    return (
        *numbers,
        rate(point.rate),
        *(seconds(point.percentile(part)) for part in (0.5, 0.95, 0.99)),
        f"{point.load:.0%}",
        size(point.peak) if point.peak else "",
        f"<- {bound(point) or 'chosen'}" if chosen else bound(point),
    )


def bound(point: Point) -> str:
    """What bounds this setting, in a few letters: "timeout", "records/min", "server"."""
    if point.stopped == "memory":
        return f"memory ({size(point.memory)})"
    what, _, unit = point.limit.partition("_per_")
    return point.stopped or (f"{what}/{UNITS[unit]}" if unit else what)


def held(tuned: Tuned) -> list[str]:
    """A sentence for each limit that has held requests back, and for what did not fit because of
    one."""
    found = [
        f"{named(tuned.config, limit)} has held requests back for {duration(spent)} of "
        f"{duration(tuned.seconds)}."
        for limit, spent in tuned.held.items()
        if spent >= 1
    ]
    return found + [
        f"{count(point.size, 'record')} a request, {point.concurrency} at once, were not tried: "
        f"{named(tuned.config, point.limit)} takes {duration(point.needed)} to let "
        f"{'one' if point.concurrency == 1 else 'them'} through; --minutes gives more time."
        for point in ordered(tuned.points)
        if point.stopped == "minutes"
    ]


def duration(value: float) -> str:
    """ "45 s", "2 min", "2 min 5 s"."""
    minutes, left = divmod(round(value), 60)
    return " ".join([f"{minutes} min"] * (minutes > 0) + [f"{left} s"] * (left > 0 or not minutes))


def errors(points: Sequence[Point]) -> list[str]:
    return [
        f"  {p.size:,} records, {p.concurrency} at once: {what}, {count(times, 'time')}"
        for p in ordered(points)
        for what, times in p.errors.items()
    ]

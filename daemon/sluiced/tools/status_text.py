"""What a daemon says of itself, as one screen of a terminal.

Whatever a daemon of another version does not say, or says otherwise, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..moments import age
from .text import count, fields, printable, shortened, table

PARTITIONS = 12  # those that lag most; `--json` has all of them
FLIGHTS = BATCHES = 6
JOBS = 8  # the oldest
ERRORS = 3
ERROR_LINES = 3

_PARTITIONS = ("PARTITION", "CHECKPOINT", "POSITION", "END", "LAG", "VISIBLE UNTIL")
_FLIGHTS = ("IN FLIGHT", "RECORDS", "SIZE", "FOR", "ATTEMPTS")
_JOBS = ("DONE", "FOR", "ATTEMPT", "STATE", "JOB")
_BATCHES = ("LATELY", "AGO", "COUNT", "BY", "TOOK", "DELAY", "OUTCOME")


def as_text(status: Mapping[str, Any], not_ready: str, width: int) -> list[str]:
    """Lines of at most `width` columns: what the state is and why, then from the whole to parts."""
    get, now = status.get, _moment(status.get("now"))
    head = f"{get('pipeline', '?')} is {get('state')}, sluiced {get('version', '?')}"
    lines = [shortened(printable(head), width)]
    if why := get("reason") or not_ready:
        lines += fields([("because", str(why))], width)
    lines += ["", *fields(_facts(status), width)]
    if errors := _errors(status, now, width):
        lines += ["", *errors]
    partitions = _list(status, "partitions")
    worst = sorted(partitions, key=_trouble, reverse=True)[:PARTITIONS]
    jobs = _map(status, "jobs")
    known = _list(jobs, "shown")
    tables = (
        (_PARTITIONS, [_partition(p) for p in partitions if p in worst], len(partitions)),
        (_JOBS, list(map(_job, known[:JOBS])), len(known) + int(jobs.get("more") or 0)),
        (_FLIGHTS, *_some(list(map(_flight, _list(status, "in_flight"))), FLIGHTS)),
        (_BATCHES, *_some([_landed(b, now) for b in _list(status, "recent_batches")], BATCHES)),
    )
    for header, rows, total in tables:
        if rows:
            lines += ["", *table(header, rows, width)]
        # Of the batches that are through there are always more.
        if (more := total - len(rows)) and header is not _BATCHES:
            lines.append(f"and {more:,} more")
    return lines


def _facts(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    reload, totals = _map(status, "reload"), _map(status, "totals")
    partitions = _list(status, "partitions")
    lags = [lag for p in partitions if isinstance(lag := p.get("lag"), int)]
    stopped = [_name(p) for p in partitions if p.get("stopped")]
    refused = reload.get("error")
    return [
        ("lag", _lag(status, lags) if lags else "unknown" if partitions else ""),
        ("schedule", _schedule(_map(status, "schedule"))),
        (
            "stopped",
            f"{', '.join(stopped)}: the log is damaged there; the journal has the offset "
            "(partition_stopped), docs/operations.md what to do"
            if stopped
            else "",
        ),
        ("window", _window(_map(status, "window"))),
        ("waiting", _waiting(status)),
        ("recovering", _recovering(_map(status, "recovering"))),
        (
            "totals",
            ", ".join(f"{_number(n)} {str(k).replace('_', '-')}" for k, n in totals.items()),
        ),
        ("limits", ", ".join(map(_limit, _list(status, "limits")))),
        ("reload", f"refused at {reload.get('at')}: {refused}" if refused else ""),
    ]


def _lag(status: Mapping[str, Any], lags: Sequence[int]) -> str:
    text, left = count(sum(lags), "record"), status.get("catch_up_seconds")
    if isinstance(left, int | float) and left > 0:
        return f"{text}, done in about {_seconds(left)}"
    return text if left is not None or "catch_up_seconds" not in status else f"{text}, and growing"


def _schedule(schedule: Mapping[str, Any]) -> str:
    """Only where the clock has a say."""
    get = schedule.get
    parts = [f"every {get('align')}"] if get("align") else []
    if get("active"):
        is_open, until = get("open"), get("changes_at")
        parts.append(f"{'open' if is_open else 'closed'} until {until or 'further notice'}")
        parts.append(f"active {get('active')}")
    return ", ".join(parts)


def _window(window: Mapping[str, Any]) -> str:
    if not window:
        return ""
    get = window.get
    return (
        f"{_number(get('records'))} of {_number(get('max_records'))} records, "
        f"{_size(get('bytes'))} of {_size(get('max_bytes'))}, "
        f"{get('age_seconds', '?')} of {get('max_age_seconds', '?')} s"
    )


def _waiting(status: Mapping[str, Any]) -> str:
    """How long the oldest record has, and closed windows that the gate has not let through yet."""
    seconds, queued = status.get("waiting_seconds"), status.get("queued_batches")
    parts = []
    if isinstance(seconds, int | float) and seconds:
        parts.append(f"the oldest record for {_seconds(seconds)}")
    if isinstance(queued, int) and queued:
        parts.append(f"{count(queued, 'batch', 'batches')} for the gate")
    return ", ".join(parts)


def _recovering(recovering: Mapping[str, Any]) -> str:
    """Only while there is something left of it."""
    if not any(recovering.values()):
        return ""
    forming, formed = _number(recovering.get("forming")), _number(recovering.get("formed"))
    return f"batches of the run before this one: {forming} being read again, {formed} to be sent"


def _limit(limit: Mapping[str, Any]) -> str:
    shown = _size if limit.get("name") == "memory" else _number
    text = f"{limit.get('name', '?')} {shown(limit.get('used'))} of {shown(limit.get('limit'))}"
    holds = limit.get("holds_seconds")
    return f"{text} (holds the next for {_seconds(holds)})" if holds else text


def _errors(status: Mapping[str, Any], now: datetime | None, width: int) -> list[str]:
    """The last errors in full, or nearly so: what they say is what there is to act on."""
    last = _map(status, "last_error")
    errors = _list(status, "recent_errors")[:ERRORS] or ([last] if last else [])
    room = ERROR_LINES * (width - 24)
    pairs = []
    for error in errors:
        times = error.get("times")
        often = f", {times:,} times" if isinstance(times, int) and times > 1 else ""
        when = age(_moment(error.get("at")), now) if now else ""
        label = f"{when} ago{often}" if when else "last error"
        reason = f"{error['reason']}: " if error.get("reason") else ""
        pairs.append((label[:20], shortened(f"{reason}{error.get('text')}", room)))
    return ["last errors, newest first", *fields(pairs, width)] if pairs else []


def _trouble(partition: Mapping[str, Any]) -> tuple[bool, int]:
    lag = partition.get("lag")
    return bool(partition.get("stopped")), lag if isinstance(lag, int) else -1


def _partition(partition: Mapping[str, Any]) -> tuple[str, ...]:
    figures = [_number(partition.get(key)) for key in ("checkpoint", "position", "end", "lag")]
    last = "STOPPED" if partition.get("stopped") else str(partition.get("visible_until") or "")
    return _name(partition), *figures, last


def _flight(flight: Mapping[str, Any]) -> tuple[str, ...]:
    seconds, attempts = flight.get("age_seconds"), _number(flight.get("attempts"))
    records, size = _number(flight.get("records")), _size(flight.get("bytes"))
    return str(flight.get("batch")), records, size, _seconds(seconds), attempts


def _job(job: Mapping[str, Any]) -> tuple[str, ...]:
    total = job.get("total")
    done = f"{_number(job.get('done'))}/{_number(total)}" if total else "-"
    state = str(job.get("state", ""))
    return (
        done,
        _long(job.get("age_seconds")),
        _number(job.get("attempt")),
        str(job.get("status") or state) if state == "working" else state,  # their word for it
        str(job.get("job") or "to be submitted again"),
    )


def _landed(batch: Mapping[str, Any], now: datetime | None) -> tuple[str, ...]:
    attempts = batch.get("attempts")
    again = f" x{attempts:,}" if isinstance(attempts, int) and attempts > 1 else ""
    return (
        str(batch.get("batch")),
        age(_moment(batch.get("at")), now) if now else "",
        _number(batch.get("records")),
        str(batch.get("closed_by", "")),
        _seconds(batch.get("seconds")),
        _seconds(batch.get("delay_seconds")),
        f"{batch.get('outcome', '')}{again}",
    )


def _name(partition: Mapping[str, Any]) -> str:
    return f"{partition.get('topic')}/{partition.get('partition')}"


def _some(rows: Sequence[tuple[str, ...]], most: int) -> tuple[Sequence[tuple[str, ...]], int]:
    return rows[:most], len(rows)


def _list(status: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = status.get(key)
    return [x for x in found if isinstance(x, Mapping)] if isinstance(found, list) else []


def _map(status: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = status.get(key)
    return found if isinstance(found, Mapping) else {}


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else ""


def _seconds(value: object) -> str:
    """Three digits or so: "43ms", "9.5s", "312s"."""
    if not isinstance(value, int | float):
        return ""
    if value < 1:
        return f"{value * 1000:.0f}ms"
    return f"{value:,.{0 if value >= 100 else 1}f}s"


def _long(value: object) -> str:
    """Of what may take a day: "12h", and less than a minute as `_seconds`."""
    if not isinstance(value, int | float) or value < 60:
        return _seconds(value)
    hours, minutes = divmod(int(value) // 60, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m"


def _size(value: object) -> str:
    """To a tenth of the largest unit that it fills: "340 B", "3.3 KiB", "192 MiB"."""
    if not isinstance(value, int | float):
        return ""
    size, units = float(value), ["GiB", "MiB", "KiB"]
    if size < 1024:
        return f"{size:.0f} B"
    while (size := size / 1024) >= 1024 and len(units) > 1:
        units.pop()
    return f"{size:,.1f}".removesuffix(".0") + f" {units[-1]}"

"""Points in time as a person writes and reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from .errors import SluicedError
from .units import Duration


def parse(text: str, now: datetime) -> datetime:
    """A time of RFC 3339 such as "2026-03-01T12:00:00Z", or a duration before `now` such as "2h".

    Raises SluicedError. A time without a zone is refused, since two people would read it as two.
    """
    try:
        return now - timedelta(seconds=Duration.parse(text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise SluicedError(
            f"{text!r} is not a point in time",
            'Write it with its zone, such as "2026-03-01T12:00:00Z", or how long ago it was, '
            'such as "90s", "2h" or "3d".',
        )
    return moment


def parse_optional(text: str | None, now: datetime) -> datetime | None:
    return None if text is None else parse(text, now)


def of_ms(milliseconds: int) -> datetime | None:
    """None for a time that no calendar has, and for a record without a timestamp."""
    if milliseconds < 0:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def rfc3339(moment: datetime | None) -> str | None:
    """To the millisecond, in UTC."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit that it fills: what `parse` takes, too. "" if unknown."""
    if moment is None:
        return ""
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"

"""What the wall clock decides: at which times windows are cut, and when records may be released.

A zone's clock jumps twice a year. Nothing here adds hours to a date: each rule is about what the
clock on the wall shows at an instant, and the instant at which that changes is searched for. An
instant is seconds since 1970.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

from .units import Duration

DAY = 86_400
WEEK = 7 * DAY
HOUR = 3600

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_ZONED = re.compile(r"(.*\S)\s+([A-Za-z][A-Za-z0-9_+/-]*)", re.DOTALL)
_RANGE = re.compile(
    rf"(?:({'|'.join(_DAYS)})(?:-({'|'.join(_DAYS)}))?\s+)?(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII
)


class _Written:
    """A value that is known by its text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(self._text)


class Align(_Written):
    """`[window] align`: multiples of a duration on a zone's clock, counted from midnight.

    Written as "5m", in UTC, or as "1d Europe/Berlin".
    """

    __slots__ = ("every", "zone")

    def __init__(self, text: str, every: int, zone: tzinfo) -> None:
        super().__init__(text)
        self.every = every
        self.zone = zone

    @classmethod
    def parse(cls, text: object) -> Align:
        words = text.split() if isinstance(text, str) else []
        try:
            every = Duration.parse(words[0]) if words else 0.0
        except ValueError:
            every = 0.0
        if len(words) > 2 or every < 1 or every % 1 or DAY % every:
            raise ValueError(
                'expected a duration that divides a day, such as "5m" or "1h", and perhaps a time '
                'zone, such as "1d Europe/Berlin"'
            )
        return cls(" ".join(words), int(every), _zone(words[1]) if words[1:] else UTC)

    def slot(self, wall: float) -> object:
        """What is the same for two instants exactly if no multiple lies between them.

        An hour that the clock shows twice in a night counts twice, but it does not cut anything
        longer: a day is a day, though it has 23 or 25 hours.
        """
        clock = datetime.fromtimestamp(int(wall // 1), self.zone)
        number = _seconds(clock) // self.every
        return clock.date(), number, clock.fold if self.every <= HOUR else 0

    def after(self, wall: float) -> int:
        """The next multiple; where the clock jumps over one, the jump."""
        at, slot = int(wall // 1), self.slot(wall)
        while self.slot(at) == slot:
            clock = datetime.fromtimestamp(at, self.zone)
            at = _until(self.zone, at, at + self.every - _seconds(clock) % self.every)
        return at


class Active(_Written):
    """`[window] active`: the times of the day, and days, at which records may be released.

    Written as "22:00-06:00 Europe/Berlin", or as "Mon-Fri 22:00-06:00, Sat-Sun 00:00-24:00
    Europe/Berlin". A range belongs to the day on which it begins.
    """

    __slots__ = ("_minutes", "edges", "zone")

    def __init__(self, text: str, minutes: bytearray, zone: tzinfo) -> None:
        super().__init__(text)
        self._minutes = minutes  # of a week, from Monday on: 1 where records may be released
        self.zone = zone
        week = [*minutes, minutes[0]]
        changes = {(i + 1) % len(minutes) for i, (a, b) in enumerate(pairwise(week)) if a != b}
        # Minutes of the week at which a range begins or ends.
        self.edges = sorted(changes)

    @classmethod
    def parse(cls, text: object) -> Active:
        match = _ZONED.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                'expected ranges of times and a time zone, such as "22:00-06:00 Europe/Berlin" or '
                '"Mon-Fri 22:00-06:00, Sat-Sun 00:00-24:00 UTC"'
            )
        minutes = bytearray(WEEK // 60)
        for part in match[1].split(","):
            _mark(minutes, part.strip())
        return cls(" ".join(str(text).split()), minutes, _zone(match[2]))

    def at(self, wall: float) -> bool:
        """Whether records may be released, going by what the clock shows.

        So a time that the clock passes over in spring does not come that day, and one that it
        shows twice in autumn comes twice.
        """
        return bool(self._minutes[_minute(datetime.fromtimestamp(int(wall // 1), self.zone))])

    def changes(self, wall: float) -> int | None:
        """The next instant at which `at` is different; None if it always is the same."""
        at, now = int(wall // 1), self.at(wall)
        end = at + WEEK + DAY
        while self.at(at) == now:
            if at > end:
                return None
            at = _until(self.zone, at, at + self._to_edge(at))
        return at

    def _to_edge(self, at: int) -> int:
        """Seconds until a range begins or ends, if the clock is not set before."""
        clock = datetime.fromtimestamp(at, self.zone)
        minute = _minute(clock)
        ahead = min(((edge - minute - 1) % (WEEK // 60) + 1 for edge in self.edges), default=DAY)
        return ahead * 60 - clock.second

    def until(self, wall: float) -> str:
        """When the next change is, for people: "22:00 Europe/Berlin", with its day if that is not
        within a day."""
        change = self.changes(wall)
        if change is None:
            return "for ever"
        clock = datetime.fromtimestamp(change, self.zone)
        day = f"{_DAYS[clock.weekday()]} " if change - wall >= DAY else ""
        return f"{day}{clock:%H:%M} {self._text.rpartition(' ')[2]}"

    def longest_wait(self) -> int:
        """Seconds from the end of a range to the beginning of the next one, at the most."""
        ends = [edge for edge in self.edges if not self._minutes[edge]]
        starts = [edge for edge in self.edges if self._minutes[edge]]
        week = WEEK // 60
        return 60 * max((min((s - e) % week for s in starts) for e in ends), default=0)


class Timetable:
    """Follows the clock for a pipeline. `open` is whether records may be released.

    Told the time, never asks for it. A clock that is set, back or forth, is followed as well.
    """

    def __init__(self) -> None:
        self.open = True
        self._slot: object = None

    def ended(self, active: Active | None, wall: float) -> bool:
        """Looks whether records may be released now; whether the time for it is over just now."""
        before = self.open
        self.open = active is None or active.at(wall)
        return before and not self.open

    def cut(self, align: Align | None, wall: float) -> bool:
        """Whether a multiple has passed since the last look."""
        before, self._slot = self._slot, align and align.slot(wall)
        return before is not None and align is not None and self._slot != before


def _mark(minutes: bytearray, text: str) -> None:
    """Marks one range in every week. Raises ValueError."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(
            f'{text!r} is not a range such as "22:00-06:00" or "Mon-Fri 08:00-18:30"; every range '
            "has its own days"
        )
    first, last = match[1] or "Mon", match[2] or match[1] or "Sun"
    start, end = _of_day(match[3], match[4]), _of_day(match[5], match[6])
    if start == end or start == DAY // 60:
        raise ValueError(f'{text!r} is empty; a whole day is "00:00-24:00"')
    day, count = _DAYS.index(first), (_DAYS.index(last) - _DAYS.index(first)) % 7 + 1
    for n in range(day, day + count):
        for minute in range(start, end if end > start else end + DAY // 60):
            minutes[(n * DAY // 60 + minute) % len(minutes)] = 1


def _of_day(hours: str, minutes: str) -> int:
    """Minutes since midnight; 24:00 is the end of a day."""
    number = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or number > 24 * 60:
        raise ValueError(f"there is no time {hours}:{minutes}; times go from 00:00 to 24:00")
    return number


def _seconds(clock: datetime) -> int:
    return clock.hour * HOUR + clock.minute * 60 + clock.second


def _minute(clock: datetime) -> int:
    return clock.weekday() * (DAY // 60) + _seconds(clock) // 60


def _until(zone: tzinfo, start: int, end: int) -> int:
    """The first instant after `start` at which the zone's clock is set; `end` if there is none
    before. There is at most one between them."""
    before = _offset(zone, start)
    if _offset(zone, end) == before:
        return end
    while end - start > 1:
        middle = (start + end) // 2
        if _offset(zone, middle) == before:
            start = middle
        else:
            end = middle
    return end


def _offset(zone: tzinfo, at: int) -> object:
    return datetime.fromtimestamp(at, zone).utcoffset()


def _zone(name: str) -> tzinfo:
    """Raises ValueError."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        pass
    if not available_timezones():
        raise ValueError(
            f"the time zone {name} is not known, since this machine has no time zones at all; "
            "install the package tzdata"
        )
    raise ValueError(
        f"there is no time zone {name}; write it like Europe/Berlin, America/New_York or UTC"
    )

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluiced.schedule import DAY, Active, Align, Timetable
from sluiced.units import decode
from sluiced.window import WindowSettings
from strategies import steady

BERLIN = ZoneInfo("Europe/Berlin")
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)  # the nights of Berlin's clock changes
# Zones that lose or repeat midnight, half an hour, or nothing; one with an odd offset.
ZONES = ("UTC", "Europe/Berlin", "America/Havana", "Asia/Beirut", "Australia/Lord_Howe")
ZONES = (*ZONES, "Asia/Kathmandu", "America/New_York", "Africa/Casablanca")
INTERVALS = ("1s", "90s", "5m", "15m", "1h", "2h", "6h", "12h", "1d")

instants = st.integers(
    int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()),
    int(datetime(2028, 12, 31, tzinfo=UTC).timestamp()),
)
near_changes = st.builds(
    lambda day, seconds: (
        int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) + seconds
    ),
    st.sampled_from([SPRING, AUTUMN, date(2024, 2, 29), date(2026, 12, 31)]),
    st.integers(-DAY, 2 * DAY),
)


def berlin(day: date, hour: int, minute: int = 0, fold: int = 0) -> float:
    naive = datetime(day.year, day.month, day.day, hour, minute, fold=fold)
    return naive.replace(tzinfo=BERLIN).timestamp()


def shown(wall: float, zone: str = "Europe/Berlin") -> str:
    return f"{datetime.fromtimestamp(wall, ZoneInfo(zone)):%d %H:%M %z}"


def multiples(align: Align, start: float, count: int) -> list[str]:
    found = []
    for _ in range(count):
        start = align.after(start)
        found.append(shown(start, str(align).partition(" ")[2] or "UTC"))
    return found


# --- align ----------------------------------------------------------------------------------------


@steady
@given(st.one_of(instants, near_changes), st.sampled_from(INTERVALS), st.sampled_from(ZONES))
def test_the_next_multiple_is_where_the_slot_changes_and_not_before(
    wall: int, every: str, zone: str
) -> None:
    align = Align.parse(f"{every} {zone}")
    after = align.after(wall)
    assert wall < after <= wall + align.every + 3 * 3600
    assert align.slot(after) != align.slot(wall) == align.slot(after - 1)
    for part in range(1, 20):  # and nowhere in between
        assert align.slot(wall + (after - wall - 1) * part // 20) == align.slot(wall)


@steady
@given(st.one_of(instants, near_changes), st.sampled_from(INTERVALS[2:]), st.sampled_from(ZONES))
def test_at_a_multiple_the_clock_shows_one_unless_it_has_just_been_set(
    wall: int, every: str, zone: str
) -> None:
    align = Align.parse(f"{every} {zone}")
    after = align.after(wall)
    clock = datetime.fromtimestamp(after, align.zone)
    if datetime.fromtimestamp(after - 1, align.zone).utcoffset() == clock.utcoffset():
        assert (clock.hour * 3600 + clock.minute * 60 + clock.second) % align.every == 0


def test_without_a_zone_multiples_are_those_of_utc() -> None:
    assert multiples(Align.parse("15m"), 1_700_000_000, 2) == ["14 22:15 +0000", "14 22:30 +0000"]


def test_an_instant_between_two_seconds_belongs_to_the_first() -> None:
    align = Align.parse("1s")
    assert align.slot(99.999) == align.slot(99.0) != align.slot(100.0)
    assert align.after(99.999) == 100


def test_in_spring_a_multiple_that_the_clock_jumps_over_is_the_jump() -> None:
    align = Align.parse("30m Europe/Berlin")
    assert multiples(align, berlin(SPRING, 1, 10), 3) == [
        "29 01:30 +0100",
        "29 03:00 +0200",
        "29 03:30 +0200",
    ]


def test_in_autumn_an_hour_that_is_shown_twice_counts_twice() -> None:
    align = Align.parse("1h Europe/Berlin")
    assert multiples(align, berlin(AUTUMN, 1, 10), 4) == [
        "25 02:00 +0200",
        "25 02:00 +0100",
        "25 03:00 +0100",
        "25 04:00 +0100",
    ]


@pytest.mark.parametrize(("day", "hours"), [(SPRING, 23), (AUTUMN, 25), (date(2024, 2, 29), 24)])
def test_a_day_is_a_day_however_long_it_is(day: date, hours: int) -> None:
    align = Align.parse("1d Europe/Berlin")
    start = berlin(day, 0)
    assert align.after(start) == start + hours * 3600
    assert datetime.fromtimestamp(align.after(start), BERLIN).date() == day + timedelta(days=1)


def test_a_day_whose_midnight_the_clock_jumps_over_begins_at_the_jump() -> None:
    align = Align.parse("1d America/Havana")
    noon = datetime(2026, 3, 7, 12, tzinfo=align.zone).timestamp()
    assert multiples(align, noon, 1) == ["08 01:00 -0400"]


# --- active ---------------------------------------------------------------------------------------

minutes = st.integers(0, 24 * 60)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """First and last weekday, first and last minute of the day."""
    start = draw(st.integers(0, 24 * 60 - 1))
    end = draw(minutes.filter(lambda m: m != start))
    return draw(st.integers(0, 6)), draw(st.integers(0, 6)), start, end


def written(each: tuple[int, int, int, int]) -> str:
    names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    first, last, start, end = each
    days = names[first] if first == last else f"{names[first]}-{names[last]}"
    return f"{days} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"


def holds(each: tuple[int, int, int, int], clock: datetime) -> bool:
    """A range as one would say it: today's or, past midnight, yesterday's."""
    first, last, start, end = each
    days = {(first + n) % 7 for n in range((last - first) % 7 + 1)}
    today, yesterday = clock.weekday() in days, (clock.weekday() - 1) % 7 in days
    minute = clock.hour * 60 + clock.minute
    if start < end:
        return today and start <= minute < end
    return (today and minute >= start) or (yesterday and minute < end)


@steady
@given(
    st.lists(ranges(), min_size=1, max_size=3),
    st.sampled_from(ZONES),
    st.one_of(instants, near_changes),
)
def test_records_are_released_exactly_when_the_clock_shows_a_time_of_a_range(
    chosen: list[tuple[int, int, int, int]], zone: str, wall: int
) -> None:
    active = Active.parse(f"{', '.join(map(written, chosen))} {zone}")
    clock = datetime.fromtimestamp(wall, ZoneInfo(zone))
    assert active.at(wall) == any(holds(each, clock) for each in chosen)


@steady
@given(
    st.lists(ranges(), min_size=1, max_size=3),
    st.sampled_from(ZONES),
    st.one_of(instants, near_changes),
    st.lists(st.floats(0, 1), min_size=20, max_size=20),
)
def test_the_next_change_is_one_and_there_is_none_before(
    chosen: list[tuple[int, int, int, int]], zone: str, wall: int, between: list[float]
) -> None:
    active = Active.parse(f"{', '.join(map(written, chosen))} {zone}")
    change = active.changes(wall)
    end = wall + 8 * DAY if change is None else change
    if change is not None:
        assert active.at(change) != active.at(change - 1) == active.at(wall)
    for part in between:
        assert active.at(wall + int((end - 1 - wall) * part)) == active.at(wall)


def test_a_night_spans_midnight_and_belongs_to_the_day_on_which_it_begins() -> None:
    active = Active.parse("Fri 22:00-06:00 Europe/Berlin")
    friday = date(2026, 1, 2)
    saturday, sunday = friday + timedelta(days=1), friday + timedelta(days=2)
    times = [(friday, 21, 59), (friday, 22, 0), (saturday, 5, 59), (saturday, 6, 0)]
    assert [active.at(berlin(*time)) for time in times] == [False, True, True, False]
    assert not active.at(berlin(saturday, 22, 0))
    assert not active.at(berlin(sunday, 1, 0))
    assert not active.at(berlin(friday, 1, 0)), "that is Thursday's night"


def test_the_last_night_of_the_week_reaches_into_monday() -> None:
    active = Active.parse("Sun 22:00-06:00 Europe/Berlin")
    assert active.at(berlin(date(2026, 1, 5), 5, 59))
    assert not active.at(berlin(date(2026, 1, 5), 6, 0))


@pytest.mark.parametrize(("day", "hours"), [(SPRING, 7), (AUTUMN, 9), (date(2026, 6, 1), 8)])
def test_a_night_of_a_clock_change_ends_when_the_clock_shows_its_end(day: date, hours: int) -> None:
    active = Active.parse("22:00-06:00 Europe/Berlin")
    start = active.changes(berlin(day - timedelta(days=1), 12))
    assert start == berlin(day - timedelta(days=1), 22)
    assert active.changes(start) == berlin(day, 6) == start + hours * 3600


def test_in_spring_a_range_within_the_lost_hour_does_not_come() -> None:
    active = Active.parse("02:00-03:00 Europe/Berlin")
    before = berlin(SPRING - timedelta(days=1), 12)
    assert shown(active.changes(before) or 0) == "30 02:00 +0200"


def test_in_spring_a_range_that_begins_in_the_lost_hour_begins_at_the_jump() -> None:
    active = Active.parse("02:30-05:00 Europe/Berlin")
    assert shown(active.changes(berlin(SPRING, 0)) or 0) == "29 03:00 +0200"


def test_in_autumn_a_range_within_the_repeated_hour_comes_twice() -> None:
    active = Active.parse("02:15-02:30 Europe/Berlin")
    at: float | None = berlin(AUTUMN, 0)
    changes = []
    for _ in range(4):
        at = active.changes(at or 0)
        changes.append(shown(at or 0))
    assert changes == ["25 02:15 +0200", "25 02:30 +0200", "25 02:15 +0100", "25 02:30 +0100"]


def test_people_are_told_the_day_only_where_it_is_not_the_next_one() -> None:
    active = Active.parse("Mon-Fri 22:00-06:00 Europe/Berlin")
    assert active.until(berlin(date(2026, 1, 5), 12)) == "22:00 Europe/Berlin"
    assert active.until(berlin(date(2026, 1, 5), 23)) == "06:00 Europe/Berlin"
    assert active.until(berlin(date(2026, 1, 3), 12)) == "Mon 22:00 Europe/Berlin"


def test_what_is_always_active_never_changes() -> None:
    active = Active.parse("00:00-12:00, 12:00-24:00 UTC")
    assert active.at(0)
    assert active.changes(0) is None
    assert active.longest_wait() == 0


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("22:00-06:00 Europe/Berlin", 16),
        ("Mon-Fri 22:00-06:00 Europe/Berlin", 64),
        ("Mon 00:00-12:00, Thu 00:00-24:00 UTC", 72),
        ("Sat-Sun 00:00-24:00 UTC", 120),
    ],
)
def test_the_longest_wait_is_that_between_two_ranges(text: str, hours: int) -> None:
    assert Active.parse(text).longest_wait() == hours * 3600


# --- the timetable --------------------------------------------------------------------------------


def test_a_timetable_tells_each_end_once() -> None:
    table, active = Timetable(), Active.parse("22:00-22:15 UTC")
    told = [table.ended(active, 1_700_000_000 + s) for s in (0, 50, 99.9, 100, 101)]
    assert told == [False, False, False, True, False]
    assert not table.open
    table.ended(active, 1_700_000_000 + DAY)
    assert table.open


def test_a_timetable_tells_each_multiple_once_and_follows_a_clock_that_is_set() -> None:
    table, align = Timetable(), Align.parse("1m")
    told = [table.cut(align, float(s)) for s in (59, 60, 61, 119, 185, 186, 10, 11)]
    assert told == [False, True, False, False, True, False, True, False]


def test_multiples_that_are_new_in_the_configuration_cut_nothing() -> None:
    table = Timetable()
    assert not table.cut(None, 59)
    assert not table.cut(Align.parse("1m"), 61)
    assert table.cut(Align.parse("1m"), 121)
    assert not table.cut(None, 190)


# --- how they are written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["7m", "2d", "0s", "500ms", "2.5s", "1h Berlin Europe", "", "hourly", 5]
)
def test_multiples_that_do_not_divide_a_day_are_refused(text: object) -> None:
    with pytest.raises(msgspec.ValidationError, match="divides a day"):
        msgspec.convert({"align": text}, WindowSettings, dec_hook=decode)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("22:00-06:00", "a time zone"),
        ("Europe/Berlin", "a time zone"),
        (22, "a time zone"),
        ("22-06 Europe/Berlin", "is not a range"),
        ("Mo-Fr 22:00-06:00 UTC", "is not a range"),
        ("Mon,Wed 22:00-06:00 UTC", "every range has its own days"),
        ("22:00-22:00 UTC", "a whole day is"),
        ("24:00-06:00 UTC", "is empty"),
        ("22:61-23:00 UTC", "no time 22:61"),
        ("22:00-25:00 UTC", "no time 25:00"),
        ("22:00-06:00 Mars/Phobos", "no time zone Mars/Phobos"),
        ("22:00-06:00 Europe", "no time zone Europe"),
        ("22:00-06:00 a/../../etc/passwd", "a time zone"),
    ],
)
def test_times_that_are_no_times_are_refused_with_what_is_wrong(text: object, why: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=why):
        msgspec.convert({"active": text}, WindowSettings, dec_hook=decode)


def test_a_machine_without_time_zones_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sluiced.schedule.available_timezones", set)
    with pytest.raises(ValueError, match="install the package tzdata"):
        Align.parse("1d Nowhere/AtAll")


def test_what_is_written_alike_is_equal_and_shown_as_it_was_written() -> None:
    one, other = Active.parse("22:00-06:00  UTC"), Active.parse("22:00-06:00 UTC")
    assert one == other
    assert hash(one) == hash(other)
    assert str(one) == "22:00-06:00 UTC"
    assert one != Active.parse("22:00-06:01 UTC")
    assert Align.parse("1d UTC") == Align.parse("1d  UTC") != Align.parse("1d Europe/Berlin")
    assert all(a != b for a, b in pairwise([one, Align.parse("1m"), "22:00-06:00 UTC"]))

"""What the tools print fits the terminal and cannot harm it."""

from __future__ import annotations

import io
import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeRecord
from sluiced import moments
from sluiced.errors import SluicedError
from sluiced.kafka.scan import Span
from sluiced.record import TopicPartition
from sluiced.redrive.letter import Letter
from sluiced.tools.dead_letters import listing, show
from sluiced.tools.dead_letters.export import line
from sluiced.tools.dead_letters.selection import Selection
from sluiced.tools.replay.ranges import Part, merged, parse
from sluiced.tools.text import (
    Progress,
    elided,
    fields,
    printable,
    shortened,
    shown,
    table,
    width_of,
)
from strategies import steady

WIDTH = 80
texts = st.text(max_size=120)
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def fits(lines: list[str]) -> bool:
    return all(width_of(line) <= WIDTH and printable(line) == line for line in lines)


letters = st.builds(
    Letter,
    st.builds(FakeRecord, partition=st.integers(0, 999), offset=st.integers(0, 2**63 - 1)),
    st.sampled_from(["sluiced", "connect", "spring", "unknown"]),
    topic=st.none() | texts,
    partition=st.none() | st.integers(0, 2**31 - 1),
    offset=st.none() | st.integers(0, 2**63 - 1),
    died=st.none() | st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)),
    reason=texts,
    status=texts,
    error=texts,
)


@steady
@given(st.lists(letters, max_size=6), st.integers(0, 3))
def test_a_list_fits_into_80_columns_whatever_is_in_it(given_: list[Letter], limit: int) -> None:
    found = listing.Found("pages.dead", limit)
    for letter in given_:
        found.total += 1
        found.add(letter)
    assert fits(listing.as_text(found, WIDTH))
    assert len(found.latest) == min(limit, len(given_))
    json.loads(listing.as_json(found))


@steady
@given(letters, st.none() | st.binary(max_size=40))
def test_a_letter_that_is_shown_cannot_harm_the_terminal(
    letter: Letter, value: bytes | None
) -> None:
    record = FakeRecord("pages.dead", 0, 1, value, value, 1, [("h", value or b"")])
    shown_ = Letter(record, letter.dialect, letter.topic, letter.partition, letter.offset)
    assert all(printable(line) == line for line in show.as_text(shown_, WIDTH))


def test_a_list_shows_the_latest_and_says_that_there_are_more() -> None:
    found = listing.Found("pages.dead", 2, total=4)
    for n, hour in enumerate([3, 1, 2]):
        died = NOW - timedelta(hours=hour)
        record = FakeRecord("pages.dead", 0, n)
        found.add(Letter(record, "sluiced", "pages", 0, n, died=died, reason="rejected"))
    lines = listing.as_text(found, WIDTH)
    assert lines[0] == "3 of 4 dead letters in pages.dead"
    assert "The last 2 letters (--limit N shows more):" in lines
    assert [letter.record.offset for letter in found.latest] == [2, 1]


@steady
@given(texts, st.integers(0, 40))
def test_a_text_that_is_cut_takes_no_more_than_its_columns(text: str, width: int) -> None:
    text = printable(text)
    for cut in (shortened(text, width), elided(text, width)):
        assert width_of(cut) <= width
        assert cut == text or "…" in cut or not width


@steady
@given(st.lists(st.tuples(texts, texts, texts), max_size=5))
def test_a_table_keeps_its_width(rows: list[tuple[str, str, str]]) -> None:
    assert fits(table(("A", "B", "C"), rows, WIDTH))
    assert fits(fields([(f"name{n}", text) for n, (text, *_) in enumerate(rows)], WIDTH))


def test_a_table_takes_from_the_widest_column_first() -> None:
    rows = [("0/17", "x" * 100, "rejected", "e" * 100)]
    header, row = table(("LETTER", "RECORD", "REASON", "ERROR"), rows, WIDTH)
    assert row.startswith("0/17    x")
    assert "  rejected  " in row
    assert width_of(row) == WIDTH
    assert header.split() == ["LETTER", "RECORD", "REASON", "ERROR"]


def test_values_are_shown_as_what_they_are() -> None:
    assert shown(b'{"a":1}') == ["{", '  "a": 1', "}"]
    assert shown(b"plain\x1b[2J") == ["plain\\x1b[2J"]
    assert shown(b"\xff\x00A") == [f"{0:08x}  {'ff 00 41':<47}  ..A"]
    assert (shown(None), shown(b"")) == (["(none)"], ["(empty)"])


@steady
@given(st.none() | st.binary(max_size=30) | st.sampled_from([b'{"a": 1.10}', b"[1,\n2]", b"null"]))
def test_a_line_of_an_export_holds_the_value_to_the_byte_or_the_digit(value: bytes | None) -> None:
    record = FakeRecord("pages.dead", 0, 1, value, b"\xff", 1, [("h", b"\x00"), ("h", b"\xff")])
    text = line(Letter(record, "unknown"))
    assert text.count(b"\n") == 1
    found = json.loads(text, parse_float=str)
    assert (found["key_base64"], [h.get("value_base64") for h in found["headers"]]) == (
        "/w==",
        [None, "/w=="],
    )
    if "value_base64" in found:
        assert b64decode(found["value_base64"]) == value
    elif value is None:
        assert found["tombstone"]
    else:
        assert found["value"] == json.loads(value, parse_float=str)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("90s", NOW - timedelta(seconds=90)),
        ("2026-02-28T12:00:00Z", NOW - timedelta(days=1)),
        ("2026-02-28T13:00:00+01:00", NOW - timedelta(days=1)),
    ],
)
def test_a_time_is_absolute_or_ago(text: str, moment: datetime) -> None:
    assert moments.parse(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-02-28T12:00:00", "2026-02-28", "99999999d"]
)
def test_a_time_that_two_people_would_read_differently_is_refused(text: str) -> None:
    with pytest.raises(SluicedError, match="is not a point in time"):
        moments.parse(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (200_000, "2d")]
)
def test_an_age_is_in_the_largest_unit(seconds: int, text: str) -> None:
    assert moments.age(NOW - timedelta(seconds=seconds), NOW) == text
    assert moments.age(NOW + timedelta(seconds=seconds), NOW) == "0s"


def test_filters_add_up_and_alternatives_are_either_or() -> None:
    letter = Letter(
        FakeRecord(), "sluiced", "pages", 0, 1, died=NOW, reason="rejected", status="422"
    )
    for hit in (
        Selection(),
        Selection.of(["invalid", "rejected"], ["422"], ["pages"]),
        Selection(since=NOW, until=NOW + timedelta(seconds=1)),
    ):
        assert hit.matches(letter)
    for miss in (
        Selection.of(["invalid"]),
        Selection.of(["rejected"], ["400"]),
        Selection.of(topics=["posts"]),
        Selection(since=NOW + timedelta(seconds=1)),
        Selection(until=NOW),
    ):
        assert not miss.matches(letter)
    assert not Selection(until=NOW).matches(Letter(FakeRecord(), "unknown"))


def test_ranges_are_read_as_the_logs_write_them() -> None:
    pages = TopicPartition("pages", 3)
    assert parse("pages/3/10-19,pages/3/5+a.b_c-d/0/7") == [
        Part(pages, 10, 19),
        Part(pages, 5, 5),
        Part(TopicPartition("a.b_c-d", 0), 7, 7),
    ]
    for wrong in ("pages/3", "pages/3/9-1", "pages/x/1", "/3/1", "pages/3/1-", ""):
        with pytest.raises(SluicedError, match="is not a range of offsets"):
            parse(wrong)


@steady
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=12))
def test_ranges_that_overlap_are_sent_once(pieces: list[tuple[int, int]]) -> None:
    tp = TopicPartition("pages", 0)
    spans = merged(Part(tp, first, first + more) for first, more in pieces)
    flat = [offset for _, span in spans for offset in range(span.first, span.end)]
    assert flat == sorted({f + n for f, more in pieces for n in range(more + 1)})
    assert all(isinstance(span, Span) for _, span in spans)


def test_a_process_without_stderr_works_without_telling_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr", None)  # as Python has it where the descriptor is closed
    progress = Progress("redriving", 1000)
    monkeypatch.setattr(progress, "_shown", -1e9)
    progress.show(1)
    progress.say("a word")
    progress.end()
    assert progress.line(250, 5.0).startswith("redriving  25%")


def test_progress_is_one_line_and_names_what_is_left() -> None:
    progress = Progress("redriving", 1000, io.StringIO())
    assert progress.line(250, 5.0) == "redriving  25%  250 of 1,000  50/s  0:15 left"
    drawn = Progress("redriving", 1000, Terminal()).line(250, 5.0)
    assert drawn == "redriving ████░░░░░░░░░░░░  25%  250 of 1,000  50/s  0:15 left"
    hurried = Progress("tuning", 1000, io.StringIO(), seconds=60.0)
    assert hurried.line(30, 45.0) == "tuning  75%  30 of 1,000  1/s  0:15 left"
    progress.note("503\x1b[2J")
    assert progress.line(0, 0.0).endswith("503\\x1b[2J")
    assert Progress("reading", 0, io.StringIO()).line(0, 1.0).startswith("reading 100%")

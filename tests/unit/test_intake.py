from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fakes import FakeRecord, offsets
from sluiced.intake import Checked, Format, Intake, RecordSettings
from sluiced.record import Record
from strategies import steady


def run_of(*values: bytes | None) -> list[FakeRecord]:
    return [FakeRecord(offset=offset, value=value) for offset, value in enumerate(values)]


def check(values: list[bytes | None], form: Format = "json", **settings: str) -> Checked:
    return Intake(RecordSettings(format=form, **settings)).check(run_of(*values))  # type: ignore[arg-type]


VALUES = st.lists(
    st.one_of(
        st.none(),
        st.binary(max_size=4),
        st.sampled_from(
            [b"{}", b"[1]", b'"\xc3\xa9"', b"\xc3", b"\xa9", b"", b"null", b"{", b"1 2", b'"\xff"']
        ),
    ),
    max_size=8,
)


def is_json(value: bytes) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(value.decode(), parse_constant=refuse)
    except ValueError:
        return False
    return True


def is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@steady
@given(
    VALUES,
    st.sampled_from(["json", "text", "bytes"]),
    st.sampled_from(["skip", "dead-letter", "send"]),
)
@example([b"\xc3", b"\xa9"], "text", "skip")
@example([b'"\xc3', b'\xa9"'], "json", "skip")
def test_every_record_is_in_exactly_one_list_and_in_the_right_one(
    values: list[bytes | None],
    form: Format,
    on_tombstone: str,
) -> None:
    checked = check(values, form, on_tombstone=on_tombstone)
    valid = {"json": is_json, "text": is_text, "bytes": lambda _: True}[form]
    lists: dict[str, list[int]] = {"accepted": [], "invalid": [], "skipped": []}
    fate = {"skip": "skipped", "dead-letter": "invalid", "send": "accepted"}[on_tombstone]
    for offset, value in enumerate(values):
        sound = value is not None and valid(value)
        lists[fate if value is None else "accepted" if sound else "invalid"].append(offset)
    assert offsets(checked.accepted) == lists["accepted"]
    assert offsets(record for record, _ in checked.invalid) == lists["invalid"]
    assert offsets(checked.skipped) == lists["skipped"]


@pytest.mark.parametrize("form", ["json", "text", "bytes"])
def test_a_sound_run_is_passed_on_as_the_list_that_it_is(form: Format) -> None:
    run = run_of(b"{}", b"[]", b'"x"')
    assert Intake(RecordSettings(format=form)).check(run).accepted is run


def test_one_bad_record_leaves_the_others_in_order() -> None:
    checked = check([b"1", b"{broken", b"2", b"3"])
    assert offsets(checked.accepted) == [0, 2, 3]
    assert [(r.offset, "not JSON" in why) for r, why in checked.invalid] == [(1, True)]


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_character_split_between_two_values_makes_both_invalid(form: Format) -> None:
    # One after the other they are 'é', and in quotes even JSON; each for itself is no text.
    checked = check([b'"\xc3', b'\xa9"'], form)
    assert offsets(r for r, _ in checked.invalid) == [0, 1]


NOT_JSON = [
    b"",
    b" ",
    b"{",
    b"[1,]",
    b'{"a":1,}',
    b'{"a" 1}',
    b"{} {}",
    b"{}x",
    b"01",
    b"1.",
    b"-",
    b".5",
    b"1e",
    b"NaN",
    b"Infinity",
    b"nul",
    b"'a'",
    b'"\\q"',
    b'"\\u12"',
    b'"a\nb"',
    b'"\x01"',
    b'"open',
    b"\xef\xbb\xbf{}",
    b"\xff",
    b'"\xed\xa0\x80"',
    b"{1:2}",
]


@pytest.mark.parametrize("value", NOT_JSON)
def test_what_json_does_not_allow_never_enters_a_window(value: bytes) -> None:
    # It would be pasted into the middle of a request and spoil it for all the others.
    checked = check([value])
    assert not checked.accepted
    assert checked.invalid


@pytest.mark.parametrize(
    "value",
    [b"1", b"-0.5e+10", b"null", b'"\\u00e9"', b' {"a": [1, {"b": null}]} \n', '"é"'.encode()],
)
def test_what_json_allows_is_accepted(value: bytes) -> None:
    assert check([value]).accepted


@steady
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.booleans(),
)
def test_whatever_a_json_library_writes_is_accepted(document: object, ascii_only: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only)
    try:
        value = text.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    assert check([value]).accepted


def test_nesting_without_end_is_invalid_and_harms_nobody_else() -> None:
    checked = check([b"1", b"[" * 1_000_000, b"[" * 100_000 + b"]" * 100_000, b"2"])
    assert offsets(checked.accepted)[0] == 0
    assert offsets(checked.accepted)[-1] == 3
    assert 1 in offsets(r for r, _ in checked.invalid)


def test_an_error_names_the_trouble_and_not_the_content() -> None:
    checked = check([b'{"password": "hunter2" oops}', b"secret \xff"], "json")
    for _, why in checked.invalid:
        assert "hunter2" not in why
        assert "secret" not in why
    assert "byte 7" in checked.invalid[1][1]


def test_bytes_are_not_looked_at() -> None:
    assert len(check([b"\xff", b"", b"{"], "bytes").accepted) == 3


@pytest.mark.parametrize("form", ["json", "text", "bytes"])
def test_a_tombstone_meets_its_policy_in_every_format(form: Format) -> None:
    assert offsets(check([None, b"1"], form).skipped) == [0]
    assert offsets(check([None, b"1"], form, on_tombstone="send").accepted) == [0, 1]
    ((record, why),) = check([None, b"1"], form, on_tombstone="dead-letter").invalid
    assert record.offset == 0
    assert "tombstone" in why


def test_what_the_sink_objects_to_is_invalid_with_its_words() -> None:
    def objection(record: Record) -> str | None:
        return "the key is too long" if record.offset == 1 else None

    checked = Intake(RecordSettings(), objection).check(run_of(b"1", b"2", b"3"))
    assert offsets(checked.accepted) == [0, 2]
    assert checked.invalid[0][1] == "the key is too long"


def test_the_sink_is_asked_about_tombstones_that_are_sent_but_not_about_skipped_ones() -> None:
    def objection(record: Record) -> str | None:
        return "no value" if record.value is None else None

    sent = Intake(RecordSettings(on_tombstone="send"), objection).check(run_of(None))
    assert sent.invalid[0][1] == "no value"
    assert Intake(RecordSettings(), objection).check(run_of(None)).skipped


def test_an_empty_run_is_fine() -> None:
    assert check([]).accepted == []


def test_a_template_that_is_none_is_refused_with_the_settings() -> None:
    with pytest.raises(ValueError, match="JSON pointer"):
        RecordSettings(id="slug")

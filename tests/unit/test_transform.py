"""A user's own function between stream and window: what it may do, and what it cannot break."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeRecord, offsets
from sluiced.intake import Checked, Intake, RecordSettings
from sluiced.record import Record, Transformed, footprint_of, original_of, size_of
from sluiced.transform import Output, Reject, load, outputs
from strategies import steady


def run_of(*values: bytes | None) -> list[FakeRecord]:
    return [FakeRecord(offset=offset, value=value) for offset, value in enumerate(values)]


def wrap(records: Sequence[Record]) -> list[Output]:
    """Puts a value into an object, leaves out 0, rejects 9."""
    fates: dict[bytes | None, Output] = {b"0": None, b"9": Reject("it is a nine")}
    return [fates.get(r.value, b'{"v":%b}' % (r.value or b"")) for r in records]


def wrongly(records: Sequence[Record]) -> list[Output]:
    raise KeyError("a value that is nobody's business")


def too_few(records: Sequence[Record]) -> list[Output]:
    return [r.value for r in records if r.value != b"3"]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("mine")
    for function in (wrap, wrongly, too_few):
        setattr(made, function.__name__, function)
    monkeypatch.setitem(__import__("sys").modules, "mine", made)
    return made


def check(name: str, *values: bytes | None, on_tombstone: str = "skip") -> Checked:
    settings = RecordSettings(transform=f"mine:{name}", on_tombstone=on_tombstone)  # type: ignore[arg-type]
    return Intake(settings).check(run_of(*values))


@pytest.mark.usefixtures("module")
def test_each_output_takes_the_place_of_its_records_value() -> None:
    checked = check("wrap", b"1", b"2")
    assert [r.value for r in checked.accepted] == [b'{"v":1}', b'{"v":2}']
    assert offsets(checked.accepted) == [0, 1]
    assert [original_of(r).value for r in checked.accepted] == [b"1", b"2"]


@pytest.mark.usefixtures("module")
def test_what_it_leaves_out_is_skipped_and_what_it_rejects_is_invalid_as_it_came() -> None:
    checked = check("wrap", b"0", b"1", None, b"9", b"0")
    assert offsets(checked.accepted) == [1]
    assert offsets(checked.skipped) == [0, 2, 4]
    assert checked.filtered == 2, "the other one is a tombstone"
    [(record, error)] = checked.invalid
    assert (record.offset, record.value, error) == (3, b"9", "it is a nine")
    assert not isinstance(record, Transformed)


@pytest.mark.usefixtures("module")
def test_what_it_makes_is_checked_like_any_other_value() -> None:
    [(record, error)] = check("wrap", b"1", b"not json").invalid
    assert record.value == b"not json", "the dead letter has what came"
    assert error.startswith("the value is not JSON")


@pytest.mark.usefixtures("module")
def test_a_tombstone_goes_around_it() -> None:
    [record] = check("wrap", None, on_tombstone="send").accepted
    assert record.value is None


@pytest.mark.usefixtures("module")
def test_where_it_fails_the_records_are_refused_without_their_values() -> None:
    checked = check("wrongly", b"1", b"2")
    assert [error for _, error in checked.invalid] == ["the transform failed: KeyError"] * 2


@pytest.mark.usefixtures("module")
def test_where_it_answers_for_too_few_only_those_are_refused() -> None:
    checked = check("too_few", b"1", b"3", b"5")
    assert offsets(checked.accepted) == [0, 2]
    [(record, error)] = checked.invalid
    assert (record.value, error) == (b"3", "the transform made 0 outputs of 1 records")


def test_what_is_neither_bytes_nor_a_rejection_is_refused() -> None:
    found = outputs(lambda records: ["text", b"1"], run_of(b"a", b"b"))  # type: ignore[list-item]
    assert found == [Reject("the transform made a str, and not bytes"), b"1"]


def test_a_rejection_whose_reason_is_no_text_is_one_all_the_same() -> None:
    found = outputs(lambda records: [Reject(ValueError("no"))], run_of(b"a"))  # type: ignore[arg-type]
    assert found == [Reject("the transform rejected it with a ValueError, and not a text")]


@pytest.mark.usefixtures("module")
def test_what_it_makes_and_what_came_both_count_for_the_memory() -> None:
    accepted = check("wrap", b"1" * 500).accepted
    alone = run_of(accepted[0].value)
    grown = footprint_of(accepted, size_of(accepted)) - footprint_of(alone, size_of(alone))
    assert grown >= 500


@steady
@given(st.lists(st.one_of(st.none(), st.sampled_from([b"0", b"1", b"9", b"x", b"3"]))))
def test_every_record_ends_up_in_exactly_one_place(values: list[bytes | None]) -> None:
    records = run_of(*values)
    for function in (wrap, wrongly, too_few):
        intake = Intake(RecordSettings())
        intake._transform = function
        checked = intake.check(records)
        places = [*checked.accepted, *checked.skipped, *(record for record, _ in checked.invalid)]
        assert sorted(offsets(places)) == offsets(records)
        for part in (checked.accepted, checked.skipped, [r for r, _ in checked.invalid]):
            assert offsets(part) == sorted(offsets(part))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no.such.module:f", "no.such.module cannot be imported: ModuleNotFoundError"),
        ("sluiced.transform:nothing", "sluiced.transform has no function nothing"),
    ],
)
def test_a_function_that_is_not_there_is_named(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load(name)


@pytest.mark.parametrize("name", ["f", "a:b:c", "a b:c", ":f", "a:", "../x:y"])
def test_a_name_that_python_would_not_import_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="module:function"):
        RecordSettings(transform=name)


def test_a_module_that_fails_when_it_is_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="broken_module cannot be imported: ZeroDivisionError"):
        load("broken_module:f")

"""The audit of prompts must find what it is there to find, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from .book import Book, Booked
from .prompts_audit import Evidence, Letter, Result, audit
from .records import Kind
from .sink import Coordinates

GOOD, INVALID, SKIPPED, REFUSED, TIRED = (0, 0), (0, 1), (0, 2), (0, 3), (0, 4)


def _result(place: Coordinates = GOOD, job: str = "a", **others: Any) -> Result:
    partition, offset = map(str, place)
    headers = {"sluiced.partition": partition, "sluiced.offset": offset, "sluiced.job": job}
    return replace(Result(place, offset, "its", {**headers, "sluiced.model": "m"}, 10.0), **others)


def _letter(place: Coordinates, reason: str = "invalid", **others: Any) -> Letter:
    return replace(Letter(place, reason, whole=True, at=10.0), **others)


FIRST = Booked(
    "a",
    1.0,
    2.0,
    "completed",
    {GOOD: ("done", "its"), REFUSED: ("refused", ""), TIRED: ("again", "")},
)
SECOND = Booked("b", 3.0, 4.0, "completed", {TIRED: ("missing", "")})

SOUND = Evidence(
    log={
        GOOD: ("0", Kind.GOOD),
        INVALID: ("1", Kind.INVALID),
        SKIPPED: ("2", Kind.TOMBSTONE),
        REFUSED: ("3", Kind.REFUSED_ITEM),
        TIRED: ("4", Kind.GOOD),
    },
    acknowledged=5,
    results=[_result()],
    letters=[_letter(INVALID), _letter(REFUSED, "rejected"), _letter(TIRED, "exhausted")],
    book=Book([FIRST, SECOND]),
    committed={0: (5, "")},
    ends={0: 5},
    attempts=2,
    headers={"sluiced.model": "m"},
    seen=[(9.0, {0: 0}), (11.0, {0: 5})],
)


def _with(**others: Any) -> Evidence:
    return replace(SOUND, **others)


def _booked(*jobs: Booked, **others: Any) -> Evidence:
    return _with(book=Book(list(jobs)), **others)


def test_a_sound_run_has_no_violation_and_a_result_written_again_as_it_was_is_none() -> None:
    found = audit(_with(results=[_result(), _result(at=12.0)]), named=True)
    assert found.violations == []
    assert found.counts["results written again, the same"] == 1
    assert found.counts["prompts submitted twice"] == 0


@pytest.mark.parametrize(
    ("what", "evidence"),
    [
        ("lost: 1", _with(results=[])),
        ("lost: 1", _with(letters=SOUND.letters[1:])),
        ("answered and dead-lettered: 1", _with(letters=[*SOUND.letters, _letter(GOOD)])),
        ("a good record is a dead letter: 1", _with(attempts=3)),
        (
            "a good record is a dead letter: 1",
            _with(letters=[*SOUND.letters[:2], _letter(TIRED, "rejected")]),
        ),
        (
            "a tombstone that should have been skipped was not: 1",
            _with(letters=[*SOUND.letters, _letter(SKIPPED)]),
        ),
        (
            "a record that is no request was submitted: 1",
            _booked(FIRST, SECOND, Booked("c", 1.0, 2.0, "x", {INVALID: ("refused", "")})),
        ),
        ("written again and not the same: 1", _with(results=[_result(), _result(digest="x")])),
        ("written again and not the same: 1", _with(results=[_result(), _result(key="x")])),
        ("the provider never gave this answer: 1", _with(results=[_result(digest="x")])),
        ("the provider never gave this answer: 1", _with(results=[_result(job="b")])),
        ("answered under another key: 1", _with(results=[_result(key="9")])),
        ("a header is missing or wrong: 1", _with(headers={"sluiced.model": "n"})),
        (
            "a dead letter is not the record: 1",
            _with(letters=[_letter(INVALID, whole=False), *SOUND.letters]),
        ),
        ("a file that no job was made of is left: 1", _with(book=Book([FIRST, SECOND], ["f"]))),
        ("committed is not the log's end: 1", _with(committed={0: (4, "")})),
        ("committed is not the log's end: 1", _with(committed={0: (5, "sluiced1:0+1")})),
        ("committed before it was done: 4", _with(seen=[(9.0, {0: 5})])),
        ("committed before it was done: 1", _with(seen=[(9.0, {0: 1})])),
        ("the broker acknowledged 6", _with(acknowledged=6)),
    ],
)
def test_each_violation_is_named_and_counted(what: str, evidence: Evidence) -> None:
    [violation] = audit(evidence, named=True).violations
    assert violation.startswith(what)


def test_an_answer_of_a_second_job_is_one_too_many() -> None:
    both = _booked(FIRST, SECOND, replace(FIRST, id="c", created=5.0, ended=6.0))
    violations = audit(replace(both, results=[_result(), _result(job="c")]), named=False).violations
    assert [v.splitlines()[0] for v in violations] == ["answered by two jobs: 1"]


def test_what_a_failed_job_has_refused_may_be_submitted_again_by_who_has_not_heard_of_it() -> None:
    first = replace(FIRST, status="failed", said={REFUSED: ("refused", "")})
    second = replace(SECOND, said={REFUSED: ("refused", ""), **SECOND.said})
    done = replace(SECOND, id="c", created=5.0, ended=6.0, said={GOOD: ("done", "its")})
    known = _booked(first, second, done, results=[_result(job="c")])
    assert audit(known, named=True).counts["prompts submitted twice"] == 0
    too_soon = _booked(replace(first, ended=3.5), second, done, results=[_result(job="c")])
    assert audit(too_soon, named=True).counts["prompts submitted twice"] == 1


@pytest.mark.parametrize(
    "second",
    [
        replace(SECOND, said={GOOD: ("done", "its"), **SECOND.said}),  # it was done
        replace(SECOND, said={REFUSED: ("refused", ""), **SECOND.said}),  # it was refused
        replace(SECOND, created=1.5),  # nobody could know yet
    ],
)
def test_submitted_twice_is_a_violation_only_where_jobs_have_names(second: Booked) -> None:
    evidence = _booked(FIRST, second)
    [violation] = audit(evidence, named=True).violations
    assert violation.startswith("submitted twice: 1\n    0/")
    assert violation.endswith("a, b")
    counted = audit(evidence, named=False)
    assert counted.violations == []
    assert counted.counts["prompts submitted twice"] == 1

"""The audit must find what it is there to find, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .audit import Evidence, audit
from .records import Kind
from .sink import Attempt, How

GOOD, BAD, SKIPPED = (0, 0), (0, 1), (0, 2)


def _attempt(key: str, *offsets: int, how: How = "applied") -> Attempt:
    applied = [(0, o, str(o)) for o in offsets] if how in ("applied", "vanished") else []
    return Attempt(key, 0.0, 0.0, how, 200, [(0, o) for o in offsets], applied)


SOUND = Evidence(
    log={GOOD: ("0", Kind.GOOD), BAD: ("1", Kind.INVALID), SKIPPED: ("2", Kind.TOMBSTONE)},
    acknowledged=3,
    attempts=[_attempt("a", 0), _attempt("a", 0, how="repeated")],
    letters=[(BAD, "invalid")],
    committed={0: 3},
    ends={0: 3},
)


def test_a_sound_run_has_no_violation_and_a_repeat_with_the_key_is_none() -> None:
    found = audit(SOUND, strict=True)
    assert found.violations == []
    assert found.counts["attempts"] == 2
    assert found.counts["requests"] == 1
    assert found.counts["repeats recognised by key"] == 1


@pytest.mark.parametrize(
    ("what", "evidence"),
    [
        ("lost: 1", replace(SOUND, attempts=[_attempt("a", 0, how="throttled")])),
        ("lost: 1", replace(SOUND, letters=[])),
        ("a good record is a dead letter: 1", replace(SOUND, letters=[(GOOD, "x"), (BAD, "x")])),
        ("a bad record was applied: 1", replace(SOUND, attempts=[_attempt("a", 0, 1)])),
        (
            "a tombstone that should have been skipped was not: 1",
            replace(SOUND, attempts=[_attempt("a", 0, 2)]),
        ),
        ("not in the log: 1", replace(SOUND, attempts=[_attempt("a", 0, 3)])),
        (
            "applied as another record: 1",
            replace(SOUND, log={**SOUND.log, GOOD: ("9", Kind.GOOD)}),
        ),
        (
            "a key came with two bodies: 1",
            replace(SOUND, attempts=[_attempt("a", 0), _attempt("a", 0, how="mismatch")]),
        ),
        ("committed is not the log's end: 1", replace(SOUND, committed={0: 2})),
        ("the broker acknowledged 4", replace(SOUND, acknowledged=4)),
    ],
)
def test_each_violation_is_named_and_counted(what: str, evidence: Evidence) -> None:
    [violation] = audit(evidence, strict=True).violations
    assert violation.startswith(what)


def test_applied_under_two_keys_is_a_violation_only_where_promised_otherwise() -> None:
    twice = replace(SOUND, attempts=[_attempt("a", 0), _attempt("b", 0, how="vanished")])
    [violation] = audit(twice, strict=True).violations
    assert violation.startswith("applied more than once: 1\n    0/0: a of 0/0-0[1] at 00:00:00.000")
    counted = audit(twice, strict=False)
    assert counted.violations == []
    assert counted.counts["records applied twice"] == 1


def test_many_examples_of_one_violation_are_counted_and_a_few_shown() -> None:
    log = {(0, o): (str(o), Kind.GOOD) for o in range(100)}
    [violation] = audit(
        replace(SOUND, log=log, attempts=[], letters=[], committed={0: 3}), strict=True
    ).violations
    assert violation.startswith("lost: 100")
    assert violation.endswith("and 95 more")

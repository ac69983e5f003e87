"""Every promise of docs/guarantees.md names the tests that keep it, and those exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "guarantees.md").read_text()
FAULTS = range(1, 38)
LATER = "with asynchronous jobs"

NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$", re.M)
# A numbered point reaches to the next one, or to the end.
POINT = re.compile(r"^(\d+)\. (.+?)(?=^\d+\. |\Z)", re.M | re.S)


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    functions = (n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return {f.name for f in functions if f.name.startswith("test_")}


def test_every_fault_has_one_row_in_order() -> None:
    rows = ROW.findall(TEXT)
    assert [int(number) for number, _, _ in rows] == list(FAULTS)
    for _, fault, promise in rows:
        assert fault.endswith(".")
        assert promise.endswith(".")


def test_every_fault_has_one_point_with_its_names_in_order() -> None:
    assert [int(number) for number, _ in POINT.findall(TEXT)] == list(FAULTS)


def test_every_promise_by_kind_of_sink_names_its_tests() -> None:
    section = TEXT.partition("## What a user may rely on")[2].partition("\n## ")[0]
    promises = re.findall(r"^- (.+?)(?=^- |^$|\Z)", section, re.M | re.S)
    assert len(promises) > 15
    assert [p for p in promises if not NAME.search(p)] == []


@pytest.mark.parametrize(("number", "point"), POINT.findall(TEXT))
def test_what_is_promised_names_its_tests(number: str, point: str) -> None:
    promises = {n: promise for n, _, promise in ROW.findall(TEXT)}
    if LATER in promises[number].lower():
        assert LATER in point.lower(), "what is not there yet is said in both places"
    else:
        assert NAME.findall(point), f"fault {number} names no test"


def test_every_test_that_is_named_exists() -> None:
    named = NAME.findall(TEXT)
    missing = [f"{file}::{name}" for file, name in named if name not in names_in(file)]
    assert named
    assert missing == []
    assert TEXT.count("`tests/") == len(named), "a name that is no file::test"

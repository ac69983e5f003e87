"""The capacity table of docs/operations.md against the results in docs/benchmarks.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
RESULTS = (DOCS / "benchmarks.md").read_text().partition("\n## Results\n")[2]
CAPACITY = (
    (DOCS / "operations.md").read_text().partition("\n## Capacity\n")[2].partition("\n## ")[0]
)


def result(label: str) -> list[str]:
    """The figures of one row of a table, as they are written."""
    [row] = re.findall(rf"^\| {re.escape(label)} +\|(.*)\|$", RESULTS, re.M)
    return [cell.strip() for cell in row.split("|")]


def told(label: str) -> list[str]:
    """The numbers in a row of the capacity table."""
    [row] = re.findall(rf"^\| {re.escape(label)}.*?\|(.*)\|$", CAPACITY, re.M)
    return re.findall(r"\d[\d,.]*\d", row.replace("1 %", ""))


def test_throughput_and_cpu_are_those_of_the_benchmark() -> None:
    text, json = result("sluiced, text"), result("sluiced, json")
    assert told("throughput") == [
        f"{round(int(r[0].replace(',', '')), -3):,}" for r in (text, json)
    ]
    assert told("CPU") == [text[2], json[2]]


def test_memory_is_that_of_the_benchmark() -> None:
    assert told("memory, running") == [result("sluiced, text")[4]]
    stalled = [result(label)[1] for label in ("5.0 GB of 250,000 B", "1.0 GB of 250 B")]
    assert told("memory, API stalled")[:2] == stalled


@pytest.mark.parametrize(
    ("row", "measured"),
    [
        ("from a full window", "no plan, broker lingers 0 ms"),
        ("with a plan, where the broker lingers 0 ms", "a plan, broker lingers 0 ms"),
        ("with a plan, where it lingers 5 ms", "a plan, broker lingers 5 ms"),
    ],
)
def test_what_a_plan_costs_is_that_of_the_benchmark(row: str, measured: str) -> None:
    assert told(row) == result(measured)[:2]

"""What of an API's explanation is shown."""

from __future__ import annotations

import tracemalloc

from sluiced.sinks.items import LONGEST_TEXT, excerpt

SECRET = "s3cr3t-" + "x" * 4000


def scrub(text: str) -> str:
    return text.replace(SECRET, "***")


def test_an_explanation_is_one_line_of_so_many_characters() -> None:
    assert excerpt("why\n  it   failed", scrub) == "why it failed"
    assert excerpt({"why": ["a", 1]}, scrub) == '{"why":["a",1]}'
    assert excerpt("x" * 10**6, scrub) == "x" * LONGEST_TEXT


def test_no_half_of_a_secret_is_left_wherever_it_stands() -> None:
    for before in range(0, 70_000, 1000):
        shown = excerpt("no" + " " * before + " " + SECRET + " " * 70_000, scrub)
        assert shown in ("no ***", "no")


def test_of_a_huge_explanation_no_copies_are_made() -> None:
    text = "word " * 2_000_000
    tracemalloc.start()
    try:
        assert len(excerpt(text, scrub)) == LONGEST_TEXT
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 * 1024**2

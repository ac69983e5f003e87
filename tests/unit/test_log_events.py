"""Every event that is logged stands in docs/operations.md, with what to do about it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import sluiced

PACKAGE = Path(sluiced.__file__).parent
DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
LEVELS = {name: name for name in ("debug", "info", "warning", "error", "critical")}
LEVELS["exception"] = "error"
MEANT_TO_BE_READ = {"warning", "error", "critical"}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Level, event and call of each line that the source can log.

    A logger is `log` or `_log`, or what `get(...)` gives; an event is a literal, so that it can be
    looked for.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            logger = ast.unparse(node.func.value)
            if node.func.attr not in LEVELS or not re.fullmatch(
                r"_?log|(logs\.)?get\(.*\)", logger
            ):
                continue
            event = node.args[0]
            assert isinstance(event, ast.Constant), f"{path}: {ast.unparse(node)}"
            yield LEVELS[node.func.attr], str(event.value), node


def documented() -> dict[str, tuple[set[str], str, str]]:
    """Of each event its levels, meaning and advice."""
    section = DOCS.read_text().split("\n## Log events\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([a-z, ]+) \| (.+?) \| (.*?) ?\|$", section, re.M)
    assert len(rows) == len({name for name, *_ in rows}), "an event stands there twice"
    return {name: (set(level.split(", ")), text, advice) for name, level, text, advice in rows}


def test_every_event_stands_in_the_docs_with_its_level_and_no_other_does() -> None:
    logged = defaultdict(set)
    for level, event, _ in calls():
        logged[event].add(level)
    assert len(logged) > 40, "nothing was found to look for"
    assert {event: levels for event, (levels, *_) in documented().items()} == logged


def test_the_docs_name_events_in_order_and_say_what_to_do_about_trouble() -> None:
    events = documented()
    assert list(events) == sorted(events)
    advice_needed = {
        name
        for name, (levels, _, advice) in events.items()
        if not advice and levels & MEANT_TO_BE_READ
    }
    # Both are what a person has just done.
    assert advice_needed == {"halt_lifted", "signal"}


def test_events_are_names() -> None:
    for _, event, call in calls():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", event), ast.unparse(call)


def test_an_error_says_on_its_own_line_what_is_wrong() -> None:
    """Its reason in a field, and what to do unless the reason has that or it is a bug."""
    for level, event, call in calls():
        if level in MEANT_TO_BE_READ - {"warning"} and event not in {
            "admin_failed",
            "reload_failed",
        }:
            fields = {keyword.arg for keyword in call.keywords}
            assert fields & {"error", "reason", "exc_info"}, event
            # An error of ours carries its hint in its text.
            with_hint = {"fatal", "crashed", "redrive_failed", "reload_refused"}
            assert "hint" in fields or event in with_hint, event

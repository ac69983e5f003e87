"""Times that fit: each row of the documentation's table, as it should not be and as it should."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from math import inf
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields

from sluiced.config import Config, conflicts, load
from sluiced.kafka.retention import Kept
from sluiced.pipeline import ShutdownSettings
from sluiced.retained import lost
from sluiced.sinks.settings import SinkSettings
from sluiced.tools.measured import tight
from sluiced.tools.unit import problems as of_unit
from unit.test_config import JOBS, toml, with_keys

DOCS = Path(__file__).parents[2] / "docs/configuration.md"

Find = Callable[[Config], Iterable[object]]
DAY, HOUR = 86_400, 3600
NIGHT = {"window__active": "22:00-06:00 UTC"}  # 16 hours of waiting
JOB = {"sink": JOBS, "results__topic": "answers", "retry__max_item_attempts": 2}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_KEY", "hunter2")


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Config]:
    def load_with(changes: Mapping[str, Any]) -> Config:
        (tmp_path / "pages.toml").write_text(toml(with_keys(**changes)))
        return load(tmp_path / "pages.toml")

    return load_with


def unit(**properties: str) -> Find:
    return lambda config: of_unit(config, properties)


def topic(seconds: float, size: float = inf, *, since_append: bool = True) -> Find:
    return lambda config: lost(config, "pages", Kept(seconds, since_append, size))


def daemon(seconds: float, records: int, attempts: int = 1) -> Find:
    batch = {"seconds": seconds, "records": records, "attempts": attempts}
    return lambda config: tight(config, {"recent_batches": [batch]})


# By row (key, against): what is wrong, with all that must be said of it; and what is not.
CASES: dict[tuple[str, str], list[tuple[Mapping[str, Any], Find, list[str]]]] = {
    ("sink.connect_timeout", "sink.timeout"): [
        (
            {"sink__connect_timeout": "30s"},
            conflicts,
            ["sink.connect_timeout = 30s: not below sink.timeout = 30s"],
        ),
        ({"sink__connect_timeout": "29s"}, conflicts, []),
        ({"sink__timeout": "5s"}, conflicts, []),  # the default is nobody's mistake
    ],
    ("sink.timeout", "the last batches of a running daemon"): [
        (
            {},
            daemon(16.0, 500),
            ["sink.timeout = 30s: the slowest", "took 16.0s for 500 records;", "this to 32s"],
        ),
        ({}, daemon(15.0, 500), []),
        (
            {},
            daemon(10.0, 250),
            ["10.0s for 250 records, so that one of window.max_records = 500 may take 20.0s"],
        ),
        ({}, daemon(10.0, 249), []),  # too small to tell
        ({}, daemon(100.0, 500, attempts=2), []),
        ({"window__max_records": "auto"}, daemon(16.0, 20), ["16.0s for 20 records;"]),
        ({}, lambda config: tight(config, {"recent_batches": []}), []),
    ],
    ("shutdown.drain", "sink.timeout"): [
        (
            {"shutdown__drain": "29s"},
            conflicts,
            [
                "shutdown.drain = 29s: below sink.timeout = 30s",
                "raise the first or lower the second",
            ],
        ),
        ({"shutdown__drain": "30s"}, conflicts, []),
        ({}, conflicts, []),
        (JOB | {"shutdown__drain": "5s"}, conflicts, []),
    ],
    ("shutdown.drain", "joining the group"): [
        (
            {"shutdown__drain": "160s"},
            conflicts,
            ["shutdown.drain = 160s: a rebalance may take 3m", "gives up after 3m"],
        ),
        ({"shutdown__drain": "159s"}, conflicts, []),
    ],
    ("shutdown.drain", "`TimeoutStopSec` of its unit"): [
        (
            {},
            unit(NotifyAccess="none", TimeoutStopUSec="1min 4s"),
            ["shutdown.drain = 30s: its unit has TimeoutStopSec = 64s", "TimeoutStopSec=65"],
        ),
        ({}, unit(NotifyAccess="none", TimeoutStopUSec="1min 5s"), []),
        ({}, unit(NotifyAccess="main", TimeoutStopUSec="1s"), []),
    ],
    ("kafka.group_id", "`TimeoutStartSec` of its unit"): [
        ({}, unit(TimeoutStartUSec="3min"), ["its unit has TimeoutStartSec = 3m", "=5min"]),
        ({}, unit(TimeoutStartUSec="5min"), []),
    ],
    ("kafka.session_timeout", "the bounds of brokers"): [
        ({"kafka__session_timeout": "5s"}, conflicts, ["kafka.session_timeout = 5s", "6s to 30m"]),
        ({"kafka__session_timeout": "31m"}, conflicts, ["kafka.session_timeout = 31m"]),
        ({"kafka__session_timeout": "6s"}, conflicts, []),
    ],
    ("retry.give_up_after", "sink.timeout"): [
        (
            {"retry__give_up_after": "30s"},
            conflicts,
            ["retry.give_up_after = 30s: not above sink.timeout = 30s", 'write "never"'],
        ),
        ({"retry__give_up_after": "31s"}, conflicts, []),
        ({"retry__give_up_after": "never"}, conflicts, []),
    ],
    ("window.max_age", "window.align"): [
        (
            {"window__align": "5m"},
            conflicts,
            ['window.align = "5m": window.max_age = 2s closes windows before', "to 5m or more"],
        ),
        ({"window__align": "5m", "window__max_age": "5m"}, conflicts, []),
    ],
    ("window.active", "`retention.ms` of the topics"): [
        (
            NIGHT,
            topic(16 * HOUR - 1, since_append=True),
            ["window.active = 22:00-06:00 UTC: nothing is released for up to 16h", "57599s"],
        ),
        (NIGHT, topic(16 * HOUR), []),
        ({}, topic(1), []),
    ],
    ("window.active", "`retention.bytes` of the topics"): [
        (NIGHT, topic(inf, 10**9), ["no more than 1GB of each partition", "for 16h", "to -1"]),
        (NIGHT, topic(inf), []),
        ({}, topic(inf, 10**9), []),
    ],
    ("retry.max_item_attempts", "`retention.ms` of the topics, for jobs"): [
        (
            JOB,
            topic(2 * DAY - 1),
            ["retry.max_item_attempts = 2: a job may take 2d with all its attempts", "172799s"],
        ),
        (JOB, topic(2 * DAY), []),
        (
            JOB | NIGHT,
            topic(2 * DAY),
            ["after a wait of up to 16h, and pages keeps its records for 2d", "more than 64h"],
        ),
        (JOB | NIGHT, topic(2 * DAY + 16 * HOUR), []),
    ],
    ("retry.max_item_attempts", "`retention.bytes` of the topics, for jobs"): [
        (JOB, topic(inf, 10**9), ["no more than 1GB of each partition", "for 2d"]),
        (JOB, topic(inf), []),
    ],
}

# Tested where there are brokers to ask: tests/integration/test_retry.py.
ELSEWHERE = {("dead_letter.retry_after", "`retention.ms` of the topics and of `dead_letter.topic`")}


def documented() -> set[tuple[str, str]]:
    _, _, section = DOCS.read_text().partition("### Times that fit")
    rows = re.findall(r"^\| `([^`|]+)` \| ([^|]+) \|", section, re.MULTILINE)
    return {(key, re.sub(r"^`([^`]+)`$", r"\1", against)) for key, against in rows}


def test_the_documentation_has_all_of_them_and_no_other() -> None:
    assert documented() == CASES.keys() | ELSEWHERE


@pytest.mark.parametrize(
    ("changes", "find", "said"),
    [case for cases in CASES.values() for case in cases],
    ids=[f"{key} against {other} {n}" for (key, other), c in CASES.items() for n in range(len(c))],
)
def test_what_does_not_fit_is_named_with_both_values_and_a_fix(
    changes: Mapping[str, Any], find: Find, said: list[str], loaded: Callable[..., Config]
) -> None:
    found = [str(problem) for problem in find(loaded(changes))]
    assert len(found) == bool(said), found
    assert all(part in text for text in found for part in said), found


def test_the_defaults_fit() -> None:
    [timeout] = [f.default for f in fields(SinkSettings) if f.name == "timeout"]
    assert ShutdownSettings().drain >= timeout

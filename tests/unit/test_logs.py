from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from sluiced import logs
from sluiced.logs import LogSettings
from sluiced.units import Secret


class Screen:
    """What has been written to stderr since it was last looked at."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def lines(self) -> list[str]:
        return self._capsys.readouterr().err.splitlines()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]

    def event(self) -> dict[str, Any]:
        (event,) = self.events()
        return event


@pytest.fixture
def screen(capsys: pytest.CaptureFixture[str]) -> Iterator[Screen]:
    """Logging as the daemon sets it up, and as it was before when the test is over."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for library in ("aiokafka", "asyncio"):
        logging.getLogger(library).setLevel(logging.NOTSET)  # a tool may have run in this process
    with warnings.catch_warnings():
        logs.configure(LogSettings(format="json"))
        yield Screen(capsys)
        logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_an_event_is_one_line_of_json_with_what_everybody_needs_first(screen: Screen) -> None:
    logs.get("pipeline").info("batch settled", records=500, closed_by="age")
    (line,) = screen.lines()
    event = json.loads(line)
    moment = datetime.fromisoformat(event.pop("timestamp"))
    assert moment.tzinfo == UTC
    assert list(json.loads(line))[:4] == ["timestamp", "level", "logger", "event"]
    assert event == {
        "level": "info",
        "logger": "pipeline",
        "event": "batch settled",
        "records": 500,
        "closed_by": "age",
    }


def test_an_exception_stays_on_its_line(screen: Screen) -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        logs.get("x").exception("it failed")
    assert "ValueError: broken\nin two" in screen.event()["exception"]


def test_what_is_below_the_level_is_not_written(screen: Screen) -> None:
    logger = logs.get("x")
    logger.debug("too fine")
    logs.configure(LogSettings(format="json", level="error"))
    logger.warning("not grave enough")
    logger.error("grave")
    assert screen.event()["event"] == "grave"


def test_a_logger_made_before_follows_a_later_configuration(screen: Screen) -> None:
    logger = logs.get("x")
    logger.debug("unseen")
    logs.configure(LogSettings(format="json", level="debug"))
    logger.debug("seen")
    assert screen.event()["event"] == "seen"


def test_configuring_twice_does_not_write_twice(screen: Screen) -> None:
    logs.configure(LogSettings(format="json"))
    logging.getLogger("aiokafka").warning("once")
    assert len(screen.lines()) == 1


def test_libraries_go_the_same_way_from_warning_up(screen: Screen) -> None:
    library = logging.getLogger("aiokafka.consumer")
    library.info("chatter")
    library.warning("node %s is gone", 3)
    event = screen.event()
    assert event.pop("timestamp")
    assert event == {
        "level": "warning",
        "logger": "aiokafka.consumer",
        "event": "node 3 is gone",
    }


def test_an_exception_in_a_library_comes_with_its_traceback(screen: Screen) -> None:
    try:
        raise OSError("no route")
    except OSError:
        logging.getLogger("asyncio").exception("Task exception was never retrieved")
    event = screen.event()
    assert event["level"] == "error"
    assert "OSError: no route" in event["exception"]


def test_a_level_of_a_library_s_own_is_taken_as_the_next_lower_one(screen: Screen) -> None:
    logging.getLogger("odd").log(35, "between")
    logging.getLogger("odd").log(99, "beyond")
    assert [e["level"] for e in screen.events()] == ["warning", "critical"]


def test_a_python_warning_becomes_an_event(screen: Screen) -> None:
    warnings.simplefilter("always")
    warnings.warn("old ways", UserWarning, stacklevel=1)
    event = screen.event()
    assert event["logger"] == "py.warnings"
    assert "old ways" in event["event"]


def test_a_repeated_line_of_a_library_is_held_back(screen: Screen) -> None:
    library = logging.getLogger("aiokafka.conn")
    for node in range(1000):
        library.error("connect to %s failed", node)
    library.error("something else")
    assert [e["event"] for e in screen.events()] == ["connect to 0 failed", "something else"]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def line(template: str, name: str = "lib") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 0, template, (), None)


def test_after_the_interval_a_line_says_how_many_were_held_back() -> None:
    clock = Clock()
    repeats = logs.Repeats(10, clock)
    assert repeats.filter(line("down"))
    assert not repeats.filter(line("down"))
    clock.now += 9.9
    assert not repeats.filter(line("down"))
    clock.now += 0.1
    record = line("down")
    assert repeats.filter(record)
    assert record.suppressed == 2  # type: ignore[attr-defined]
    clock.now += 10
    record = line("down")
    assert repeats.filter(record)
    assert record.suppressed == 0  # type: ignore[attr-defined]


def test_lines_of_another_logger_or_template_are_counted_apart() -> None:
    repeats = logs.Repeats(10, Clock())
    assert repeats.filter(line("down"))
    assert repeats.filter(line("up"))
    assert repeats.filter(line("down", name="other"))


def test_templates_without_number_do_not_fill_the_memory() -> None:
    repeats = logs.Repeats(10, Clock(), kinds=100)
    for number in range(1000):
        assert repeats.filter(line(f"f-string {number}"))
    assert len(repeats._seen) <= 100


def test_the_held_back_count_is_written(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    (bridge,) = [h for h in logging.getLogger().handlers if isinstance(h, logs._Bridge)]
    bridge.filters[:] = [logs.Repeats(10, clock)]
    library = logging.getLogger("aiokafka")
    library.error("down")
    library.error("down")
    clock.now += 10
    library.error("down")
    first, second = screen.events()
    assert "suppressed" not in first
    assert second["suppressed"] == 1


def test_an_event_of_ours_that_repeats_comes_so_often_and_then_with_how_many_were_held_back(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(logs, "Bursts", lambda: BURSTS(3, 10, clock))
    logs.configure(LogSettings(format="json"))
    log = logs.get("sluiced.delivery")
    for attempt in range(50):
        log.warning("batch_retry", attempt=attempt)
    log.warning("another")
    assert [e.get("attempt") for e in screen.events()] == [0, 1, 2, None]
    clock.now += 10
    for attempt in (50, 51):
        log.warning("batch_retry", attempt=attempt)
    assert [e.get("suppressed") for e in screen.events()] == [47, None]


BURSTS = logs.Bursts


def test_partitions_are_told_apart_and_debug_is_told_in_full(screen: Screen) -> None:
    logs.configure(LogSettings(format="json", level="debug"))
    log = logs.get("x")
    for partition in range(100):
        log.error("partition_stopped", partition=f"pages/{partition}")
        log.debug("batch_answered")
        log.info("signal")
    events = Counter(e["event"] for e in screen.events())
    assert events == {"partition_stopped": 100, "batch_answered": 100, "signal": logs.BURST}


def test_events_without_number_do_not_fill_the_memory() -> None:
    bursts = logs.Bursts(kinds=100)
    for number in range(1000):
        assert bursts(None, "warning", {"event": f"f-string {number}"})
    assert len(bursts._seen) <= 100


def test_in_the_journal_a_line_has_its_priority_and_nowhere_else(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "journal").open("w") as journal:
        monkeypatch.setattr(sys, "stderr", journal)
        logs.configure(LogSettings(format="json", level="debug"))
        log, stat = logs.get("x"), os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino + 1}")
        log.info("elsewhere")
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(log, level)("there")
    lines = (tmp_path / "journal").read_text().splitlines()
    assert [line.split("{")[0] for line in lines] == ["", "<7>", "<6>", "<4>", "<3>", "<2>"]


KEYS = (
    "authorization Authorization password sasl_password token access_token "
    "secret client-secret api_key apikey x-api-key set-cookie"
)


@pytest.mark.parametrize("key", KEYS.split())
def test_a_value_under_a_key_that_looks_like_a_secret_is_not_written(
    key: str, screen: Screen
) -> None:
    logs.get("x").warning("odd", **{key: "hunter2", "headers": {"a": [{key: b"hunter2"}]}})
    (written,) = screen.lines()
    assert "hunter2" not in written
    assert json.loads(written)[key] == "***"


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach https://me:hunter2@example.com/bulk",
        "sent Authorization: Bearer hunter2hunter2",
        "sent Authorization: Basic aHVudGVyMjpodW50ZXIy",
    ],
)
def test_a_secret_within_a_text_is_not_written(text: str, screen: Screen) -> None:
    logs.get("x").warning(text, error=RuntimeError(text), nested=[text])
    logging.getLogger("aiohttp").error("trouble: %s", text)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logs.get("x").exception("trouble")
    written = screen.lines()
    assert len(written) == 3
    assert all("hunter2" not in w and "aHVudGVy" not in w for w in written)


def test_where_a_secret_is_kept_may_be_told_but_under_a_secret_s_name(screen: Screen) -> None:
    logs.get("x").info("reading", source=Secret(env="API_TOKEN"), token=Secret(env="API_TOKEN"))
    event = screen.event()
    assert event["source"] == "env API_TOKEN"
    assert event["token"] == "***"


def test_numbers_are_no_secrets(screen: Screen) -> None:
    logs.get("x").info("limit", tokens_per_minute=90000, wait=0.5, token=None, ok=True)
    event = screen.event()
    assert event["tokens_per_minute"] == 90000
    assert (event["wait"], event["token"], event["ok"]) == (0.5, None, True)


def test_the_console_shows_one_readable_line(screen: Screen) -> None:
    logs.configure(LogSettings(format="console"))
    logs.get("pipeline").info("batch settled", records=500)
    (written,) = screen.lines()
    assert "batch settled" in written
    assert "records=500" in written
    assert "\x1b" not in written  # stderr is no terminal here


def test_nobody_can_break_a_console_line_or_steer_the_terminal(screen: Screen) -> None:
    logs.configure(LogSettings(format="console"))
    logs.get("x").warning("answer\nfake line", error="\x1b[2J\x9b1m\u2028evil")
    (written,) = screen.lines()
    assert "answer\\nfake line" in written
    assert "\\x1b[2J\\x9b1m\\u2028evil" in written


def test_a_console_traceback_shows_no_variables(screen: Screen) -> None:
    logs.configure(LogSettings(format="console"))
    hidden = "".join(["hun", "ter2"])
    try:
        raise ValueError(len(hidden))
    except ValueError:
        logs.get("x").exception("failed")
    written = "\n".join(screen.lines())
    assert "ValueError: 7" in written
    assert "hunter2" not in written


def test_auto_is_json_unless_stderr_is_a_terminal(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure(LogSettings())
    logs.get("x").info("to a file")
    assert screen.event()["event"] == "to a file"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    logs.configure(LogSettings())
    logs.get("x").info("to a person")
    with pytest.raises(json.JSONDecodeError):
        json.loads(terminal.getvalue())
    assert "to a person" in terminal.getvalue()


def test_a_closed_stderr_does_not_stop_the_daemon(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    logs.configure(LogSettings())
    logs.get("x").error("nobody hears")
    monkeypatch.setattr(sys, "stderr", None)
    logs.configure(LogSettings())
    logs.get("x").error("nobody hears")


def test_text_that_is_not_unicode_is_written_all_the_same(screen: Screen) -> None:
    logs.get("x").info("odd", key="\udc80", raw=b"\xff", number=float("nan"))
    assert screen.event()["raw"] == "b'\\xff'"

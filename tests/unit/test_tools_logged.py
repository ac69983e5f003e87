"""What `sluiced replay --batch` finds in a log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from sluiced import logs
from sluiced.errors import SluicedError
from sluiced.logs import Format, LogSettings
from sluiced.tools.replay.logged import find, ranges

ID = "47cba1b8c32327cfb9bb739212df5b29"
OTHER = "0fd805c7d0d34cc24578d0eaeb8c1c88"
RANGES = "pages/1/0-99,pages/2/7-7"


def written(capsys: pytest.CaptureFixture[str], style: Format) -> list[str]:
    """The log of a daemon that sent two batches, one of them twice, and buried some of one."""
    logs.configure(LogSettings(level="debug", format=style))
    log = logs.get("sluiced.delivery")
    for batch, named in ((OTHER, "pages/0/0-99"), (ID, RANGES), (ID, RANGES)):
        log.debug("batch_answered", batch=batch, records=101, ranges=named, answer="answered")
    log.warning("dead_lettered", batch=ID, error="it's { broken", first="pages/1/3")
    return capsys.readouterr().err.splitlines(keepends=True)


@pytest.mark.parametrize("style", ["json", "console"])
def test_the_ranges_are_found_in_whatever_format_the_daemon_writes(
    capsys: pytest.CaptureFixture[str], style: Format
) -> None:
    lines = written(capsys, style)
    assert ranges(lines, ID, "log") == RANGES
    assert ranges(lines, OTHER, "log") == "pages/0/0-99"


def test_colours_do_not_hide_them() -> None:
    line = (
        "\x1b[2m2026-11-24T15:00:00Z\x1b[0m [\x1b[32m\x1b[1mdebug    \x1b[0m] \x1b[1mbatch_answered"
        f"\x1b[0m \x1b[36mbatch\x1b[0m=\x1b[35m{ID}\x1b[0m "
        f"\x1b[36mranges\x1b[0m=\x1b[35m{RANGES}\x1b[0m\n"
    )
    assert ranges([line], ID, "log") == RANGES


def test_what_a_journal_puts_around_a_line_does_not_hide_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for style in get_args(Format)[1:]:
        lines = written(capsys, style)
        short = [f"Nov 24 15:00:00 host sluiced[71]: {line}" for line in lines]
        assert ranges(["-- Boot {of that} --\n", *short], ID, "log") == RANGES
        wrapped = [json.dumps({"MESSAGE": line.rstrip(), "_PID": "71"}) for line in lines]
        assert ranges(wrapped, ID, "log") == RANGES


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "does not say which records went into which batch"),
        ([f'{{"event":"dead_lettered","batch":"{ID}"}}'], "but not its records"),
        ([f'{{"event":"batch_answered","batch":"{OTHER}","ranges":"a/0/1-1"}}'], "does not name"),
    ],
)
def test_a_log_that_does_not_hold_them_is_said_to_need_the_debug_level(
    lines: list[str], said: str
) -> None:
    with pytest.raises(SluicedError, match=said) as raised:
        ranges(lines, ID, "pages.log")
    assert raised.value.message.startswith("pages.log ")
    assert '"debug"' in raised.value.hint


def test_a_log_that_cannot_be_read_and_an_id_that_is_none_are_said(tmp_path: Path) -> None:
    with pytest.raises(SluicedError, match="cannot be read: No such file"):
        find(str(tmp_path / "none.log"), ID)
    with pytest.raises(SluicedError, match="is not a batch id"):
        find("-", "pages/1/0-99")


def test_bytes_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "pages.log"
    line = json.dumps({"event": "batch_answered", "batch": ID, "ranges": RANGES})
    file.write_bytes(b"\xff\xfe\x00 {\n" + line.encode() + b"\n")
    assert find(str(file), ID) == RANGES

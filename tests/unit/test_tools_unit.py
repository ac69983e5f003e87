"""The timeouts of the unit that runs a file, against those in the file."""

from __future__ import annotations

import sys
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluiced.cli import main
from sluiced.config import Config, load
from sluiced.kafka.consumer import REBALANCE_MARGIN, rebalance_timeout
from sluiced.process import STOP_MARGIN
from sluiced.tools.unit import installed, problems, seconds

CONFIG = """
name = "pages"
kafka = { bootstrap_servers = ["127.0.0.1:9092"], group_id = "g", topics = ["pages"] }
sink = { type = "http", url = "https://cms.example.com/bulk", idempotency_header = "Key" }
dead_letter = { topic = "pages.dead" }
shutdown = { drain = "45s" }
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "pages.toml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def config(path: Path) -> Config:
    return load(path)


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ({}, []),
        ({"NotifyAccess": "main", "TimeoutStopUSec": "1s"}, []),
        ({"NotifyAccess": "none", "TimeoutStopUSec": "1min 20s"}, []),
        ({"NotifyAccess": "none", "TimeoutStopUSec": "infinity"}, []),
        (
            {"NotifyAccess": "none", "TimeoutStopUSec": "1min 19s"},
            ["shutdown.drain = 45s: its unit has TimeoutStopSec = 79s"],
        ),
        ({"TimeoutStartUSec": "5min"}, []),
        (
            {"TimeoutStartUSec": "3min"},
            ["kafka.group_id = g: its unit has TimeoutStartSec = 3m, and joining"],
        ),
    ],
)
def test_a_unit_that_is_less_patient_than_the_daemon_needs_is_named_with_both_values(
    config: Config, unit: dict[str, str], said: list[str]
) -> None:
    found = [str(problem) for problem in problems(config, unit)]
    assert [text[: len(start)] for text, start in zip(found, said, strict=True)] == said


def test_what_a_warning_tells_to_write_cures_it(config: Config) -> None:
    [warning] = problems(config, {"NotifyAccess": "none", "TimeoutStopUSec": "10s"})
    assert f"TimeoutStopSec={45 + STOP_MARGIN:.0f}" in warning.text


@pytest.mark.parametrize(
    ("shown", "expected"),
    [("1min 30s", 90), ("1h 500ms", 3600.5), ("45s", 45), ("infinity", inf), ("", inf)],
)
def test_a_span_is_read_as_systemd_shows_it(shown: str, expected: float) -> None:
    assert seconds(shown) == expected


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is alone on the PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory / "systemctl"


def test_the_unit_is_asked_for_by_the_name_of_the_file(path: Path, systemctl: Path) -> None:
    systemctl.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "show sluiced@pages.service" ] || exit 1\n'
        f'echo "TimeoutStopUSec=1min"\n'
        f'echo "ExecStart={{ path=/x ; argv[]=/x run {path} ; ignore_errors=no }}"\n'
    )
    systemctl.chmod(0o755)
    assert installed(path)["TimeoutStopUSec"] == "1min"
    other = path.with_name("other") / "pages.toml"
    assert installed(other) == {}, "a unit of that name runs another file"


def test_check_shows_what_the_unit_would_cut_off(
    path: Path, systemctl: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systemctl.write_text(
        "#!/bin/sh\necho NotifyAccess=none\necho TimeoutStopUSec=10s\n"
        f'echo "ExecStart={{ path=/x ; argv[]=/x run {path} ; ignore_errors=no }}"\n'
    )
    systemctl.chmod(0o755)
    monkeypatch.setattr(sys, "argv", ["sluiced", "check", str(path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert "warning: shutdown.drain = 45s: its unit has TimeoutStopSec = 10s" in (
        capsys.readouterr().err
    )


def test_without_systemd_there_is_no_unit(path: Path, systemctl: Path) -> None:
    assert installed(path) == {}
    systemctl.write_text("#!/bin/sh\necho 'System has not been booted with systemd' >&2\nexit 1\n")
    systemctl.chmod(0o755)
    assert installed(path) == {}


@given(st.floats(0.1, 3600))
def test_a_rebalance_waits_longer_than_a_member_drains(drain: float) -> None:
    assert rebalance_timeout(drain) >= drain + REBALANCE_MARGIN
    assert rebalance_timeout(drain) >= 60

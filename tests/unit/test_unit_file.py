"""The figures in systemd/ against those in the code that they are derived from."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from sluiced.cli import BAD_CONFIGURATION, LOST_RANGE
from sluiced.gate import LimitSettings
from sluiced.kafka.consumer import START_TIMEOUT
from sluiced.kafka.source import STOP_TIMEOUT
from sluiced.pipeline import ShutdownSettings
from sluiced.units import Duration, Size

SYSTEMD = Path(__file__).resolve().parent.parent.parent / "systemd"


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """All settings of the unit, each with the values that it is given in turn."""
    found = defaultdict(list)
    for line in (SYSTEMD / "sluiced@.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name].append(value)
    return dict(found)


def seconds(value: str) -> float:
    return float(value) if value.isdigit() else Duration.parse(value.replace("min", "m"))


def test_a_stop_may_take_the_whole_drain_and_closing_producer_and_consumer(
    unit: dict[str, list[str]],
) -> None:
    [stop] = unit["TimeoutStopSec"]
    assert seconds(stop) >= ShutdownSettings().drain + 2 * STOP_TIMEOUT + 5


def test_a_start_may_take_as_long_as_joining_the_group_may(unit: dict[str, list[str]]) -> None:
    [start] = unit["TimeoutStartSec"]
    assert seconds(start) > START_TIMEOUT + 60


def test_the_memory_that_benchmarks_allow_for_fits(unit: dict[str, list[str]]) -> None:
    [most] = unit["MemoryMax"]
    assert Size.parse(most.replace("M", "MiB")) > LimitSettings().memory + 150_000_000


def test_what_only_a_person_can_mend_is_not_started_again(unit: dict[str, list[str]]) -> None:
    [codes] = unit["RestartPreventExitStatus"]
    assert codes.split() == [str(BAD_CONFIGURATION), str(LOST_RANGE)]


def test_reload_and_stop_send_the_signals_that_the_daemon_obeys(
    unit: dict[str, list[str]],
) -> None:
    assert unit["ExecReload"] == ["/bin/sh -c 'kill -HUP ${MAINPID}'"], "/bin/kill may be missing"
    assert "KillSignal" not in unit, "SIGTERM is systemd's own default"
    drop_in = (SYSTEMD / "drop-ins/notify-reload.conf").read_text()
    assert "ReloadSignal=SIGHUP" in drop_in.splitlines()

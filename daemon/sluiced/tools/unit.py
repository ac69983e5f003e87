"""Whether the timeouts of the systemd unit that runs a file, if there is one, go with it."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..config import Config
from ..errors import Problem
from ..kafka.consumer import START_TIMEOUT
from ..process import STOP_MARGIN
from ..units import Duration

ASK_TIMEOUT = 3.0  # seconds; a check is not held up by a supervisor that does not answer
PROPERTIES = ("ExecStart", "NotifyAccess", "TimeoutStartUSec", "TimeoutStopUSec")

# The units of systemd.time(7) that `systemctl show` uses.
_SECONDS = {
    "us": 1e-6,
    "ms": 0.001,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "month": 2629800.0,
    "y": 31557600.0,
}


def installed(path: Path) -> Mapping[str, str]:
    """The properties of sluiced@NAME for a file NAME.toml, drop-ins included; empty where systemd
    cannot be asked or that unit runs another file."""
    name = f"sluiced@{path.stem}.service"
    command = ["systemctl", "show", name, f"--property={','.join(PROPERTIES)}"]
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and one argument that begins with "sluiced@"
            command, capture_output=True, text=True, timeout=ASK_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return {}
    lines = (line.partition("=") for line in done.stdout.splitlines())
    found = {key: value for key, _, value in lines}
    runs = found.get("ExecStart", "").split()
    return found if str(path.absolute()) in runs else {}


def problems(config: Config, unit: Mapping[str, str]) -> Iterator[Problem]:
    """What its supervisor would cut off."""
    drain = config.shutdown.drain
    stop, start = (seconds(unit.get(f"Timeout{which}USec", "")) for which in ("Stop", "Start"))
    if unit.get("NotifyAccess") == "none" and stop < drain + STOP_MARGIN:
        yield Problem(
            "shutdown.drain",
            f"its unit has TimeoutStopSec = {Duration(stop)} and would kill the daemon before the "
            f"drain and the {Duration(STOP_MARGIN)} to close everything are over; write "
            f"TimeoutStopSec={math.ceil(drain + STOP_MARGIN)}, or NotifyAccess=main, with which "
            "the daemon asks for that time",
            "warning",
            str(drain),
        )
    if start <= START_TIMEOUT:
        yield Problem(
            "kafka.group_id",
            f"its unit has TimeoutStartSec = {Duration(start)}, and joining the group may take "
            f"{Duration(START_TIMEOUT)}; write TimeoutStartSec=5min",
            "warning",
            config.kafka.group_id,
        )


def seconds(span: str) -> float:
    """ "1min 30s" as systemd shows it; infinity for "infinity" and for what cannot be read."""
    parts = re.findall(r"([\d.]+)([a-z]+)", span)
    if not parts or any(unit not in _SECONDS for _, unit in parts):
        return math.inf
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)

"""Tells systemd what the daemon is doing: sd_notify(3), without a library.

Every function does nothing where $NOTIFY_SOCKET is not set, and none of them raises: a daemon
must not fail because its supervisor does not listen.
"""

from __future__ import annotations

import os
import re
import socket
import time
from contextlib import suppress

# How long one message may hold up the event loop when systemd's queue is full.
SEND_TIMEOUT = 0.2

_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def ready(status: str = "") -> None:
    """The daemon is up, for the first time or again after `reloading`."""
    _send("READY=1", *_status(status))


def reloading() -> None:
    """A reload has begun. Type=notify-reload wants to know when, to tell it from an older one."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    _send("RELOADING=1", f"MONOTONIC_USEC={now}")


def stopping(status: str = "", *, seconds: float | None = None) -> None:
    """A stop has begun. `seconds` is how long it may take, where that may be longer than the
    unit's TimeoutStopSec= is: systemd waits for so long from now on."""
    extend = [] if seconds is None else [f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"]
    _send("STOPPING=1", *extend, *_status(status))


def status(text: str) -> None:
    """One line for `systemctl status`."""
    _send(*_status(text))


def watchdog() -> None:
    """The daemon makes progress; due at least every `watchdog_interval()` seconds."""
    _send("WATCHDOG=1")


def watchdog_interval() -> float | None:
    """Seconds between two calls of `watchdog`: half of WatchdogSec=, as sd_watchdog_enabled(3)
    advises. None where systemd does not watch this process."""
    pid = os.environ.get("WATCHDOG_PID")
    if pid is not None and pid != str(os.getpid()):
        return None  # meant for the parent that we inherited the environment from
    usec = os.environ.get("WATCHDOG_USEC", "")
    if not (usec.isascii() and usec.isdigit()) or int(usec) == 0:
        return None
    return int(usec) / 2_000_000


def _status(text: str) -> list[str]:
    # A line break would start another assignment, and a text may hold what a server answered.
    return [f"STATUS={_CONTROL.sub(' ', text)}"] if text else []


def _send(*lines: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not lines or path[:1] not in ("/", "@"):
        return
    address = "\0" + path[1:] if path[0] == "@" else path
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.settimeout(SEND_TIMEOUT)
        sock.sendto("\n".join(lines).encode(errors="replace"), address)

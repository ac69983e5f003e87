from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sluiced import notify


class Systemd:
    """The receiving end of $NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind(address)

    def heard(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    receiver = Systemd(path)
    with receiver.socket:
        yield receiver


def test_ready_comes_with_a_status(systemd: Systemd) -> None:
    notify.ready("2 partitions")
    assert systemd.heard() == ["READY=1", "STATUS=2 partitions"]


def test_each_state_has_its_word(systemd: Systemd) -> None:
    notify.ready()
    notify.stopping()
    notify.stopping("draining")
    notify.watchdog()
    notify.status("halted")
    assert systemd.heard() == ["READY=1"]
    assert systemd.heard() == ["STOPPING=1"]
    assert systemd.heard() == ["STOPPING=1", "STATUS=draining"]
    assert systemd.heard() == ["WATCHDOG=1"]
    assert systemd.heard() == ["STATUS=halted"]


def test_a_reload_says_when_it_began_on_the_monotonic_clock(systemd: Systemd) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    word, moment = systemd.heard()
    assert word == "RELOADING=1"
    name, _, usec = moment.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(usec) <= after


def test_a_stop_that_may_take_long_asks_for_the_time(systemd: Systemd) -> None:
    notify.stopping("draining", seconds=90.5)
    assert systemd.heard() == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=90500000", "STATUS=draining"]


def test_a_status_cannot_smuggle_in_another_assignment(systemd: Systemd) -> None:
    notify.status("the sink said\nMAINPID=1\x00\r\nbye")
    assert systemd.heard() == ["STATUS=the sink said MAINPID=1 bye"]


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"sluiced-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    receiver = Systemd(f"\0{name}")
    with receiver.socket:
        notify.watchdog()
        assert receiver.heard() == ["WATCHDOG=1"]


@pytest.mark.parametrize("address", [None, "", "vsock:2:1", "/nowhere/at/all", "/" + "x" * 500])
def test_nobody_listening_is_no_error(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    calls: list[Callable[[], None]] = [
        notify.ready,
        notify.stopping,
        notify.watchdog,
        notify.reloading,
        lambda: notify.status("x\ud800"),
    ]
    for call in calls:
        call()


def test_a_full_queue_holds_the_daemon_up_for_a_moment_only(systemd: Systemd) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sock.sendto(b"x", systemd.socket.getsockname())
        before = time.monotonic()
        notify.watchdog()
        assert time.monotonic() - before < 5


def test_the_watchdog_is_fed_twice_as_often_as_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert notify.watchdog_interval() == 15.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert notify.watchdog_interval() == 15.0


def test_a_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert notify.watchdog_interval() is None


@pytest.mark.parametrize("usec", [None, "", "0", "-5", "soon", "1.5"])
def test_no_usable_watchdog_is_none(usec: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if usec is not None:
        monkeypatch.setenv("WATCHDOG_USEC", usec)
    assert notify.watchdog_interval() is None

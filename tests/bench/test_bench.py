"""The benchmark must be able to tell what its figures claim."""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
from dataclasses import replace

import pytest

from loads.models import Model

from . import report
from .loads import measure
from .produce import MARKER, RECORD_BYTES, page
from .rounds import Standing
from .server import Server, State


def _body(*seqs: int) -> bytes:
    return b"[" + b",".join(map(page, seqs)) + b"]"


@pytest.mark.parametrize("seq", [0, 7, 399_999])
def test_a_value_is_json_of_the_size_asked_for_and_carries_its_number(seq: int) -> None:
    value = page(seq)
    assert len(value) == RECORD_BYTES
    assert json.loads(value)["seq"] == seq
    assert value.count(MARKER) == 1


def test_a_record_that_came_twice_does_not_make_up_for_one_that_never_came() -> None:
    state = State()
    for body in (_body(0, 1), _body(1, 2), _body(1, 4)):
        state.batch(body)
    result = state.result(expected=5)
    assert (result.lost, result.duplicated) == (1, 2)


def test_the_first_window_is_neither_in_the_time_nor_in_the_count() -> None:
    state = State()
    for body in (_body(0, 1, 2), _body(3), _body(4, 5)):
        state.batch(body)
    state.arrivals = [a._replace(at=10.0 + i, cpu=2.0 * i) for i, a in enumerate(state.arrivals)]
    result = state.result(expected=6)
    assert (result.records, result.seconds, result.cpu_seconds) == (3, 2.0, 4.0)


def test_the_server_reads_whole_bodies_and_answers_each() -> None:
    with Server() as server:
        server.ask("/bulk", _body(*range(20_000)))  # 5 MB: many reads of the socket
        server.ask("/bulk", _body(20_000))
        assert server.progress()["records"] == 20_001
        assert server.result(20_001).lost == 0


def test_two_requests_in_one_packet_are_two_requests() -> None:
    request = b"POST /bulk HTTP/1.1\r\nContent-Length: 250\r\n\r\n"
    with Server() as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(request + page(0) + request + page(1))
        answers = b""
        while answers.count(b"200 OK") < 2:
            answers += client.recv(4096)
        assert server.result(2).lost == 0


def test_every_target_is_judged_by_its_own_figure() -> None:
    good = Standing(200_000, 3.0, 90_000_000, 80, 0, 0, rate_ratio=0.85, cpu_ratio=1.3)
    missed = {
        "throughput": replace(good, rate_ratio=0.84),
        "CPU": replace(good, cpu_ratio=1.31),
        "RSS": replace(good, rss=report.RSS_BELOW),
        "none lost": replace(good, lost=1),
        "none lost or": replace(good, duplicated=1),
    }
    assert "MISSED" not in report.standings({"x": good}, {"x": 1.3})
    for target, standing in missed.items():
        (wrong,) = [v for v in report._verdicts(standing, 1.3) if "MISSED" in v]
        assert wrong.startswith(target)


class Idle(selectors.DefaultSelector):
    """A clock that goes on only while nothing happens: on no machine does work take time."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not timeout:
            return super().select(timeout)
        if not (happened := super().select(0.005)):
            self.now += timeout
        return happened


def idle() -> asyncio.AbstractEventLoop:
    clock = Idle()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now  # type: ignore[method-assign]
    return loop


def test_the_servers_of_which_the_best_load_is_known_are_what_they_are_taken_for() -> None:
    """A fixed setting must deliver what its model says, or no comparison with it means a thing."""
    model = Model(workers=2, per_request=0.05, per_record=0.0005, network=0.0)
    with asyncio.Runner(loop_factory=idle) as runner:
        delivered, slots, size = runner.run(measure(model, (3, 100), learn=0.3, seconds=1.5))
    assert (slots, size) == (3, 100)
    assert delivered == pytest.approx(model.goodput(3, 100), rel=0.1)

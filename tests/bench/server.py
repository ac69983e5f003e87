"""A bulk API that costs next to nothing: reads the body, notes it, answers 200.

It is a process of its own, and raw asyncio, so that on a small machine the contestants and not the
server are measured. What must be computed (which records came, and how often) is computed when the
run is over.

    POST /bulk        a batch; kept, and answered with 200
    POST /stalled     a batch; read, and never answered
    POST /begin?PID   forgets everything; from now on the CPU time of that process is noted
    GET  /progress    what has come so far
    GET  /result?N    the figures of a run of N records
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import psutil

from harness.child import Child

from .produce import MARKER

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SEQ = re.compile(re.escape(MARKER) + rb"(\d+)")


class Arrival(NamedTuple):
    """A request whose body is complete."""

    at: float  # seconds, monotonic
    cpu: float  # seconds of CPU that the contestant had spent by then
    body: bytes
    records: int


@dataclass(frozen=True)
class Result:
    """What the server saw of one run.

    `seconds`, `cpu_seconds` and `records` are those between the first request and the last: start
    of the process, joining the group and the first window are not in any of the three.
    """

    seconds: float
    cpu_seconds: float
    records: int
    requests: int
    lost: int
    duplicated: int


class State:
    """What has come since the run began."""

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, pid: int) -> None:
        self.contestant = psutil.Process(pid) if pid else None
        self.arrivals: list[Arrival] = []
        self.records = 0
        self.stalled = 0

    def batch(self, body: bytes) -> None:
        records = body.count(MARKER)
        self.arrivals.append(Arrival(time.monotonic(), self._cpu(), body, records))
        self.records += records

    def _cpu(self) -> float:
        if self.contestant is None:
            return 0.0
        times = self.contestant.cpu_times()
        return float(times.user + times.system)

    def progress(self) -> dict[str, float]:
        last = self.arrivals[-1].at if self.arrivals else None
        idle = 0.0 if last is None else time.monotonic() - last
        return {"records": self.records, "stalled": self.stalled, "idle": idle}

    def result(self, expected: int) -> Result:
        seen = bytearray(expected)
        for arrival in self.arrivals:
            for seq in _SEQ.findall(arrival.body):
                seen[int(seq)] = 1
        first, last = self.arrivals[0], self.arrivals[-1]
        unique = sum(seen)
        return Result(
            seconds=last.at - first.at,
            cpu_seconds=last.cpu - first.cpu,
            records=self.records - first.records,
            requests=len(self.arrivals),
            lost=expected - unique,
            duplicated=self.records - unique,
        )


class Connection(asyncio.Protocol):
    """HTTP/1.1 as far as a client needs it that sends a Content-Length."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._received = bytearray()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n", 0, 65_536)) >= 0:
            head = bytes(self._received[:end])
            found = _LENGTH.search(head)
            size = end + 4 + int(found[1]) if found else end + 4
            if len(self._received) < size:
                return
            body = bytes(memoryview(self._received)[end + 4 : size])
            del self._received[:size]
            self._answer(head.split(b" ", 2)[1].decode(), body)

    def _answer(self, target: str, body: bytes) -> None:
        path, _, argument = target.partition("?")
        answer: object = {}
        match path:
            case "/bulk":
                self._state.batch(body)
            case "/stalled":
                self._state.stalled += 1
                return
            case "/begin":
                self._state.begin(int(argument))
            case "/progress":
                answer = self._state.progress()
            case "/result":
                answer = asdict(self._state.result(int(argument)))
            case _:
                raise ValueError(f"no such path: {path}")
        text = json.dumps(answer).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % len(text) + text)


class Server(Child):
    """The server as a child process, and what the benchmark asks of it."""

    def __init__(self) -> None:
        super().__init__("bench.server")

    def begin(self, pid: int) -> None:
        self.ask(f"/begin?{pid}", b"")

    def progress(self) -> dict[str, float]:
        answer: dict[str, float] = json.loads(self.ask("/progress"))
        return answer

    def result(self, expected: int) -> Result:
        return Result(**json.loads(self.ask(f"/result?{expected}")))


async def serve() -> None:
    state = State()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())

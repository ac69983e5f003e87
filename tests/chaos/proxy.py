"""A TCP proxy on loopback that can be told to do what networks do.

Nothing is known here of what passes through: "asks" are bytes from whoever connected, "answers"
those of the server behind.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from sluiced.tools.embedded_broker import free_ports

Kind = Literal["latency", "cut", "reset", "slow", "truncate", "silence", "refuse"]

_PIECE = 64 * 1024
_TICK = 0.05  # seconds between two pieces of a slow connection
# Close with RST instead of FIN: linger for no time at all.
_LINGER_ZERO = struct.pack("ii", 1, 0)

# What becomes of connections is none of the proxy's trouble.
_GONE = (OSError, EOFError)


@dataclass(frozen=True)
class Fault:
    """What is wrong with the network until further notice.

    latency   each piece of bytes is `amount` seconds on its way
    cut       connections end, both ends told so (FIN); new ones are fine
    reset     the same with RST: what was on its way is lost
    slow      `amount` bytes per second and direction
    truncate  each connection ends after `amount` more bytes of answers
    silence   a black hole: connections are accepted and nothing moves on any, in either direction
    refuse    connections end, and new ones are refused
    """

    kind: Kind
    amount: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.amount:g}" if self.amount else self.kind


@dataclass(eq=False)
class _Connection:
    """Both ends. `answered` counts bytes of answers since the fault of now began."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    answered: int = 0
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def end(self, *, rudely: bool) -> None:
        """Ends both sides; what still waits to be written is lost."""
        for writer in (self.near, self.far):
            if writer is None:
                continue
            if rudely:
                sock: socket.socket = writer.get_extra_info("socket")
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            writer.transport.abort()
        if self.task is not None:
            self.task.cancel()


class Proxy:
    """Listens on a loopback port and passes everything on to `target`, also a loopback port.

    An async context manager. The port stays the same for the proxy's life, and is none that
    somebody else may be given while everybody is refused.
    """

    def __init__(self, target: int, port: int | None = None) -> None:
        self.target = target
        self.port = port or free_ports(1)[0]
        self.accepted = 0  # connections, ever
        self.fault: Fault | None = None
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._moving = asyncio.Event()
        self._moving.set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._close_door()
        await self._end_all(rudely=True)

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    async def begin(self, fault: Fault) -> None:
        """From now on the network has this fault, in place of any other."""
        await self.heal()
        self.fault = fault
        for connection in self._connections:
            connection.answered = 0
        match fault.kind:
            case "cut" | "reset":
                await self._end_all(rudely=fault.kind == "reset")
            case "silence":
                self._moving.clear()
            case "refuse":
                await self._close_door()
                await self._end_all(rudely=False)

    async def heal(self) -> None:
        """The network is sound again. Connections that fell silent are reset, as by a router that
        has forgotten them."""
        fault, self.fault = self.fault, None
        if fault is None:
            return
        if fault.kind == "silence":
            await self._end_all(rudely=True)
            self._moving.set()
        elif fault.kind == "refuse":
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _close_door(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _end_all(self, *, rudely: bool) -> None:
        tasks = [c.task for c in self._connections if c.task is not None]
        for connection in list(self._connections):
            connection.end(rudely=rudely)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer, task=asyncio.current_task())
        self._connections.add(connection)
        self.accepted += 1
        try:
            await self._pass_on(connection, reader)
        except (*_GONE, asyncio.CancelledError):
            pass  # asyncio logs a cancelled server task as if it had failed
        finally:
            self._connections.discard(connection)
            connection.task = None
            connection.end(rudely=False)

    async def _pass_on(self, connection: _Connection, asks: asyncio.StreamReader) -> None:
        await self._moving.wait()
        answers, connection.far = await asyncio.open_connection("127.0.0.1", self.target)
        ways = [
            asyncio.ensure_future(self._pump(asks, connection.far, lambda size: size)),
            asyncio.ensure_future(
                self._pump(answers, connection.near, lambda size: self._allowance(connection, size))
            ),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        await _flushed(connection.near)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        allowance: Callable[[int], int],
    ) -> None:
        """One direction until its source ends or `allowance` grants less than a whole piece."""
        while piece := await source.read(_PIECE):
            await self._moving.wait()
            granted = allowance(len(piece))
            await self._write(target, piece[:granted])
            if granted < len(piece):
                return

    def _allowance(self, connection: _Connection, size: int) -> int:
        """How many bytes of an answer still get through."""
        if self.fault is None or self.fault.kind != "truncate":
            return size
        granted = min(size, int(self.fault.amount) - connection.answered)
        connection.answered += granted
        return granted

    async def _write(self, target: asyncio.StreamWriter, piece: bytes) -> None:
        if self.fault is not None and self.fault.kind == "latency":
            await asyncio.sleep(self.fault.amount)
        while piece:
            part = piece
            if (fault := self.fault) is not None and fault.kind == "slow":
                part = piece[: max(1, int(fault.amount * _TICK))]
                await asyncio.sleep(_TICK)
            await self._moving.wait()
            target.write(part)
            await target.drain()
            piece = piece[len(part) :]


async def _flushed(writer: asyncio.StreamWriter) -> None:
    """Everything written is with the kernel, and the end is told after it."""
    writer.close()
    with suppress(*_GONE):
        await writer.wait_closed()

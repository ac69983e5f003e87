"""The fault proxy must do to connections what it says, or the chaos behind it is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from .proxy import Fault, Proxy

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def _echo() -> AsyncIterator[Proxy]:
    """A proxy before a server that sends back what it reads."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


@asynccontextmanager
async def _client(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    writer.write(text)
    return await asyncio.wait_for(reader.readexactly(len(text)), 30)


async def test_without_a_fault_every_byte_comes_back() -> None:
    text = bytes(range(256)) * 4096
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        assert await _ask(reader, writer, text) == text
        assert proxy.accepted == proxy.open_connections == 1


async def test_what_the_server_sent_before_it_hung_up_arrives_in_full() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 1_000_000)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    async with server, proxy, _client(proxy) as (reader, _):
        assert len(await asyncio.wait_for(reader.read(), 30)) == 1_000_000


async def test_latency_holds_each_way_for_its_time() -> None:
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        await proxy.begin(Fault("latency", 0.1))
        started = time.monotonic()
        await _ask(reader, writer, b"hello")
        assert time.monotonic() - started >= 0.2


async def test_slow_lets_through_so_many_bytes_a_second() -> None:
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        await proxy.begin(Fault("slow", 10_000))
        started = time.monotonic()
        await _ask(reader, writer, b"x" * 5000)
        assert time.monotonic() - started >= 0.45


async def test_cut_tells_the_end_and_the_next_connection_is_fine() -> None:
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        await _ask(reader, writer, b"hello")
        await proxy.begin(Fault("cut"))
        assert await asyncio.wait_for(reader.read(), 30) == b""
        assert proxy.open_connections == 0
        async with _client(proxy) as again:
            assert await _ask(*again, b"again") == b"again"


async def test_reset_is_an_error_and_not_an_end() -> None:
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        await _ask(reader, writer, b"hello")
        await proxy.begin(Fault("reset"))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 30)


async def test_truncate_ends_each_connection_in_the_middle_of_an_answer() -> None:
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        await _ask(reader, writer, b"before the fault nothing is counted")
        await proxy.begin(Fault("truncate", 7))
        for asked in ((reader, writer), None):
            async with _client(proxy) as fresh:
                near = asked or fresh
                near[1].write(b"0123456789")
                assert await asyncio.wait_for(near[0].read(), 30) == b"0123456"


async def test_silence_accepts_and_answers_nothing_until_it_is_over_and_then_resets() -> None:
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        await _ask(reader, writer, b"hello")
        await proxy.begin(Fault("silence"))
        async with _client(proxy) as fresh:
            for _, silent in ((reader, writer), fresh):
                silent.write(b"anybody there?")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.2)
            await proxy.heal()
            for hung, _ in ((reader, writer), fresh):
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(hung.read(1), 30)
        async with _client(proxy) as again:
            assert await _ask(*again, b"again") == b"again"


async def test_refuse_lets_nobody_in_until_it_is_over_and_keeps_its_port() -> None:
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        await _ask(reader, writer, b"hello")
        port = proxy.port
        await proxy.begin(Fault("refuse"))
        assert await asyncio.wait_for(reader.read(), 30) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await proxy.heal()
        assert proxy.port == port
        async with _client(proxy) as again:
            assert await _ask(*again, b"again") == b"again"


async def test_one_fault_takes_the_place_of_another() -> None:
    async with _echo() as proxy:
        await proxy.begin(Fault("refuse"))
        await proxy.begin(Fault("latency", 0.01))
        async with _client(proxy) as near:
            assert await _ask(*near, b"hello") == b"hello"
        assert str(proxy.fault) == "latency 0.01"


async def test_a_server_that_is_down_ends_the_connection_and_not_the_proxy() -> None:
    async with _echo() as proxy:
        target, proxy.target = proxy.target, 1
        async with _client(proxy) as (reader, _):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        proxy.target = target
        async with _client(proxy) as near:
            assert await _ask(*near, b"hello") == b"hello"

"""The HTTP sink against servers that misbehave below and around the answer's content."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import cramjam
import msgspec
import pytest
import trustme
from aiohttp import web

from contract.api import (
    answering,
    api,
    batch_of,
    http_settings,
    opened,
    read_request,
    saying,
    socket_server,
)
from fakes import FakeRecord
from sluiced.errors import ConfigError, SluicedError
from sluiced.outcome import DELIVERED, Again, Answered, Outcome, Refused, TooLarge
from sluiced.sinks.credentials import HIDDEN, Credentials
from sluiced.sinks.encoding import PIECE, compress, inflater
from sluiced.sinks.http import HttpSink
from sluiced.units import Secret

pytestmark = pytest.mark.anyio

PER_ITEM = {"items": "/responses", "status": "/status"}
OK = b"HTTP/1.1 200 OK\r\n"


async def sent(url: str, count: int = 3, **keys: Any) -> Outcome:
    async with opened(http_settings(url, **keys)) as sink:
        return await sink.send(batch_of(count))


def again(outcome: Outcome, reason: str) -> Again:
    assert isinstance(outcome, Again), outcome
    assert outcome.reason == reason
    return outcome


# What goes out


async def test_a_plain_request_is_a_post_of_a_json_array() -> None:
    async with api(answering()) as server:
        outcome = await sent(server.url)
    assert outcome == Answered([DELIVERED] * 3)
    assert server.bodies == [b'[{"n":0},{"n":1},{"n":2}]']
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/bulk")
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"].startswith("sluiced/")
    assert request.headers["Accept-Encoding"] == "gzip"


async def test_a_body_of_lines_says_so_in_its_content_type() -> None:
    body = {"separator": "\n", "envelope": "$items\n"}
    async with api(answering()) as server:
        await sent(server.url, body=body)
        await sent(server.url, body=body, headers={"content-type": "text/plain"})
    assert server.bodies[0] == b'{"n":0}\n{"n":1}\n{"n":2}\n'
    types = [request.headers.getall("Content-Type") for request in server.requests]
    assert types == [["application/x-ndjson"], ["text/plain"]]


async def test_the_batch_is_named_in_url_and_headers() -> None:
    async with api(answering()) as server:
        await sent(
            f"{server.url}/$topic?dedup=$batch_id&price=5$$&a=%2Fb+c",
            method="PUT",
            headers={"X-From": "$name, $$"},
            idempotency_header="Idempotency-Key",
            idempotency_quoted=True,
        )
    (request,) = server.requests
    id_ = batch_of(3).id
    assert request.raw_path == f"/bulk/pages?dedup={id_}&price=5$&a=%2Fb+c"
    assert request.headers["X-From"] == "pages, $"
    assert request.headers["Idempotency-Key"] == f'"{id_}"'


async def test_a_topic_of_any_characters_stays_inside_its_place_in_the_url() -> None:
    async with api(answering()) as server, opened(http_settings(f"{server.url}/$topic")) as sink:
        await sink.send(batch_of([FakeRecord(topic="../a b?c#d")]))
    assert server.requests[0].raw_path == "/bulk/..%2Fa%20b%3Fc%23d"


async def test_a_key_that_looks_like_a_header_stays_in_the_body() -> None:
    key = b'x"\r\nX-Evil: 1\r\n\r\n'
    record = FakeRecord(key=key, headers=(("h", key),))
    body = {"item": '{"k":$key,"h":$header.h,"v":$value}', "separator": "\n"}
    async with (
        api(answering()) as server,
        opened(
            http_settings(
                server.url, body={**body, "envelope": "$items\n"}, headers={"X": "$batch_id"}
            )
        ) as sink,
    ):
        assert isinstance(await sink.send(batch_of([record])), Answered)
    (request,), (sent_body,) = server.requests, server.bodies
    assert "X-Evil" not in request.headers
    assert sent_body.count(b"\n") == 1
    assert msgspec.json.decode(sent_body) == {"k": key.decode(), "h": key.decode(), "v": {}}


async def test_a_batch_of_several_topics_is_split_where_the_url_names_the_topic() -> None:
    async with opened(http_settings("http://127.0.0.1:1/$topic")) as sink:
        outcome = await sink.send(batch_of([FakeRecord(topic="a"), FakeRecord(topic="b")]))
    assert isinstance(outcome, TooLarge)
    assert not outcome.sent


async def test_more_than_the_api_takes_is_never_sent() -> None:
    calls: list[object] = []
    exact = http_settings(max_records=3, max_bytes="25B")
    async with opened(exact, requests=lambda *call: calls.append(call)) as sink:
        for batch in (batch_of(4), batch_of([FakeRecord(value=b'"%s"' % (b"x" * 22))])):
            outcome = await sink.send(batch)
            assert isinstance(outcome, TooLarge), outcome
            assert not outcome.sent
        assert calls == []
        assert len(sink.encode(batch_of(3))) == 25
        assert isinstance(await sink.send(batch_of(3)), Again), "25 bytes are not more than 25"
    assert len(calls) == 1


@pytest.mark.parametrize("size", [10, 200_000])
@pytest.mark.parametrize(
    ("how", "unpack"),
    [("gzip", gzip.decompress), ("zstd", lambda data: bytes(cramjam.zstd.decompress(data)))],
)
async def test_a_compressed_body_unpacks_to_the_plain_one(
    how: str, unpack: Callable[[bytes], bytes], size: int
) -> None:
    requests = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))
        writer.write(OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n")

    batch = batch_of([FakeRecord(value=b'"%s"' % (b"x" * size))])
    async with socket_server(talk) as url, opened(http_settings(url, compression=how)) as sink:
        assert await sink.send(batch) == await sink.send(batch) == Answered([DELIVERED])
        plain = sink.encode(batch)
    heads, bodies = zip(*(request.split(b"\r\n\r\n", 1) for request in requests), strict=True)
    assert f"Content-Encoding: {how}".encode() in heads[0]
    assert unpack(bodies[0]) == plain
    assert bodies[0] == bodies[1], "a batch that goes again is the same to the byte"


async def test_a_body_of_many_megabytes_arrives_whole() -> None:
    batch = batch_of([FakeRecord(offset=n, value=b'"%s"' % (b"x" * 400_000)) for n in range(20)])
    async with api(answering()) as server, opened(http_settings(server.url)) as sink:
        assert isinstance(await sink.send(batch), Answered)
        assert server.bodies == [sink.encode(batch)]


async def test_requests_share_a_connection_and_keep_no_cookies() -> None:
    peers = set()

    async def respond(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        assert not request.cookies
        return web.Response(headers={"Set-Cookie": "session=1; Path=/"})

    async with api(respond) as server:
        # By name, because even a jar that keeps cookies keeps none of a bare address.
        url = server.url.replace("127.0.0.1", "localhost")
        async with opened(http_settings(url)) as sink:
            for _ in range(3):
                assert isinstance(await sink.send(batch_of(1)), Answered)
    assert len(peers) == 1


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    async with api(answering()) as server:
        assert isinstance(await sent(server.url), Answered)


def test_a_gzip_body_holds_no_time_of_its_making() -> None:
    """It would be another body a second later, under the same idempotency key."""
    assert compress(b"[]", "gzip")[4:8] == bytes(4)  # MTIME, RFC 1952


# Secrets


async def test_a_secret_is_sent_and_a_replaced_one_is_found_after_a_401(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")

    async def respond(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.headers["Authorization"] == "Bearer new" else 401)

    headers = {"Authorization": {"file": str(file), "prefix": "Bearer "}}
    async with (
        api(respond) as server,
        opened(http_settings(server.url, headers=headers)) as sink,
    ):
        for content in (None, "new\n"):
            if content:
                file.write_text(content)
            refused = await sink.send(batch_of(1))
            assert isinstance(refused, Again)
            assert refused.outage
        file.unlink()
        assert isinstance(await sink.send(batch_of(1)), Answered)


@pytest.mark.parametrize("secret", ["", "with\ttab", "schlüssel"])
async def test_an_unusable_secret_is_named_and_not_shown(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", secret)
    settings = http_settings(headers={"Authorization": {"env": "API_TOKEN"}})
    with pytest.raises(ConfigError) as caught:
        async with opened(settings):
            pass
    assert "sink.headers.Authorization" in str(caught.value)
    assert "API_TOKEN" in str(caught.value)
    assert not secret or secret not in str(caught.value)


async def test_a_secret_that_the_api_repeats_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "s3cr3t")

    async def respond(request: web.Request) -> web.Response:
        told = f"bad token {request.headers['Authorization']} or {'s3cr3t'}"
        return web.json_response({"error": told}, status=422)

    headers = {"Authorization": {"env": "API_TOKEN", "prefix": "Bearer "}}
    async with api(respond) as server:
        outcome = await sent(server.url, headers=headers, response={"error": "/error"})
    assert "s3cr3t" not in str(outcome)
    assert "bad token" in str(outcome)


async def test_a_secret_is_taken_out_of_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", 's3"cr\\3t')

    async def respond(request: web.Request) -> web.Response:
        return web.json_response({"error": {"sent": dict(request.headers)}}, status=422)

    headers = {"X-Token": {"env": "API_TOKEN"}}
    async with (
        api(respond) as server,
        opened(http_settings(server.url, headers=headers, response={"error": "/error"})) as sink,
    ):
        outcome = await sink.send(batch_of(1))
    assert isinstance(outcome, Refused)
    assert '"X-Token":"***"' in outcome.error


@pytest.mark.parametrize("written", ["s3/cr3t", "s3\\/cr3t"], ids=["plain", "as PHP does"])
async def test_a_secret_is_taken_out_however_its_slashes_are_written(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "s3/cr3t")
    error = f'{{"X-Token":"{written}"}} is no good'
    headers = {"X-Token": {"env": "API_TOKEN"}}
    async with api(answering(422, {"error": error})) as server:
        outcome = await sent(server.url, headers=headers, response={"error": "/error"})
    assert isinstance(outcome, Refused)
    assert '"X-Token":"***"' in outcome.error


def test_a_secret_that_begins_like_another_is_taken_out_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHORT", "s3cr3t")
    monkeypatch.setenv("LONG", "s3cr3t-and-more")
    credentials = Credentials({"A": Secret(env="SHORT"), "B": Secret(env="LONG")})
    credentials.reveal()
    assert credentials.scrub("not s3cr3t-and-more, not s3cr3t") == "not ***, not ***"


async def test_a_secret_that_was_just_replaced_is_still_taken_out(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old-s3cr3t")
    credentials = Credentials({"Authorization": Secret(file=str(file), prefix="Bearer ")})
    credentials.reveal()
    file.write_text("new-s3cr3t")
    for _ in range(3):  # each of several requests in flight may be refused
        credentials.renew()
    assert credentials.headers == {"Authorization": "Bearer new-s3cr3t"}
    assert credentials.scrub("not old-s3cr3t, not new-s3cr3t") == "not ***, not ***"
    for n in range(1000):
        file.write_text(f"s3cr3t-{n}")
        credentials.renew()
    assert len(credentials._hidden) == HIDDEN
    assert credentials.scrub("not s3cr3t-999") == "not ***"


# Time


async def test_a_successor_sends_the_new_secret_and_keeps_the_old_one_out_of_texts(
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text("0ld")
    sent: list[str] = []

    async def respond(request: web.Request) -> web.Response:
        sent.append(request.headers["Authorization"])
        return web.json_response({"error": "not 0ld and not n3w"}, status=422)

    keys = {
        "headers": {"Authorization": {"file": str(file)}},
        "response": {"error": "/error"},
    }
    async with api(respond) as server, opened(http_settings(server.url, **keys)) as sink:
        await sink.send(batch_of(1))
        file.write_text("n3w")
        successor = sink.successor(http_settings(server.url, **keys))
        await successor.open()
        outcome = await successor.send(batch_of(1))
        await successor.close()
    assert sent == ["0ld", "n3w"]
    assert isinstance(outcome, Refused)
    assert outcome.error.count("***") == 2


async def test_a_server_that_never_answers_is_left_at_the_deadline() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.Event().wait()

    calls: list[tuple[str, float]] = []
    async with socket_server(talk) as url:
        settings = http_settings(url, timeout="100ms")
        async with opened(settings, requests=lambda *call: calls.append(call)) as sink:
            outcome = again(await sink.send(batch_of(1)), "timeout")
    assert "100ms" in outcome.error
    ((status, seconds),) = calls
    assert status == "timeout"
    assert 0.1 <= seconds < 30


async def test_an_answer_that_trickles_does_not_extend_the_deadline() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK + b"Content-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with socket_server(talk) as url:
        again(await sent(url, timeout="150ms"), "timeout")


async def test_a_server_that_does_not_read_is_left_at_the_deadline() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    batch = batch_of([FakeRecord(offset=n, value=b'"%s"' % (b"x" * 900_000)) for n in range(10)])
    async with socket_server(talk) as url, opened(http_settings(url, timeout="200ms")) as sink:
        again(await sink.send(batch), "timeout")


async def test_a_connection_that_is_not_accepted_is_left_at_its_own_deadline() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        port = listener.getsockname()[1]
        # A full backlog makes the kernel drop what comes next: a host behind a firewall.
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        url = f"http://127.0.0.1:{port}/"
        outcome = await sent(url, connect_timeout="100ms", timeout="10s")
        for filler in fillers:
            filler.close()
    assert "100ms" in again(outcome, "timeout").error


async def test_a_cancelled_request_closes_its_connection() -> None:
    started, closed = anyio.Event(), anyio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        started.set()
        assert await reader.read() == b""
        closed.set()

    async with socket_server(talk) as url, opened(http_settings(url)) as sink:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.send, batch_of(1))
            await started.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(30):
            await closed.wait()


# Connections that break


async def test_nobody_listening_is_a_connection_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/bulk?key=private"
        outcome = again(await sent(url), "connection")
    assert "127.0.0.1" in outcome.error
    assert "private" not in outcome.error
    assert not outcome.outage


async def test_an_unknown_host_is_a_connection_error() -> None:
    outcome = again(await sent("http://nowhere.invalid/bulk"), "connection")
    assert "nowhere.invalid" in outcome.error


async def test_a_connection_closed_without_an_answer_is_a_connection_error() -> None:
    calls: list[tuple[str, float]] = []
    async with socket_server(saying(b"")) as url:
        settings = http_settings(url)
        async with opened(settings, requests=lambda *call: calls.append(call)) as sink:
            again(await sink.send(batch_of(1)), "connection")
    assert [status for status, _ in calls] == ["error"]


async def test_a_reset_is_a_connection_error() -> None:
    def reset(writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with socket_server(saying(b"", then=reset)) as url:
        again(await sent(url), "connection")


async def test_the_next_request_after_a_broken_one_has_a_fresh_connection() -> None:
    whole = OK + b"Content-Length: 0\r\n\r\n"
    answers = [OK + b"Content-Length: 10\r\n\r\n[]", whole]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answers.pop(0))

    async with socket_server(talk) as url, opened(http_settings(url)) as sink:
        again(await sink.send(batch_of(1)), "unknown")
        assert isinstance(await sink.send(batch_of(1)), Answered)


@pytest.mark.parametrize("when", ["at once", "while idle"])
async def test_what_nobody_asked_for_is_not_the_answer_to_the_next_request(when: str) -> None:
    whole = OK + b"Content-Length: 2\r\n\r\n[]"
    idle = anyio.Event()
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 2:
            return  # it hangs up: the second batch is not delivered
        await read_request(reader)
        writer.write(whole * 2 if when == "at once" else whole)
        await idle.wait()
        writer.write(whole)
        await asyncio.Event().wait()

    async with socket_server(talk) as url, opened(http_settings(url)) as sink:
        assert isinstance(await sink.send(batch_of(1)), Answered)
        pool = sink._transport._session.connector._conns  # type: ignore[union-attr]
        idle.set()
        with anyio.fail_after(30):
            while any(not p.should_close for kept in pool.values() for p, _ in kept):
                await anyio.sleep(0)
        again(await sink.send(batch_of(1)), "connection")
    assert connections == 2


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_a_batch_whose_answer_was_lost_goes_again_with_the_same_key_and_bytes(
    compression: str,
) -> None:
    got: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await read_request(reader))
        if len(got) > 1:  # it has done the work, and nobody has heard of it
            writer.write(OK + b"Content-Length: 0\r\n\r\n")
            await writer.drain()

    async with socket_server(talk) as url:
        settings = http_settings(url, idempotency_header="Idempotency-Key", compression=compression)
        async with opened(settings) as sink:
            again(await sink.send(batch_of(3)), "connection")
            assert isinstance(await sink.send(batch_of(3)), Answered)
    assert got[0] == got[1]
    assert batch_of(3).id.encode() in got[0]


# Answers that are broken


@pytest.mark.parametrize(
    "raw",
    [
        OK + b'Content-Length: 100\r\n\r\n{"responses":[',
        OK + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"res\r\n',
        OK + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(b"{}")[:-9],
        OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(b"{}") + b"{}",
    ],
    ids=[
        *("short of its length", "chunked", "gzip cut", "not gzip", "unknown coding"),
        "more after gzip",
    ],
)
@pytest.mark.parametrize("response", [{}, PER_ITEM], ids=["whole", "per item"])
async def test_a_2xx_whose_body_cannot_be_read_is_unknown(
    raw: bytes, response: dict[str, Any]
) -> None:
    async with socket_server(saying(raw)) as url:
        outcome = again(await sent(url, response=response), "unknown")
    assert outcome.status == "200"


@pytest.mark.parametrize(
    "raw",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 2OO OK\r\n\r\n",
        b"\x16\x03\x01\x00",
        OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nx",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        OK + b"Content-Length: -2\r\n\r\n{}",
    ],
)
async def test_what_is_not_http_delivers_nothing(raw: bytes) -> None:
    async with socket_server(saying(raw)) as url:
        outcome = await sent(url)
    assert isinstance(outcome, Again)


async def test_headers_without_end_are_not_read_for_ever() -> None:
    raw = OK + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 8000) for n in range(200)) + b"\r\n"
    async with socket_server(saying(raw)) as url:
        assert isinstance(await sent(url), Again)


@pytest.mark.parametrize(
    ("status", "reason"), [(429, "throttled"), (503, "status"), (401, "status")]
)
async def test_a_cut_error_still_counts_by_its_status(status: int, reason: str) -> None:
    raw = b"HTTP/1.1 %d Oh\r\nRetry-After: 7\r\nContent-Length: 100\r\n\r\n{" % status
    async with socket_server(saying(raw)) as url:
        outcome = again(await sent(url), reason)
    assert (outcome.status, outcome.after) == (str(status), 7)


async def test_a_cut_4xx_is_unknown_because_it_may_have_named_the_records() -> None:
    raw = b"HTTP/1.1 422 No\r\nContent-Length: 100\r\n\r\n{"
    async with socket_server(saying(raw)) as url:
        assert again(await sent(url), "unknown").status == "422"


async def test_a_413_said_before_the_body_is_read_splits() -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        # As web servers do: say it, and go on swallowing what is on the way.
        while await reader.read(65536):
            pass

    batch = batch_of([FakeRecord(offset=n, value=b'"%s"' % (b"x" * 900_000)) for n in range(10)])
    async with socket_server(respond) as url, opened(http_settings(url)) as sink:
        with anyio.fail_after(60):
            outcome = await sink.send(batch)
    assert isinstance(outcome, TooLarge), outcome
    assert outcome.sent


# Answers that are too much


def bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(b" " * 1024**2) for _ in range(size // 1024**2)]
    return b"".join(parts) + packer.flush()


async def test_an_answer_that_unpacks_without_end_costs_no_more_than_the_cap() -> None:
    packed = bomb(200 * 1024**2)
    assert len(packed) < 300_000
    respond = answering(200, packed, {"Content-Encoding": "gzip"})
    async with api(respond) as server:
        tracemalloc.start()
        try:
            outcome = again(await sent(server.url, response={"max_bytes": "1MiB"}), "unknown")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert "sink.response.max_bytes" in outcome.error
    assert peak < 8 * 1024**2


async def test_an_answer_that_never_ends_is_left_at_the_cap() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK + b"Connection: close\r\n\r\n")
        while True:
            writer.write(b" " * 65536)
            await writer.drain()

    async with socket_server(talk) as url:
        outcome = again(await sent(url, response={"max_bytes": "1MiB"}), "unknown")
    assert "sink.response.max_bytes" in outcome.error


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("size", [9, PIECE, 3 * PIECE, 3 * PIECE + 1])
def test_unpacking_gives_all_there_is_and_never_much_at_once(coding: str, size: int) -> None:
    data = gzip.compress(b"x" * size) if coding == "gzip" else b"x" * size
    unpacked = inflater(coding)
    pieces = list(unpacked.pieces(data))
    unpacked.finish()
    assert b"".join(pieces) == b"x" * size
    assert max(map(len, pieces)) <= PIECE


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_of_exactly_the_cap_is_read(packed: bool) -> None:
    body = b'{"responses":[{"status":200}]}'
    data = gzip.compress(body[:9]) + gzip.compress(body[9:]) if packed else body
    headers = {"Content-Encoding": "gzip"} if packed else None
    async with api(answering(200, data, headers)) as server:
        for room, kind in ((len(body), Answered), (len(body) - 1, Again)):
            response = {**PER_ITEM, "max_bytes": f"{room}B"}
            assert isinstance(await sent(server.url, 1, response=response), kind)


# TLS


def tls_of(ca: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names, **options).configure_cert(context)
    return context


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that this process trusts, as an operator would have it trusted."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


async def test_a_trusted_certificate_is_spoken_to(ca: trustme.CA) -> None:
    async with api(answering(), tls_of(ca, "127.0.0.1")) as server:
        assert isinstance(await sent(server.url), Answered)
        await HttpSink(http_settings(server.url), "pages", lambda r: "").probe()


@pytest.mark.parametrize("fault", ["unknown authority", "another host", "expired"])
async def test_a_bad_certificate_is_an_outage(ca: trustme.CA, fault: str) -> None:
    match fault:
        case "unknown authority":
            context = tls_of(trustme.CA(), "127.0.0.1")
        case "another host":
            context = tls_of(ca, "example.org")
        case _:
            context = tls_of(ca, "127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    async with api(answering(), context) as server:
        outcome = again(await sent(server.url), "connection")
        with pytest.raises(SluicedError, match="certificate"):
            await HttpSink(http_settings(server.url), "pages", lambda r: "").probe()
        assert not server.requests
    assert outcome.outage
    assert "certificate" in outcome.error


async def test_https_to_a_server_without_tls_is_a_connection_error(ca: trustme.CA) -> None:
    async with api(answering()) as server:
        again(await sent(server.url.replace("http:", "https:")), "connection")


# probe


async def test_probing_connects_and_asks_nothing() -> None:
    ended = anyio.Event()
    said = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(await reader.read())
        ended.set()

    async with socket_server(talk) as url:
        await HttpSink(http_settings(url), "pages", lambda r: "").probe()
        with anyio.fail_after(30):
            await ended.wait()
    assert said == [b""]


@pytest.mark.parametrize("host", ["127.0.0.1:1", "nowhere.invalid"])
async def test_probing_what_is_not_there_says_what_to_check(host: str) -> None:
    sink = HttpSink(http_settings(f"http://{host}/bulk?key=private"), "pages", lambda r: "")
    with pytest.raises(SluicedError, match=host) as caught:
        await sink.probe()
    assert "sink.url" in caught.value.hint
    assert "private" not in str(caught.value)


@pytest.mark.parametrize("how", ["gzip", "zstd"])
async def test_while_a_compressed_body_is_at_the_api_the_plain_one_is_gone(how: str) -> None:
    size, left = 8 * 1024**2, []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        # The thread that has compressed it may need a moment to let go of it as well.
        with anyio.move_on_after(20):
            while (now := tracemalloc.get_traced_memory()[0]) > size / 2:
                await anyio.sleep(0.01)
        left.append(now)
        writer.write(OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n")

    batch = batch_of([FakeRecord(value=b'"%s"' % (b"x" * size))])
    async with socket_server(talk) as url, opened(http_settings(url, compression=how)) as sink:
        tracemalloc.start()
        try:
            assert isinstance(await sink.send(batch), Answered)
        finally:
            tracemalloc.stop()
    assert left[0] < size / 2


async def test_what_a_body_has_beyond_its_records_is_held_while_it_is_at_the_api() -> None:
    held: list[int] = []
    during = []

    async def respond(_: web.Request) -> web.Response:
        during.append(sum(held))
        return web.Response()

    batch = batch_of([FakeRecord(value=b"x" * 3000)])
    async with (
        api(respond) as server,
        opened(http_settings(server.url, body={"item": "$value_base64"}), held=held.append) as sink,
    ):
        assert isinstance(await sink.send(batch), Answered)
    assert during == [len(server.bodies[0]) - 3000]
    assert during[0] > 1000
    assert sum(held) == 0


async def test_of_large_answers_one_at_a_time_is_read() -> None:
    held: list[int] = []
    most = 0
    rest = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(_)
        await response.write(b"x" * 2 * 1024**2)
        await rest.wait()
        return response

    def hold(by: int) -> None:
        nonlocal most
        held.append(by)
        most = max(most, sum(held))

    async with (
        api(respond) as server,
        opened(http_settings(server.url), held=hold) as sink,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(4):
            tasks.start_soon(sink.send, batch_of(3))
        try:
            with anyio.fail_after(60):
                # One has all of it, and the others as much as anybody may.
                while sum(held) < (2 + 3) * 1024**2 - 4 * PIECE:
                    await anyio.sleep(0.01)
            await anyio.wait_all_tasks_blocked()
            assert sum(held) <= (2 + 3) * 1024**2 + 1000
        finally:
            rest.set()
    assert most < 6 * 1024**2
    assert sum(held) == 0


async def test_an_answer_of_more_objects_than_memory_is_not_taken_apart() -> None:
    body = b"[" + b",".join([b'{"s":200}'] * 60_000) + b"]"  # 600 kB that would be 12 MB
    response = {"items": "", "status": "/s", "max_bytes": "1MiB"}
    async with api(answering(200, body)) as server:
        outcome = again(await sent(server.url, response=response), "unknown")
        assert "60001 objects" in outcome.error
        response["max_bytes"] = "16MiB"
        outcome = again(await sent(server.url, response=response), "unknown")
        assert "60000 records of 3" in outcome.error


async def test_an_answer_is_held_for_as_long_as_it_is_read() -> None:
    held: list[int] = []
    rest = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"padding":"' + b"x" * 5000)
        await rest.wait()
        await response.write(b'"}')
        return response

    async with (
        api(respond) as server,
        opened(http_settings(server.url), held=held.append) as sink,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(sink.send, batch_of(3))
        with anyio.fail_after(60):
            while sum(held) < 5000:
                await anyio.sleep(0.01)
        rest.set()
    assert sum(held) == 0


async def test_an_answer_that_is_too_large_is_let_go() -> None:
    held: list[int] = []

    async def respond(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 5000)

    settings = {"response": {"max_bytes": "1KB"}}
    async with (
        api(respond) as server,
        opened(http_settings(server.url, **settings), held=held.append) as sink,
    ):
        assert isinstance(await sink.send(batch_of(3)), Again)
    assert max(held) > 0
    assert sum(held) == 0

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog
from prometheus_client import CollectorRegistry

from sluiced import admin as module
from sluiced.admin import MAX_CONNECTIONS, Admin, AdminSettings
from sluiced.errors import SluicedError
from sluiced.metrics import Metrics

pytestmark = pytest.mark.anyio

ANY = AdminSettings(listen="127.0.0.1:0")


class Daemon:
    """What the admin port looks at; its state can be set."""

    def __init__(self) -> None:
        self.dead: str | None = None
        self.waiting: str | None = None
        self.state: dict[str, Any] = {"pipeline": "pages", "state": "running"}
        self.registry = CollectorRegistry()
        self.metrics = Metrics("pages", self.registry)

    def admin(self, settings: AdminSettings = ANY, **callbacks: Callable[[], Any]) -> Admin:
        own: dict[str, Any] = {
            "live": lambda: self.dead,
            "ready": lambda: self.waiting,
            "status": lambda: self.state,
        }
        return Admin(settings, self.registry, **{**own, **callbacks})


class Client:
    def __init__(self, admin: Admin, session: aiohttp.ClientSession) -> None:
        self._base, self._session = f"http://{admin.address}", session

    async def get(
        self, path: str, method: str = "GET", **options: Any
    ) -> tuple[int, str, aiohttp.ClientResponse]:
        async with self._session.request(method, self._base + path, **options) as answer:
            return answer.status, await answer.text(), answer


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def admin(daemon: Daemon) -> AsyncIterator[Admin]:
    async with daemon.admin() as admin:
        yield admin


@pytest.fixture
async def client(admin: Admin) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(admin, session)


async def raw(admin: Admin, sent: bytes) -> bytes:
    """Everything that comes back until the port closes the connection, in whatever manner."""
    host, _, port = admin.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_metrics_are_generated_for_each_scrape(daemon: Daemon, client: Client) -> None:
    daemon.metrics.consumed("a", 3)
    status, text, answer = await client.get("/metrics")
    assert status == 200
    assert answer.content_type == "text/plain"
    assert 'sluiced_records_consumed_total{pipeline="pages",topic="a"} 3.0' in text
    daemon.metrics.consumed("a", 4)
    _, text, _ = await client.get("/metrics")
    assert 'sluiced_records_consumed_total{pipeline="pages",topic="a"} 7.0' in text


async def test_a_scraper_that_knows_openmetrics_gets_it(client: Client) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    _, text, answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.content_type == "application/openmetrics-text"
    assert text.endswith("# EOF\n")


async def test_a_scraper_that_asks_for_no_version_that_there_is_gets_the_plain_format(
    client: Client,
) -> None:
    accept = "application/openmetrics-text;version=1.x"
    status, _, answer = await client.get("/metrics", headers={"Accept": accept})
    assert (status, answer.content_type) == (200, "text/plain")


async def test_a_scraper_that_knows_gzip_gets_it(admin: Admin) -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n"
    head, _, body = (await raw(admin, request)).partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert b"sluiced_build_info" in gzip.decompress(body)


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_a_healthy_daemon_says_ok(path: str, client: Client) -> None:
    status, text, answer = await client.get(path)
    assert (status, text, answer.content_type) == (200, "ok\n", "text/plain")


async def test_an_unhealthy_daemon_says_why(daemon: Daemon, client: Client) -> None:
    daemon.waiting = "halted: more than half of the last 1000 records were refused"
    status, text, _ = await client.get("/readyz")
    assert (status, text) == (503, daemon.waiting + "\n")
    assert (await client.get("/livez"))[0] == 200
    daemon.dead = "the fetching task has died"
    status, text, _ = await client.get("/livez")
    assert (status, text) == (503, "the fetching task has died\n")


async def test_status_is_json(daemon: Daemon, client: Client) -> None:
    daemon.state = {"state": "outage", "window": {"age_seconds": 1.5}, "last_error": None}
    status, text, answer = await client.get("/status")
    assert status == 200
    assert answer.content_type == "application/json"
    assert json.loads(text) == daemon.state


async def test_a_wrong_path_names_the_routes_and_the_page_links_to_them(client: Client) -> None:
    for path, expected in (("/", 200), ("/metric", 404), ("/status/", 404)):
        status, text, _ = await client.get(path)
        assert status == expected
        assert all(route in text for route in ("/metrics", "/livez", "/readyz", "/status"))


async def test_all_that_the_page_names_is_there_and_allowed_to_nobody_else(client: Client) -> None:
    _, text, _ = await client.get("/")
    named = set(re.findall(r'(?:href|src)="([^"#]+)"', text))
    assert {"page.css", "page.js", "icon.svg", "status"} <= named
    for path in named:
        assert (await client.get(f"/{path}"))[0] == 200, path
    for path, kind in (("", "html"), ("page.css", "css"), ("page.js", "javascript")):
        _, _, answer = await client.get(f"/{path}")
        assert answer.content_type == f"text/{kind}"
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


async def test_a_browser_that_has_the_page_is_not_sent_it_again(client: Client) -> None:
    for path in ("/", "/page.js"):
        _, text, answer = await client.get(path)
        assert answer.headers["Cache-Control"] == "no-cache", "kept, but never used unasked"
        tag = answer.headers["ETag"]
        status, again, answer = await client.get(path, headers={"If-None-Match": tag})
        assert (status, again, answer.headers["ETag"]) == (304, "", tag)
        status, again, _ = await client.get(path, headers={"If-None-Match": '"older"'})
        assert (status, again) == (200, text)


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/status", "/", "/page.js"])
async def test_head_is_answered_without_a_body(path: str, admin: Admin) -> None:
    head, _, body = (await raw(admin, f"HEAD {path} HTTP/1.0\r\n\r\n".encode())).partition(
        b"\r\n\r\n"
    )
    assert b" 200 OK" in head
    assert body == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_nothing_can_be_changed(method: str, client: Client) -> None:
    status, _, answer = await client.get("/status", method=method)
    assert status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


async def test_no_answer_tells_what_the_server_is_made_of(admin: Admin) -> None:
    for request in (b"GET / HTTP/1.0\r\n\r\n", b"GET /x HTTP/1.0\r\n\r\n", b"nonsense\r\n\r\n"):
        answer = await raw(admin, request)
        assert answer.startswith(b"HTTP/1.")
        assert b"\r\nServer: sluiced\r\n" in answer
        assert b"aiohttp" not in answer
        assert b"Python" not in answer


FOREIGN = [
    "evil.example",
    "evil.example:9464",
    "127.0.0.1.evil.example",
    "x.localhost",
    "[::1",
    "@",
]
OWN = ["127.0.0.1", "127.0.0.1:9464", "[::1]:9464", "10.0.0.7", "localhost", "LocalHost.:80", ""]


@pytest.mark.parametrize("path", ["/", "/page.js", "/status", "/metrics", "/livez", "/readyz"])
@pytest.mark.parametrize("host", FOREIGN)
async def test_on_loopback_a_foreign_name_gets_nothing_but_what_to_do(
    host: str, path: str, admin: Admin
) -> None:
    answer = await raw(admin, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert b" 421 " in answer.splitlines()[0]
    assert b"localhost" in answer
    assert b"pages" not in answer


@pytest.mark.parametrize("host", OWN)
async def test_on_loopback_addresses_and_localhost_are_answered(host: str, admin: Admin) -> None:
    answer = await raw(admin, f"GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert b" 200 " in answer.splitlines()[0]


async def test_a_name_of_loopback_that_is_listened_on_is_answered(daemon: Daemon) -> None:
    request = b"GET /status HTTP/1.1\r\nHost: 127.1:9464\r\n\r\n"  # no address as such
    async with daemon.admin(AdminSettings(listen="127.1:0")) as admin:
        assert b" 200 " in (await raw(admin, request)).splitlines()[0]
    async with daemon.admin() as admin:
        assert b" 421 " in (await raw(admin, request)).splitlines()[0]


async def test_beyond_loopback_a_scraper_may_use_any_name(daemon: Daemon) -> None:
    async with daemon.admin(AdminSettings(listen="0.0.0.0:0")) as admin:
        request = b"GET /metrics HTTP/1.1\r\nHost: host-a.example:9464\r\n\r\n"
        assert b" 200 " in (await raw(admin, request)).splitlines()[0]


async def test_a_malformed_request_is_not_quoted(admin: Admin) -> None:
    answer = await raw(admin, b"GET / HTTP/1.1\r\nbad header <script>\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]
    assert b"script" not in answer


async def test_a_header_without_end_is_refused(admin: Admin) -> None:
    answer = await raw(admin, b"GET / HTTP/1.1\r\nX: " + b"x" * 20000 + b"\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]


async def test_a_body_is_not_read(admin: Admin) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\nabc"
    async with asyncio.timeout(module.MAX_LIFETIME / 2):  # nor waited for
        assert (await raw(admin, request)).endswith(b"ok\n")


async def test_requests_leave_no_line_in_the_log(
    admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with structlog.testing.capture_logs() as events:
        await raw(admin, b"GET /metrics HTTP/1.0\r\n\r\n")
        await raw(admin, b"nonsense\r\n\r\n")
        await raw(admin, b"GET / HTTP/1.1\r\nX: " + b"x" * 20000 + b"\r\n\r\n")
    assert events == []
    assert [r.name for r in caplog.records if r.name != "asyncio"] == []


def broken() -> Any:
    raise RuntimeError("hunter2")


@pytest.mark.parametrize(
    ("path", "callback", "expected"),
    [("/livez", "live", 503), ("/readyz", "ready", 503), ("/status", "status", 500)],
)
async def test_a_callback_that_raises_is_logged_but_not_shown(
    path: str, callback: str, expected: int, daemon: Daemon
) -> None:
    with structlog.testing.capture_logs() as events:
        async with daemon.admin(**{callback: broken}) as admin:
            answer = await raw(admin, f"GET {path} HTTP/1.0\r\n\r\n".encode())
    assert f" {expected} ".encode() in answer.splitlines()[0]
    assert b"hunter2" not in answer
    assert [(e["event"], e["path"]) for e in events] == [("admin_failed", path)]


async def test_metrics_that_raise_are_an_error_and_not_half_a_page(daemon: Daemon) -> None:
    daemon.metrics.watch(broken)
    with structlog.testing.capture_logs() as events:
        async with daemon.admin() as admin:
            answer = await raw(admin, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert b" 500 " in answer.splitlines()[0]
    assert len(events) == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LIFETIME", 0.2)


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nX: y\r\n"])
@pytest.mark.usefixtures("impatient")
async def test_who_does_not_finish_a_request_is_cut_off(sent: bytes, daemon: Daemon) -> None:
    async with daemon.admin() as admin:
        assert await raw(admin, sent) == b""


@pytest.mark.usefixtures("impatient")
async def test_who_trickles_is_cut_off(daemon: Daemon) -> None:
    async with daemon.admin() as admin, asyncio.timeout(60):
        host, _, port = admin.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /livez HTTP/1.1\r\n")
        while not reader.at_eof():
            writer.write(b"X: y\r\n")
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.02):
                    assert await reader.read() == b""
        writer.close()


HOSTILE = [
    b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)) + b"\r\n",
    b"POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n" + b"x" * 100_000,
    b"POST /livez HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /livez HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 99\r\n\r\n\x1f\x8b\x08",
    b"GET /status HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET http://elsewhere.example/%00%ff/../metrics HTTP/1.1\r\n\r\n",
    b"CONNECT elsewhere.example:443 HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"\r\n" * 50_000,
    bytes(range(256)) * 400,
]


@pytest.mark.parametrize("sent", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.usefixtures("impatient")
async def test_whatever_is_sent_the_next_scrape_is_answered(
    sent: bytes, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    with structlog.testing.capture_logs() as events:
        async with daemon.admin() as admin, asyncio.timeout(60):
            answers = await asyncio.gather(*(raw(admin, sent) for _ in range(MAX_CONNECTIONS)))
            monkeypatch.setattr(module, "MAX_LIFETIME", 60.0)
            assert (await raw(admin, b"GET /livez HTTP/1.0\r\n\r\n")).endswith(b"ok\n")
    assert max(map(len, answers)) < 10_000
    assert events == []


@pytest.mark.usefixtures("impatient")
async def test_who_does_not_read_the_answer_is_cut_off(daemon: Daemon) -> None:
    daemon.state = {"long": "x" * 50_000_000}
    async with daemon.admin() as admin:
        host, _, port = admin.address.rpartition(":")
        with socket.socket() as sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, (host, int(port)))
            await loop.sock_sendall(sock, b"GET /status HTTP/1.0\r\n\r\n")
            while admin._runner.server.connections == []:  # type: ignore[union-attr]
                await asyncio.sleep(0)
            async with asyncio.timeout(20):
                while admin._runner.server.connections:  # type: ignore[union-attr]
                    await asyncio.sleep(0.01)


async def test_one_connection_carries_one_request(admin: Admin) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = await raw(admin, request * 3)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"Connection: close" in answer


async def test_more_connections_than_allowed_are_closed_and_the_port_recovers(
    admin: Admin,
) -> None:
    host, _, port = admin.address.rpartition(":")
    held = [await asyncio.open_connection(host, int(port)) for _ in range(MAX_CONNECTIONS)]
    request = b"GET /livez HTTP/1.0\r\n\r\n"
    assert await raw(admin, request) == b""
    reader, writer = held.pop()  # those that came first are served
    writer.write(request)
    assert (await reader.read()).endswith(b"ok\n")
    for _, other in [(reader, writer), *held]:
        other.close()
        await other.wait_closed()
    async with asyncio.timeout(20):
        while admin._runner.server.connections:  # type: ignore[union-attr]
            await asyncio.sleep(0)
    assert (await raw(admin, request)).endswith(b"ok\n")


async def test_a_port_in_use_is_told_with_what_to_change(daemon: Daemon, admin: Admin) -> None:
    taken = AdminSettings(listen=admin.address)
    other = daemon.admin(taken)
    with pytest.raises(SluicedError) as caught:
        await other.start()
    assert caught.value.message == (
        f"the admin port cannot listen on {admin.address}: address already in use"
    )
    assert "`listen` in [admin]" in caught.value.hint
    await other.stop()


@pytest.mark.parametrize("listen", ["192.0.2.1:9464", "no-such-host.invalid:9464"])
async def test_an_address_that_is_not_ours_is_told(listen: str, daemon: Daemon) -> None:
    with pytest.raises(SluicedError, match=listen):
        await daemon.admin(AdminSettings(listen=listen)).start()


async def test_after_stopping_the_port_is_free_and_stopping_again_is_harmless(
    daemon: Daemon,
) -> None:
    admin = daemon.admin()
    await admin.start()
    settings = AdminSettings(listen=admin.address)
    host, _, port = admin.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))  # an idle client
    await admin.stop()
    await admin.stop()
    assert await reader.read() == b""
    writer.close()
    async with daemon.admin(settings) as again:
        assert (await raw(again, b"GET /livez HTTP/1.0\r\n\r\n")).endswith(b"ok\n")


def test_by_default_only_this_machine_is_served() -> None:
    host, _ = AdminSettings().address()
    assert ip_address(host).is_loopback


async def test_an_ipv6_address_is_written_in_brackets(daemon: Daemon) -> None:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    async with daemon.admin(AdminSettings(listen="[::1]:0")) as admin:
        assert admin.address.startswith("[::1]:")
        async with aiohttp.ClientSession() as session:
            assert (await Client(admin, session).get("/livez"))[0] == 200


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::]:65535", ("::", 65535)),
        ("metrics.internal:80", ("metrics.internal", 80)),
    ],
)
def test_an_address_is_a_host_and_a_port(listen: str, address: tuple[str, int]) -> None:
    assert AdminSettings(listen=listen).address() == address


@pytest.mark.parametrize(
    "listen",
    ["", ":9464", "127.0.0.1", "127.0.0.1:", "::1:9464", "[]:1", "[x]:1", "a:65536", "a:-1", "a:٣"],
)
def test_an_address_that_is_none_is_refused_with_an_example(listen: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"such as .127\.0\.0\.1:9464"):
        msgspec.convert({"listen": listen}, AdminSettings)

"""The admin port: metrics, health, status and a page for people over HTTP. It only reads.

Whoever can reach it may be hostile: one connection carries one request and lives for seconds,
their number is bounded, bodies are not read, and nothing a client sends is logged. On loopback it
answers to no name but this machine's own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from . import page
from .errors import SluicedError
from .logs import get
from .units import Settings

MAX_CONNECTIONS = 32
MAX_LIFETIME = 10.0  # seconds; a scrape takes milliseconds, Prometheus gives up after 10 s itself

_HOST = re.compile(r"(?:\[([^]]+)\]|([^:]*))(?::\d*)?")

_log = get("sluiced.admin")

_MISDIRECTED = """\
this port listens on loopback and is asked for by another name. Ask for it by its address or as
localhost; where a proxy stands before it, let that send `Host: localhost`.
"""

_ROUTES = """\
/         a page that shows it all, for people
/metrics  for Prometheus
/livez    200 while the process works
/readyz   200 while records move or wait for their time, else 503 and why they do not
/status   the state of the pipeline, as JSON
"""


class AdminSettings(Settings, frozen=True):
    """`[admin]`. `listen` is host:port, an IPv6 host in brackets; port 0 takes a free one."""

    listen: str = "127.0.0.1:9464"

    def __post_init__(self) -> None:
        self.address()

    def address(self) -> tuple[str, int]:
        """Host and port. Raises ValueError."""
        host, colon, port = self.listen.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
        if not (colon and host) or (":" in host) != bracketed or not 0 <= number <= 65535:
            raise ValueError(
                '`listen` is host:port, such as "127.0.0.1:9464", "0.0.0.0:9464" or "[::1]:9464"'
            )
        return host, number


class Admin:
    """The HTTP server of the admin port; use it as an async context manager.

    `live` and `ready` answer None when all is well and a short reason otherwise; `healthy` answers
    with what `/readyz` says when it is; `status` with what is encoded as JSON. They are called in
    the event loop, at each request.
    """

    def __init__(
        self,
        settings: AdminSettings,
        registry: CollectorRegistry,
        *,
        live: Callable[[], str | None],
        ready: Callable[[], str | None],
        healthy: Callable[[], str] = lambda: "ok",
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._runner: web.ServerRunner | None = None
        self._loopback = False
        self._routes: dict[str, Callable[[web.BaseRequest], web.Response]] = {
            **{path: partial(_file, file) for path, file in page.files().items()},
            "/metrics": self._metrics,
            "/livez": lambda _: _health(live(), "ok"),
            "/readyz": lambda _: _health(ready(), healthy()),
            "/status": lambda _: _json(status()),
        }

    @property
    def address(self) -> str:
        """host:port that it listens on, with the port that was chosen where 0 was asked for."""
        assert self._runner is not None, "not started"
        host, port = self._runner.addresses[0][:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self) -> None:
        """Listens. Raises SluicedError where the address cannot be had."""
        host, port = self._settings.address()
        # shutdown_timeout: no answer takes longer, and a drain must not wait for a scraper.
        runner = web.ServerRunner(_Server(self._answer), shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, backlog=MAX_CONNECTIONS).start()
        except OSError as error:
            raise SluicedError(
                f"the admin port cannot listen on {self._settings.listen}: {_reason(error)}",
                "Set `listen` in [admin] to an address and port of this machine that are free.",
            ) from None
        self._runner = runner
        self._loopback = all(_is_loopback(str(address[0])) for address in runner.addresses)

    async def stop(self) -> None:
        """Closes the port and every connection; may be called more than once."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._loopback and not self._known(request.headers.get(hdrs.HOST, "")):
            return _text(421, _MISDIRECTED)
        route = self._routes.get(request.path)
        if route is None:
            return _text(404, f"not here; there are:\n{_ROUTES}")
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            response = _text(405, "only GET and HEAD\n")
            response.headers[hdrs.ALLOW] = "GET, HEAD"
            return response
        try:
            return route(request)
        except Exception:
            _log.exception("admin_failed", path=request.path)
            unhealthy = request.path in ("/livez", "/readyz")
            return _text(503 if unhealthy else 500, "cannot be told; see the log\n")

    def _known(self, asked: str) -> bool:
        """Whether a Host header names this port. A page from elsewhere that has its own name lead
        to loopback (DNS rebinding) could read all answers; what it cannot do is ask for an address
        or for localhost. Where others may come anyway, names are the network's own affair."""
        found = _HOST.fullmatch(asked.strip())
        if found is None:
            return False
        host = (found[1] or found[2]).rstrip(".").lower()
        own, _ = self._settings.address()
        return host in ("", "localhost", own.lower()) or _is_address(host)

    def _metrics(self, request: web.BaseRequest) -> web.Response:
        accepted = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
        try:
            encode, content_type = choose_encoder(accepted)
        except (TypeError, ValueError):  # over a version that is none
            encode, content_type = choose_encoder("")
        response = _response(200, encode(self._registry), content_type)
        response.enable_compression()
        return response


def _health(reason: str | None, healthy: str) -> web.Response:
    return _text(200, f"{healthy}\n") if reason is None else _text(503, f"{reason}\n")


def _json(status: dict[str, Any]) -> web.Response:
    return _response(200, msgspec.json.encode(status), "application/json")


def _file(file: page.File, request: web.BaseRequest) -> web.Response:
    """Asked for again at each visit, and sent only if it is another one by now."""
    known = request.if_none_match or ()
    if any(f'"{tag.value}"' == file.etag for tag in known):
        response = _response(304, b"", file.content_type)
    else:
        response = _response(200, file.body, file.content_type)
    response.headers.update(page.SECURITY)
    response.headers[hdrs.ETAG] = file.etag
    response.headers[hdrs.CACHE_CONTROL] = "no-cache"
    return response


def _text(status: int, text: str) -> web.Response:
    return _response(status, text.encode(errors="replace"), "text/plain; charset=utf-8")


def _response(status: int, body: bytes, content_type: str) -> web.Response:
    headers = {
        hdrs.CONTENT_TYPE: content_type,
        hdrs.CACHE_CONTROL: "no-store",
        hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
        hdrs.SERVER: "sluiced",  # aiohttp would name itself, Python and both versions
    }
    response = web.Response(status=status, body=body, headers=headers)
    response.force_close()
    return response


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    return _is_address(address) and ip_address(address).is_loopback


def _reason(error: OSError) -> str:
    # The text of asyncio's own OSError repeats the address and the number.
    return (error.strerror or str(error)).rsplit(": ", 1)[-1]


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=MAX_LIFETIME,
            lingering_time=0,  # a body is not asked for and not read
            read_bufsize=16 * 1024,
        )


class _Connection(web.RequestHandler):
    """One request. The deadline covers slow senders, silent ones and slow readers alike."""

    __slots__ = ("_deadline", "_server")

    def __init__(self, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.WriteTransport)
        if len(self._server.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(MAX_LIFETIME, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what cannot be parsed. aiohttp would quote it, to the client and in the log."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer has been sent")
        return _text(status, "malformed request\n" if status < 500 else "error\n")

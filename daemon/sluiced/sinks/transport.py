"""The wire between an HTTP sink and its API: connections, bodies in pieces, bounded answers.

Apart from `http`, which makes the requests: here nothing is known of batches, nor of what an answer
says.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import aiohttp
import anyio
from yarl import URL

from ..errors import SluicedError
from ..outcome import Again
from .connector import session, tls
from .encoding import UnreadableError, inflater
from .http_settings import HttpSettings
from .response import Answer
from .settings import Held

# A larger body is handed over in pieces, as fast as the API reads: what a transport is given and
# cannot send yet, it copies.
_PIECE = 256 * 1024

# What is more of an answer is read by one request at a time: what the API writes for the others
# waits on their connections. Several of the largest at once are more than is set aside for them.
_LARGE_ANSWER = 1024**2

# Bytes that an object or a list of an answer takes once it is read. All of them together may take
# what an answer may, or these bytes: text of a few megabytes can hold millions.
_OBJECT, _LEAST_CAP = 200, 4 * 1024**2


class Transport:
    """Requests to one origin. `held` is told of the bytes of answers while they are read."""

    def __init__(self, settings: HttpSettings, held: Held) -> None:
        self._settings = settings
        self._held = held
        self._session: aiohttp.ClientSession | None = None
        self._large = anyio.Semaphore(1)  # for _LARGE_ANSWER

    def open(self) -> None:
        """Connects nothing yet."""
        self._session = session(self._settings.origin, self._settings.connect_timeout)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def probe(self) -> None:
        """Connects to the API, TLS included, and sends nothing. Raises SluicedError."""
        origin, parts = self._settings.origin, urlsplit(self._settings.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            with anyio.fail_after(self._settings.connect_timeout):
                _, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls(origin))
                writer.transport.abort()
        except TimeoutError:
            why = f"no connection within sink.connect_timeout ({self._settings.connect_timeout})"
        except ssl.SSLCertVerificationError as error:
            why = f"its certificate is not accepted: {error.verify_message}"
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
        else:
            return
        raise SluicedError(
            f"cannot reach the sink at {origin}: {why}",
            "Check sink.url, and that the API runs and can be reached from this machine.",
        )

    async def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """One request. Raises what aiohttp raises where there is no answer: see `lost`."""
        if self._session is None:
            raise RuntimeError("send() before open()")
        async with self._session.request(
            method,
            # Already encoded: what the operator wrote goes out byte for byte.
            URL(url, encoded=True),
            headers=headers,
            data=body if body is None or len(body) <= _PIECE else _pieces(body),
            allow_redirects=False,
        ) as response:
            try:
                return Answer(response.status, response.headers, await self._read(response))
            except UnreadableError as error:
                # Leaving here closes a connection on which there is still something to read.
                return Answer(response.status, response.headers, problem=str(error))

    async def _read(self, response: aiohttp.ClientResponse) -> bytes | bytearray:
        """The body, unpacked. Never holds much more than the cap. Raises UnreadableError."""
        cap = self._settings.response.max_bytes
        body = bytearray()
        unpacked = inflater(response.headers.get("Content-Encoding", ""))
        async with AsyncExitStack() as turn:
            turn.callback(lambda: self._held(-len(body)))
            try:
                async for chunk in response.content.iter_any():
                    for piece in unpacked.pieces(chunk):
                        before, after = len(body), len(body) + len(piece)
                        if after > cap:
                            raise UnreadableError(
                                f"the answer is larger than sink.response.max_bytes ({cap})"
                            )
                        if before <= _LARGE_ANSWER < after:
                            await turn.enter_async_context(self._large)
                        self._held(len(piece))
                        body += piece
            except (aiohttp.ClientError, OSError):
                raise UnreadableError("the answer was cut short") from None
        unpacked.finish()
        objects = body.count(b"{") + body.count(b"[")
        if objects * _OBJECT > max(cap, _LEAST_CAP):
            raise UnreadableError(
                f"the answer holds {objects} objects and lists, which at {_OBJECT} bytes each are "
                f"more than sink.response.max_bytes ({cap}) allows"
            )
        return body  # and no copy of it as bytes


def lost(error: aiohttp.ClientError | OSError, origin: str) -> Again:
    """A request that got no answer. The error's own text is used only where it holds no address
    with a query."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            why = getattr(error.certificate_error, "verify_message", "") or "not accepted"
            return Again("connection", f"the certificate of {origin}: {why}", outage=True)
        case aiohttp.ClientSSLError():
            why = getattr(error.os_error, "reason", None) or "no common ground"
            return Again("connection", f"no TLS with {origin}: {why}")
        case aiohttp.ClientConnectorDNSError():
            return Again("connection", f"the host of {origin} is not found: {error.strerror}")
        case aiohttp.ClientConnectorError():
            return Again("connection", f"no connection to {origin}: {error.strerror}")
        case aiohttp.ClientResponseError():
            return Again("unknown", f"what {origin} answered is not HTTP")
        case _:
            return Again("connection", f"{origin} closed the connection without an answer")


async def _pieces(body: bytes) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(body), _PIECE):
        yield view[start : start + _PIECE]

"""A bulk API over HTTP, spoken to by configuration alone."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote, urlsplit

import aiohttp
import anyio
from multidict import CIMultiDict
from yarl import URL

from .. import __version__
from ..batch import Batch
from ..errors import SluicedError
from ..identity import Identify
from ..intake import Format
from ..outcome import Again, Outcome, TooLarge
from ..record import Record
from .body import BodyEncoder, id_objections
from .credentials import Credentials
from .encoding import UnreadableError, compress, inflater
from .http_settings import BATCH_PLACEHOLDERS, HttpSettings
from .response import Answer, ResponseReader
from .template import Template

__all__ = ["HttpSettings", "HttpSink"]

# From this many bytes on, compressing takes milliseconds, in which the event loop has other work.
_LARGE_BODY = 64 * 1024

# A larger body is handed over in pieces, as fast as the API reads: what a transport is given and
# cannot send yet, it copies.
_PIECE = 256 * 1024


class HttpSink:
    """One request for each batch, and one outcome for each request.

    `requests` is told the status ("200", "error", "timeout") and the seconds of each request.
    """

    def __init__(
        self,
        settings: HttpSettings,
        name: str,
        identify: Identify,
        requests: Callable[[str, float], None] | None = None,
        format: Format = "json",  # noqa: A002 - the setting's own name
    ) -> None:
        self._settings = settings
        self._name = name
        self._requests = requests or (lambda status, seconds: None)
        self._credentials = Credentials(settings.headers)
        self._body = BodyEncoder(settings.body, identify, format)
        self._reader = ResponseReader(settings, identify, self._credentials.scrub, time.time)
        self._objections = list(self._body.objections)
        if self._reader.by_id and "id" not in self._body.names:
            self._objections += id_objections(identify)
        self._url = Template.parse(settings.url, BATCH_PLACEHOLDERS)
        self._headers = {
            header: Template.parse(value, BATCH_PLACEHOLDERS)
            for header, value in settings.headers.items()
            if isinstance(value, str)
        }
        templates = (self._url, *self._headers.values())
        self._one_topic = any("topic" in template.names for template in templates)
        self._session: aiohttp.ClientSession | None = None

    @property
    def objections_needed(self) -> bool:
        """Whether `objection` can ever answer with more than None."""
        return bool(self._objections)

    def objection(self, record: Record) -> str | None:
        """Why this record can never be put into a request, or None."""
        return next((text for ask in self._objections if (text := ask(record))), None)

    def encode(self, batch: Batch) -> bytes:
        """The body of the request, before compression."""
        return self._body.encode(batch)

    async def open(self) -> None:
        """Makes ready to send; connects nothing yet. Raises ConfigError for a missing secret."""
        self._credentials.reveal()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls() or True),
            # `connect` covers the name, the connection and TLS. The whole has its own deadline.
            timeout=aiohttp.ClientTimeout(total=None, connect=self._settings.connect_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def probe(self) -> None:
        """Connects to the API, TLS included, and sends nothing. Raises SluicedError."""
        origin, parts = self._settings.origin, urlsplit(self._settings.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            with anyio.fail_after(self._settings.connect_timeout):
                _, writer = await asyncio.open_connection(parts.hostname, port, ssl=self._tls())
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

    async def send(self, batch: Batch) -> Outcome:
        """One request. Whatever comes of it is an Outcome; only cancellation is raised."""
        if error := self._unsendable(batch):
            return TooLarge(error=error, sent=False)
        body = self.encode(batch)
        if len(body) > self._settings.max_bytes:
            cap = self._settings.max_bytes
            error = f"the body has {len(body)} bytes, and sink.max_bytes is {cap}"
            return TooLarge(error=error, sent=False)
        started = time.monotonic()
        outcome, status = await self._attempt(batch, body)
        self._requests(status, time.monotonic() - started)
        if isinstance(outcome, Again) and outcome.status in ("401", "403"):
            self._credentials.renew()
        return outcome

    def _unsendable(self, batch: Batch) -> str | None:
        if len(batch) > self._settings.max_records:
            return f"{len(batch)} records, and sink.max_records is {self._settings.max_records}"
        if self._one_topic and batch.topic is None:
            return "records of several topics, and sink.url or sink.headers holds $topic"
        return None

    async def _attempt(self, batch: Batch, body: bytes) -> tuple[Outcome, str]:
        """The outcome of one request, and its status for the metrics."""
        settings = self._settings
        try:
            with anyio.fail_after(settings.timeout):
                answer = await self._exchange(batch, body)
        except aiohttp.ConnectionTimeoutError:
            error = f"no connection to {settings.origin} within {settings.connect_timeout}"
            return Again("timeout", error), "timeout"
        except TimeoutError:
            error = f"no answer from {settings.origin} within {settings.timeout}"
            return Again("timeout", error), "timeout"
        except (aiohttp.ClientError, OSError) as trouble:
            return _lost(trouble, settings.origin), "error"
        return self._reader.outcome(batch, answer), str(answer.status)

    async def _exchange(self, batch: Batch, body: bytes) -> Answer:
        if self._session is None:
            raise RuntimeError("send() before open()")
        how = self._settings.compression
        if how != "none":
            if len(body) > _LARGE_BODY:
                body = await anyio.to_thread.run_sync(compress, body, how)
            else:
                body = compress(body, how)
        values = {
            "batch_id": batch.id,
            "name": quote(self._name, safe=""),
            "topic": quote(batch.topic or "", safe=""),
        }
        async with self._session.request(
            self._settings.method,
            # Already encoded: what the operator wrote goes out byte for byte.
            URL(self._url.fill(values), encoded=True),
            headers=self._headers_of(batch, values, len(body)),
            data=body if len(body) <= _PIECE else _pieces(body),
            allow_redirects=False,
        ) as response:
            try:
                return Answer(response.status, response.headers, await self._read(response))
            except UnreadableError as error:
                # Leaving here closes a connection on which there is still something to read.
                return Answer(response.status, response.headers, problem=str(error))

    def _headers_of(self, batch: Batch, values: dict[str, str], length: int) -> CIMultiDict[str]:
        settings = self._settings
        headers = CIMultiDict(
            {
                "User-Agent": f"sluiced/{__version__}",
                "Accept-Encoding": "gzip",
                "Content-Length": str(length),
                "Content-Type": "application/x-ndjson"
                if settings.body.lines
                else "application/json",
            }
        )
        if settings.compression != "none":
            headers["Content-Encoding"] = settings.compression
        for header, template in self._headers.items():
            headers[header] = template.fill(values)
        headers.update(self._credentials.headers)
        if settings.idempotency_header is not None:
            key = f'"{batch.id}"' if settings.idempotency_quoted else batch.id
            headers[settings.idempotency_header] = key
        return headers

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body, unpacked. Never holds much more than the cap. Raises UnreadableError."""
        cap = self._settings.response.max_bytes
        body = bytearray()
        unpacked = inflater(response.headers.get("Content-Encoding", ""))
        try:
            async for chunk in response.content.iter_any():
                body += unpacked.feed(chunk, cap - len(body))
                if len(body) > cap:
                    raise UnreadableError(
                        f"the answer is larger than sink.response.max_bytes ({cap})"
                    )
        except (aiohttp.ClientError, OSError):
            raise UnreadableError("the answer was cut short") from None
        unpacked.finish()
        return bytes(body)

    def _tls(self) -> ssl.SSLContext | None:
        """The system's own certificates and rules; verification cannot be turned off."""
        if not self._settings.origin.startswith("https:"):
            return None
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context


def _lost(error: aiohttp.ClientError | OSError, origin: str) -> Again:
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

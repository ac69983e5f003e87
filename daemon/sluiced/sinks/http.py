"""A bulk API over HTTP, spoken to by configuration alone."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import aiohttp
import anyio
from multidict import CIMultiDict
from yarl import URL

from .. import __version__
from ..batch import Batch
from ..errors import SluicedError
from ..identity import Identify
from ..intake import Format, Objection
from ..outcome import Again, Outcome, TooLarge
from ..ports import Identifies
from ..record import Record
from .body import BodyEncoder, id_objections
from .connector import Connector
from .credentials import Credentials
from .encoding import UnreadableError, compress, inflater
from .follow import Follower
from .http_settings import BATCH_PLACEHOLDERS, HttpSettings
from .response import Answer, ResponseReader
from .settings import Held, Requests
from .template import Template

__all__ = ["HttpSettings", "HttpSink"]

# From this many bytes on, compressing takes milliseconds, in which the event loop has other work.
_LARGE_BODY = 64 * 1024

# A larger body is handed over in pieces, as fast as the API reads: what a transport is given and
# cannot send yet, it copies.
_PIECE = 256 * 1024

# What is more of an answer is read by one request at a time: what the API writes for the others
# waits on their connections. Several of the largest at once are more than is set aside for them.
_LARGE_ANSWER = 1024**2

# Bytes that an object or a list of an answer takes once it is read. All of them together may take
# what an answer may, or these bytes: text of a few megabytes can hold millions.
_OBJECT, _LEAST_CAP = 200, 4 * 1024**2


class Encoder(Protocol):
    """Makes bodies. `names` are the placeholders in an item, `objections` what may stand against a
    record in one."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def objections(self) -> Sequence[Objection]: ...

    def encode(self, batch: Batch) -> bytes: ...


# Sent with every request.
_WHO = {"User-Agent": f"sluiced/{__version__}", "Accept-Encoding": "gzip"}


class HttpSink:
    """One request for each batch, and one outcome for each request.

    `requests` is told the status ("200", "error", "timeout") and the seconds of each request,
    `held` of the bytes of answers while they are read, and of what a body has beyond the values of
    its records.
    """

    def __init__(
        self,
        settings: HttpSettings,
        name: str,
        identify: Identify,
        requests: Requests | None = None,
        format: Format = "json",  # noqa: A002 - the setting's own name
        held: Held | None = None,
    ) -> None:
        self._settings = settings
        self._name = name
        self._identify = identify
        self._format: Format = format
        self._requests = requests or (lambda status, seconds: None)
        self._held = held or (lambda by: None)
        self._credentials = Credentials(settings.headers)
        self._body = self._encoder()
        self._reader = self._response_reader()
        follow = settings.response.follow
        self._follower = None if follow is None else Follower(follow, self._look)
        self._objections = list(self._body.objections)
        if self._reader.by_id and not {"id", "id_url"} & set(self._body.names):
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
        self._large = anyio.Semaphore(1)  # for _LARGE_ANSWER

    def _encoder(self) -> Encoder:
        """What makes the bodies. A kind of API that has a name puts its own here."""
        return BodyEncoder(self._settings.body, self._identify, self._format)

    def _response_reader(self) -> ResponseReader:
        """What judges the answers, likewise."""
        scrub = self._credentials.scrub
        return ResponseReader(self._settings, self._identify, scrub, time.time)

    def successor(self, settings: Any) -> HttpSink:
        """Another one for the same pipeline by other settings, not open yet."""
        sink = HttpSink(
            settings, self._name, self._identify, self._requests, self._format, self._held
        )
        sink._credentials.remember(self._credentials)
        return sink

    @property
    def identifies(self) -> Identifies:
        """See ports.Sink."""
        return self._settings.identified_by

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

    def preview(self, batch: Batch) -> Iterator[str]:
        """The request, with the name of a secret where the secret would be."""
        if error := self._unsendable(batch):
            yield f"cannot be sent as one request: {error}"
            return
        body, values = self.encode(batch), self._values(batch)
        address = urlsplit(self._url.fill(values))
        yield f"{self._settings.method} {address.path or '/'}{address.query and '?'}{address.query}"
        yield f"Host: {address.netloc}"
        headers = self._headers_of(batch, values, len(body), self._credentials.places)
        yield from (f"{name}: {value}" for name, value in headers.items())
        yield ""
        yield from body.decode(errors="backslashreplace").splitlines()

    async def open(self) -> None:
        """Makes ready to send; connects nothing yet. Raises ConfigError for a missing secret."""
        self._credentials.reveal()
        self._session = aiohttp.ClientSession(
            connector=Connector(limit=0, ssl=self._tls() or True),
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
        body = await self._packed(body)  # by the same name: only one of the two stays in memory
        beyond = max(0, len(body) - batch.size)  # so much the records do not count for
        self._held(beyond)
        try:
            outcome, status = await self._attempt(batch, body)
        finally:
            self._held(-beyond)
        self._requests(status, time.monotonic() - started)
        if isinstance(outcome, Again) and outcome.status in ("401", "403"):
            self._credentials.renew()
        return outcome

    async def _packed(self, body: bytes) -> bytes:
        how = self._settings.compression
        if how == "none":
            return body
        if len(body) > _LARGE_BODY:
            return await anyio.to_thread.run_sync(compress, body, how)
        return compress(body, how)

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
                if self._follower is not None:
                    answer = await self._follower.last(answer)
        except aiohttp.ConnectionTimeoutError:
            error = f"no connection to {settings.origin} within {settings.connect_timeout}"
            return Again("timeout", error), "timeout"
        except TimeoutError:
            error = f"no answer from {settings.origin} within {settings.timeout}"
            return Again("timeout", error), "timeout"
        except (aiohttp.ClientError, OSError) as trouble:
            return lost(trouble, settings.origin), "error"
        return self._reader.outcome(batch, answer), str(answer.status)

    async def _exchange(self, batch: Batch, body: bytes) -> Answer:
        values = self._values(batch)
        return await self._ask(
            self._settings.method,
            self._url.fill(values),
            self._headers_of(batch, values, len(body), self._credentials.headers),
            body if len(body) <= _PIECE else _pieces(body),
        )

    async def _look(self, url: str) -> Answer:
        """Asks after what was begun, with the headers that are not about the batch or its body."""
        steady = {
            name: template.fill({})
            for name, template in self._headers.items()
            if not template.names and name.lower() != "content-type"
        }
        return await self._ask("GET", url, {**_WHO, **steady, **self._credentials.headers})

    async def _ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes | AsyncIterator[memoryview] | None = None,
    ) -> Answer:
        if self._session is None:
            raise RuntimeError("send() before open()")
        async with self._session.request(
            method,
            # Already encoded: what the operator wrote goes out byte for byte.
            URL(url, encoded=True),
            headers=headers,
            data=data,
            allow_redirects=False,
        ) as response:
            try:
                return Answer(response.status, response.headers, await self._read(response))
            except UnreadableError as error:
                # Leaving here closes a connection on which there is still something to read.
                return Answer(response.status, response.headers, problem=str(error))

    def _values(self, batch: Batch) -> dict[str, str]:
        """What the placeholders around the body stand for."""
        return {
            "batch_id": batch.id,
            "name": quote(self._name, safe=""),
            "topic": quote(batch.topic or "", safe=""),
        }

    def _headers_of(
        self, batch: Batch, values: dict[str, str], length: int, secret: Mapping[str, str]
    ) -> CIMultiDict[str]:
        settings = self._settings
        headers = CIMultiDict(
            {
                **_WHO,
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
        headers.update(secret)
        if settings.idempotency_header is not None:
            key = f'"{batch.id}"' if settings.idempotency_quoted else batch.id
            headers[settings.idempotency_header] = key
        return headers

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

    def _tls(self) -> ssl.SSLContext | None:
        """The system's own certificates and rules; verification cannot be turned off."""
        if not self._settings.origin.startswith("https:"):
            return None
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context


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

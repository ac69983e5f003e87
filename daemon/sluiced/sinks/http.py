"""A bulk API over HTTP, spoken to by configuration alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import aiohttp
import anyio
from multidict import CIMultiDict

from .. import __version__
from ..batch import Batch
from ..identity import Identify
from ..intake import Format, Objection
from ..outcome import Again, Outcome, TooLarge
from ..ports import Identifies
from ..record import Record
from .body import BodyEncoder, id_objections
from .credentials import Credentials
from .encoding import compress
from .follow import Follower
from .http_settings import BATCH_PLACEHOLDERS, HttpSettings
from .response import Answer, ResponseReader
from .settings import Held, Requests
from .template import Template
from .transport import Transport, lost

# From this many bytes on, compressing takes milliseconds, in which the event loop has other work.
_LARGE_BODY = 64 * 1024


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
        self._transport = Transport(settings, self._held)

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
        self._transport.open()

    async def close(self) -> None:
        await self._transport.close()

    async def probe(self) -> None:
        """Connects to the API, TLS included, and sends nothing. Raises SluicedError."""
        await self._transport.probe()

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
        return await self._transport.ask(
            self._settings.method,
            self._url.fill(values),
            self._headers_of(batch, values, len(body), self._credentials.headers),
            body,
        )

    async def _look(self, url: str) -> Answer:
        """Asks after what was begun, with the headers that are not about the batch or its body."""
        steady = {
            name: template.fill({})
            for name, template in self._headers.items()
            if not template.names and name.lower() != "content-type"
        }
        headers = {**_WHO, **steady, **self._credentials.headers}
        return await self._transport.ask("GET", url, headers)

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

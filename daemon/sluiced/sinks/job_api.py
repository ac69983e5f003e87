"""The HTTP of an API of jobs: requests that are small, uploads and downloads that are not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import msgspec

from .. import __version__
from ..batch import Batch
from ..errors import SluicedError
from ..feedback import Feedback
from ..outcome import Again, Refused
from ..ports import BrokenResultsError, Progress
from ..prices import Usage
from ..record import Record
from ..units import Secret
from . import estimate
from .connector import session
from .credentials import Credentials
from .items import excerpt
from .job_answers import LATER, Said, objects
from .job_settings import ProviderSettings
from .job_sink import ConfiguredJobSink
from .prompt import Prompt
from .settings import Line
from .transport import lost
from .uploads import STALL, Patience, Upload

LARGEST_ANSWER = 64 * 1024**2  # bytes of a single document, and of one line of results
SKEW = 3600.0  # seconds by which the clocks of a producer and of the API may differ


class JobApi(ConfiguredJobSink):
    """Base of the sinks that make jobs at a provider."""

    settings: ProviderSettings
    key_header = "Authorization"
    key_prefix = "Bearer "
    list_path = ""
    after = "after"  # the name of the parameter for what comes behind a page

    def __init__(self, settings: ProviderSettings, line: Line) -> None:
        super().__init__(settings, line)
        self._prompt: Prompt | None = None
        if settings.prompt is not None:
            self._prompt = Prompt(settings.prompt, json=line.record.format == "json")
        key = settings.api_key
        prefixed = key if key.prefix else msgspec.structs.replace(key, prefix=self.key_prefix)
        sources: dict[str, str | Secret] = {self.key_header: prefixed}
        self._credentials = Credentials(sources, "sink.api_key")
        self._session: aiohttp.ClientSession | None = None
        # When jobs were looked for in vain first, by their names.
        self.doubts: dict[str, float] = {}
        self.told: Feedback | None = None
        self.clock = time.monotonic

    def body(self, record: Record) -> bytes:
        """Of the request that is made of this record: JSON."""
        return (record.value or b"null") if self._prompt is None else self._prompt.body(record)

    def expected(self, records: Iterable[Record]) -> list[Usage]:
        """What the requests of these records are likely to take, by model."""
        return estimate.of_all(map(self.body, records), self.settings.asks)

    def objection(self, record: Record) -> str | None:
        """A request's body is an object, or can be made."""
        if self._prompt is not None and record.value is not None:
            return self._prompt.objection(record)
        if record.value is None:
            return "a tombstone is no prompt; set [record] on_tombstone to skip or dead-letter"
        return None if record.value.lstrip()[:1] == b"{" else "the value is not a JSON object"

    async def open(self) -> None:
        self._credentials.reveal()
        self._session = session(self.settings.origin, self.settings.connect_timeout)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def probe(self) -> None:
        """Asks for the newest job, which costs nothing. Raises SluicedError."""
        await self.open()
        try:
            said = await self.ask("GET", self.list_path, query={"limit": "1"})
        finally:
            await self.close()
        if isinstance(said, Again | Refused):
            raise SluicedError(
                f"the API of jobs cannot be used: {said.error}",
                "Check sink.base_url, sink.api_key, and that it can be reached from this machine.",
            )

    def parts(self, batch: Batch) -> Iterator[bytes]:
        """What is sent of a batch, bit by bit: subclasses say how."""
        raise NotImplementedError

    def preview(self, batch: Batch) -> Iterator[str]:
        whole = b"".join(self.parts(batch))
        yield from whole.decode(errors="backslashreplace").splitlines()

    # --- requests -------------------------------------------------------------------------------

    def headers(self) -> dict[str, str]:
        return {
            "User-Agent": f"sluiced/{__version__}",
            "Accept-Encoding": "identity",
            **self._credentials.headers,
        }

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: object = None,
        upload: Upload | None = None,
    ) -> Said | Again | Refused:
        """One request: its answer where that is a 2xx, otherwise what is to be thought of it."""
        if json is not None:
            body = msgspec.json.encode(json)
            upload = Upload("application/json", len(body), lambda: (body,))
        started = time.monotonic()
        said: Said | None = None
        outcome: Said | Again | Refused
        patience = Patience(self.settings.timeout, 0 if upload is None else upload.size)
        try:
            with patience.scope:
                async with self._request(method, path, query, upload, patience) as response:
                    said = Said(response.status, response.headers, await _read(response))
            if said is None:
                status, outcome = "timeout", Again("timeout", self._too_slow(patience))
            else:
                status, outcome = str(said.status), self._judged(said)
        except (aiohttp.ClientError, OSError) as trouble:
            status, outcome = "error", lost(trouble, self.settings.origin)
        self.line.requests(status, time.monotonic() - started)
        if isinstance(outcome, Again) and outcome.status in ("401", "403"):
            self._credentials.renew()
        return outcome

    def _too_slow(self, patience: Patience) -> str:
        where = self.settings.origin
        if patience.uploading:
            return f"the upload to {where} stalled"
        return f"no answer from {where} within {self.settings.timeout}"

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        upload: Upload | None = None,
        patience: Patience | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("a request before open()")
        if self._session.closed:  # replaced while results were read
            raise aiohttp.ClientConnectionError("the sink was replaced")
        url = self.settings.base_url.rstrip("/") + path
        headers, data = self.headers(), None
        if upload is not None and patience is not None:
            headers |= {"Content-Type": upload.content_type, "Content-Length": str(upload.size)}
            data = upload.pieces(patience.sent)
        async with self._session.request(
            method, url, params=query, headers=headers, data=data, allow_redirects=False
        ) as response:
            yield response

    def _judged(self, said: Said) -> Said | Again | Refused:
        status = said.status
        if 200 <= status < 300:
            return said if said.document else Again("unknown", "the answer is no JSON object")
        error = f"the API answered {status}"
        if why := said.text(("error", "message")):
            error += f": {excerpt(why, self._credentials.scrub)}"
        after, told = said.after, said.feedback
        if status == 402 or said.of_the_account:
            error += "; see to the account"
            return Again("status", error, str(status), after, outage=True, feedback=told)
        if status == 429:
            return Again("throttled", error, "429", after, feedback=told)
        if status in (401, 403):
            error += "; check sink.api_key"
            return Again("status", error, str(status), after, outage=True, feedback=told)
        if status >= 500 or status in LATER:
            return Again("status", error, str(status), after, feedback=told)
        if 300 <= status < 400:
            return Again("unknown", f"{error}, a redirect, which is not followed", str(status))
        return Refused(str(status), error, named=self._named_in(said), feedback=told)

    def _named_in(self, said: Said) -> tuple[int, ...]:
        """The places in the batch of the records that a refusal blames, where it says so."""
        return ()

    async def looked_at(self, job: str) -> Said | Progress | Again:
        """What the API says of a job, or what to think of it where there is none."""
        said = await self.ask("GET", f"{self.list_path}/{job}")
        if isinstance(said, Refused):
            error, told = said.error, said.feedback
            return Progress("missing", status=said.status, error=error, feedback=told)
        return said

    async def cancel(self, job: str) -> Again | None:
        """See ports.JobSink."""
        said = await self.ask("POST", f"{self.list_path}/{job}/cancel")
        return said if isinstance(said, Again) and said.status != "409" else None

    async def listed(
        self, path: str, limit: str, since: float, **query: str
    ) -> AsyncIterator[dict[str, Any] | Again]:
        """From the newest on, back to `since`. What is said of limits meanwhile is in `told`."""
        after: dict[str, str] = {}
        ends = set()  # of pages: an API that does not know `after` begins over and over again
        while True:
            said = await self.ask("GET", path, query={"limit": limit, **query, **after})
            if isinstance(said, Refused):
                said = Again("status", said.error, said.status, feedback=said.feedback)
            if isinstance(said, Again):
                yield said
                return
            self.told = said.feedback
            page = objects(said.document.get("data"))
            if page != said.document.get("data") or not all(_has_id(each) for each in page):
                yield Again("unknown", f"what the API answered for {path} is no list")
                return
            if page and page[-1]["id"] in ends:
                yield Again("unknown", f"the API lists {path} over again, and not what comes next")
                return
            for found in page:
                if (self.born(found) or since) < since:
                    return
                yield found
            if not page or not said.document.get("has_more"):
                return
            after = {self.after: page[-1]["id"]}
            ends.add(page[-1]["id"])

    @staticmethod
    def born(state: Mapping[str, Any]) -> float | None:
        """When a job or a file was made, in seconds since 1970, as far as the API says."""
        raise NotImplementedError

    async def lines(self, path: str) -> AsyncIterator[bytes]:
        """The lines of a download, of which never more than one is held. Raises
        BrokenResultsError."""
        rest = b""
        try:
            async with self._request("GET", path) as response:
                if response.status != 200:
                    said = Said(response.status, {}, await _read(response))
                    judged = self._judged(said)
                    why = judged.error if isinstance(judged, Again | Refused) else "no results"
                    raise BrokenResultsError(f"results cannot be had: {why}")
                content = response.content
                while True:
                    with anyio.fail_after(STALL):
                        chunk = await content.readany()
                    if not chunk:
                        break
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        if line.strip():
                            yield line
                    if len(rest) > LARGEST_ANSWER:
                        raise BrokenResultsError("a line of results has no end")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise BrokenResultsError(f"the download broke off: {type(error).__name__}") from None
        if rest.strip():
            yield rest

    def too_early(self, name: str) -> bool:
        """Whether it does not count yet that no job was found: a request that was cut off may be
        carried out after we have looked."""
        now = self.clock()
        return now < self.doubts.setdefault(name, now) + self.poll_every

    def since(self, batch: Batch) -> float:
        """When a job of these records was made, at the earliest; in seconds since 1970."""
        newest = max(record.timestamp for record in batch.records) / 1000
        return newest - SKEW if newest <= time.time() else 0.0


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body to its end; of one that is too large, enough to be unreadable."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > LARGEST_ANSWER:
            break
    return bytes(body)


def _has_id(found: Mapping[str, Any]) -> bool:
    return isinstance(found.get("id"), str) and found["id"] != ""

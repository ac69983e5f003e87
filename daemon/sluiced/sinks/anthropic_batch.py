"""Anthropic's message batches: a job is made of one request, and its results come in any order."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from ..batch import Batch
from ..outcome import DELIVERED, Again, Fate, Refused, TooLarge, Verdict
from ..ports import BrokenResultsError, JobResult, Progress, Submitted, Undecided
from .items import excerpt
from .job_answers import Said, an_object, count, read_line
from .job_api import JobApi
from .job_settings import AnthropicBatchSettings
from .settings import Line
from .uploads import Upload, size_of

VERSION = "2026-10-21"  # of the API, as the official package of this time names it
PATH = "/messages/batches"

# Errors of one request that say nothing of the request.
LATER = (
    *("rate_limit_error", "overloaded_error", "api_error", "timeout_error"),
    *("authentication_error", "permission_error", "billing_error"),
)


_NAMED = re.compile(r"requests\.(\d{1,6})\b")


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct):
    model: str = ""
    usage: _Usage | None = None


class _Detail(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Error(msgspec.Struct):
    error: _Detail


class _Result(msgspec.Struct):
    type: str
    message: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | None = None


class _Line(msgspec.Struct):
    custom_id: str
    result: _Result


_line = msgspec.json.Decoder(_Line).decode
_message = msgspec.json.Decoder(_Message).decode


class AnthropicBatch(JobApi):
    """Implements ports.JobSink. The API keeps no names for jobs: see `find`."""

    list_path = PATH
    after = "after_id"

    def __init__(self, settings: AnthropicBatchSettings, line: Line) -> None:
        super().__init__(settings, line)

    def successor(self, settings: AnthropicBatchSettings) -> AnthropicBatch:
        sink = AnthropicBatch(settings, self.line)
        sink._credentials.remember(self._credentials)
        sink.doubts = self.doubts
        return sink

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "anthropic-version": VERSION}

    def parts(self, batch: Batch) -> Iterator[bytes]:
        """A request for each record."""
        before = b'{"requests":[\n'
        for record in batch.records:
            name, body = self.ids.of(record).encode(), self.body(record)
            yield b'%b{"custom_id":"%b","params":%b}' % (before, name, body)
            before = b",\n"
        yield b"\n]}"

    @staticmethod
    def born(state: Mapping[str, Any]) -> float | None:
        try:
            return datetime.fromisoformat(state["created_at"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    async def submit(self, batch: Batch, name: str) -> Submitted | Again | Refused | TooLarge:
        """See ports.JobSink."""
        if len(batch) > self.settings.max_records:
            return TooLarge(error=f"{len(batch)} records in one job", sent=False)
        parts = partial(self.parts, batch)
        size, cap = await size_of(parts), self.settings.max_bytes
        if size > cap:
            return TooLarge(error=f"a request of {size} bytes; the cap is {cap}", sent=False)
        said = await self.ask("POST", PATH, upload=Upload("application/json", size, parts))
        if isinstance(said, Refused) and said.status == "413":
            return TooLarge("413", said.error, feedback=said.feedback)
        if isinstance(said, Said) and not said.text(("id",)):
            return Again("unknown", "the answer to a submission names no job")
        return Submitted(said.text(("id",)), said.feedback) if isinstance(said, Said) else said

    async def find(
        self, batch: Batch, name: str, known: Collection[str], *, whole: bool = True
    ) -> Submitted | Undecided | Again | None:
        """See ports.JobSink.

        A job of as many requests (or of more, where the batch has been taken apart since), made
        since the youngest record was written, may be it. One that
        has ended tells by its results. One at work does not: it is waited for, which costs a day at
        most, where submitting twice would cost a job. One whose results are no longer kept is none
        that anybody could adopt.
        """
        wanted = {self.ids.of(record) for record in batch.records}
        at_work = ""
        async for found in self.listed(PATH, "100", self.since(batch)):
            if isinstance(found, Again):
                return found
            if not (counts := an_object(found.get("request_counts"))):
                return Again("unknown", "a job in the list does not say how large it is")
            total = sum(map(count, counts.values()))
            if found["id"] in known or total < len(batch) or (whole and total > len(batch)):
                continue
            if found.get("processing_status") != "ended":
                at_work = at_work or found["id"]
                continue
            if not found.get("results_url"):
                continue
            try:
                async for line in self.lines(f"{PATH}/{found['id']}/results"):
                    if read_line(_line, line).custom_id in wanted:
                        self.doubts.pop(name, None)
                        return Submitted(found["id"], self.told)
                    if whole:
                        break  # all of its lines are of ours, or none
            except BrokenResultsError as error:
                return Again("connection", str(error))
        if at_work or self.too_early(name):
            return Undecided(at_work, self.told)
        self.doubts.pop(name, None)
        return None

    def _named_in(self, said: Said) -> tuple[int, ...]:
        """The request that the error's text begins with: "requests.3.custom_id: …"."""
        found = _NAMED.match(said.text(("error", "message")))
        return (int(found[1]),) if found else ()

    async def poll(self, job: str) -> Progress | Again:
        """See ports.JobSink."""
        said = await self.looked_at(job)
        if not isinstance(said, Said):
            return said
        counts = an_object(said.document.get("request_counts"))
        total = sum(map(count, counts.values()))
        done = total - count(counts.get("processing"))
        status = said.text(("processing_status",))
        cancelled = bool(said.text(("cancel_initiated_at",)))
        if status == "ended" and not said.text(("results_url",)):
            error = "the results of the job are no longer kept"
            told = said.feedback
            return Progress("missing", done, total, status="archived", error=error, feedback=told)
        return Progress(
            "ended" if status == "ended" else "working",
            done,
            total,
            status=excerpt(status, self._credentials.scrub),
            cancelled=cancelled,
            created=self.born(said.document),
            feedback=said.feedback,
        )

    async def results(self, job: str) -> AsyncIterator[JobResult]:
        """See ports.JobSink."""
        async for line in self.lines(f"{PATH}/{job}/results"):
            yield self._result(line)

    def _result(self, line: bytes) -> JobResult:
        found = read_line(_line, line)
        where, result = self.ids.where(found.custom_id), found.result
        if result.type == "succeeded":
            model, taken, given = _counted(result.message)
            return JobResult(where, DELIVERED, bytes(result.message), model, taken, given)
        if result.type != "errored" or result.error is None:  # canceled, expired
            what = excerpt(result.type, self._credentials.scrub)
            return JobResult(where, Verdict(Fate.RETRY, what, f"it was {what}"))
        detail = result.error.error
        fate = Fate.RETRY if detail.type in LATER else Fate.REJECTED
        kind, text = (excerpt(t, self._credentials.scrub) for t in (detail.type, detail.message))
        return JobResult(where, Verdict(fate, kind, text))


def _counted(body: msgspec.Raw) -> tuple[str, int, int]:
    """The model, and all tokens that went in and came out."""
    try:
        message = _message(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", 0, 0
    usage = message.usage or _Usage()
    cached = count(usage.cache_creation_input_tokens) + count(usage.cache_read_input_tokens)
    return message.model, count(usage.input_tokens) + cached, count(usage.output_tokens)

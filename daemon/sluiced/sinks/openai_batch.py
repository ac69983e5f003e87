"""OpenAI's batches: a file of requests is uploaded, a job made of it, and its output downloaded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from ..batch import Batch
from ..outcome import DELIVERED, Again, Fate, Refused, RetryReason, TooLarge, Verdict
from ..ports import BrokenResultsError, JobResult, Progress, Submitted, Undecided
from .items import excerpt
from .job_answers import ACCOUNT, Said, an_object, count, objects, read_line, verdict_of
from .job_api import JobApi
from .job_settings import OpenAIBatchSettings
from .openai_lines import LineError, counted, message_of, on_one_line, request_line, result_line
from .settings import Line
from .uploads import form, size_of

# The states of theirs in which there is nothing to be had yet, and in which there is.
WORKING = ("validating", "in_progress", "finalizing", "cancelling")
ENDED = ("completed", "expired", "cancelled")
# Failures of a job that no record is to blame for: the queue is full, or see to the account.
LATER_ON = ("token_limit_exceeded", *ACCOUNT)

NAME = "sluiced.name"  # the key of a batch's metadata that it is found by

_string = msgspec.json.Encoder().encode


class OpenAIBatch(JobApi):
    """Implements ports.JobSink."""

    list_path = "/batches"

    def __init__(self, settings: OpenAIBatchSettings, line: Line) -> None:
        super().__init__(settings, line)
        self._endpoint = settings.endpoint
        self._uploaded: dict[str, str] = {}  # files that wait for their job, by its name
        self._validating: dict[str, str] = {}  # names of jobs of which the file may be wanted again

    def successor(self, settings: OpenAIBatchSettings) -> OpenAIBatch:
        sink = OpenAIBatch(settings, self.line)
        sink._credentials.remember(self._credentials)
        sink._uploaded, sink._validating = self._uploaded, self._validating
        sink.doubts = self.doubts
        return sink

    def parts(self, batch: Batch) -> Iterator[bytes]:
        """A line for each record."""
        line = b'{"custom_id":"%b","method":"POST","url":%b,"body":%b}\n'
        url = _string(self._endpoint)
        for record in batch.records:
            yield line % (self.ids.of(record).encode(), url, on_one_line(self.body(record)))

    # --- making jobs ----------------------------------------------------------------------------

    async def submit(self, batch: Batch, name: str) -> Submitted | Again | Refused | TooLarge:
        """See ports.JobSink. A file whose job could not be made now, or had to make room in the
        queue, waits for the next attempt.

        Right before we make it we look whether there is one: we may have been frozen, or held up,
        and somebody else has the batch now, who deletes our file, so that it makes no job any more.
        """
        if len(batch) > self.settings.max_records:
            return TooLarge(error=f"{len(batch)} records in one job", sent=False)
        if name not in self._uploaded:
            parts = partial(self.parts, batch)
            size, cap = await size_of(parts), self.settings.max_bytes
            if size > cap:
                return TooLarge(error=f"a file of {size} bytes; the cap is {cap}", sent=False)
            upload = form(_file_name(name), size, parts, purpose="batch")
            uploaded = await self.ask("POST", "/files", upload=upload)
            if isinstance(uploaded, Refused) and uploaded.status == "413":
                return TooLarge("413", uploaded.error, feedback=uploaded.feedback)
            if not isinstance(uploaded, Said):
                return uploaded
            if not (made_of := uploaded.text(("id",))):
                return Again("status", "the answer to an upload names no file")
            self._uploaded[name] = made_of
        file = self._uploaded[name]
        found = await self._named_job(name, self.since(batch))
        if isinstance(found, Submitted):
            await self._deleted(self._uploaded.pop(name))
            return found
        if isinstance(found, Again):  # nothing was made, and so there is nothing to be in doubt of
            reason: RetryReason = "throttled" if found.reason == "throttled" else "status"
            return replace(found, reason=reason, status="")
        made = await self.ask(
            "POST",
            "/batches",
            json={
                "input_file_id": file,
                "endpoint": self._endpoint,
                "completion_window": "24h",
                "metadata": {NAME: name, "sluiced.pipeline": self.line.name},
            },
        )
        if isinstance(made, Again) and not made.doubtful:
            return made
        if isinstance(made, Said) and not made.text(("id",)):
            made = Again("unknown", "the answer to a submission names no job")
        if isinstance(made, Said):
            job = made.text(("id",))
            self._validating[job] = name
            return Submitted(job, made.feedback)
        if isinstance(made, Refused):
            gone = await self.ask("DELETE", f"/files/{file}")
            if isinstance(gone, Again) and not gone.outage:
                return gone
            if isinstance(gone, Refused) and gone.status == "404":
                made = Again("unknown", f"somebody has deleted the uploaded file: {made.error}")
        del self._uploaded[name]
        return made

    async def find(
        self, batch: Batch, name: str, known: Collection[str], *, whole: bool = True
    ) -> Submitted | Undecided | Again | None:
        """See ports.JobSink. A file that was uploaded for it and not used is deleted, before it
        counts that there is no job: after that none can be made of it any more."""
        since = self.since(batch)
        if (found := await self._named_job(name, since, known)) is not None:
            return found
        async for file in self.listed("/files", "1000", since, purpose="batch"):
            if isinstance(file, Again):
                return file
            unused = file.get("filename") == _file_name(name)
            if unused and (later := await self._deleted(file["id"])) is not None:
                return later
        self._uploaded.pop(name, None)
        if self.too_early(name):
            return Undecided(feedback=self.told)
        self.doubts.pop(name, None)
        return None

    async def _named_job(
        self, name: str, since: float, known: Collection[str] = ()
    ) -> Submitted | Again | None:
        async for found in self.listed("/batches", "100", since):
            if isinstance(found, Again):
                return found
            mine = an_object(found.get("metadata")).get(NAME) == name
            if mine and found["id"] not in known and found.get("status") != "failed":
                self.doubts.pop(name, None)
                return Submitted(found["id"], self.told)
        return None

    async def _deleted(self, file: str) -> Again | None:
        """None once it is gone, or will not go for us. What is left over expires in a month."""
        said = await self.ask("DELETE", f"/files/{file}")
        return said if isinstance(said, Again) and not said.outage else None

    @staticmethod
    def born(state: Mapping[str, Any]) -> float | None:
        found = state.get("created_at")
        return found if isinstance(found, int | float) and 0 <= found < 2**53 else None

    # --- looking after them ---------------------------------------------------------------------

    async def poll(self, job: str) -> Progress | Again:
        """See ports.JobSink."""
        said = await self.looked_at(job)
        if not isinstance(said, Said):
            return said
        status, counts = said.text(("status",)), an_object(said.document.get("request_counts"))
        done = count(counts.get("completed")) + count(counts.get("failed"))
        total = count(counts.get("total"))
        cancelled = status in ("cancelling", "cancelled")
        if status not in ("validating", "failed"):
            self._uploaded.pop(self._validating.pop(job, ""), None)
        if status in (*WORKING, *ENDED):
            return Progress(
                "working" if status in WORKING else "ended",
                done,
                total,
                status=status,
                cancelled=cancelled,
                created=self.born(said.document),
                feedback=said.feedback,
            )
        if status != "failed":
            error = f"the job has a state that is not known here: {status[:40]}"
            return Again("unknown", error, feedback=said.feedback)
        errors = objects(an_object(said.document.get("errors")).get("data")) or [{}]
        found = Progress(
            "failed",
            named=any(count(error.get("line")) for error in errors),
            queue_full=any(error.get("code") in LATER_ON for error in errors),
            status=self._excerpt(errors[0].get("code") or "failed"),
            error=self._excerpt(errors[0].get("message") or "the job has failed"),
            feedback=said.feedback,
        )
        name = self._validating.pop(job, "")
        if not found.queue_full:
            self._uploaded.pop(name, None)
            if not found.named:  # otherwise it says which records those lines are
                await self.ask("DELETE", f"/files/{said.text(('input_file_id',))}")
        return found

    async def results(self, job: str) -> AsyncIterator[JobResult]:
        """See ports.JobSink. Of a job that has failed, the lines that its errors name."""
        said = await self.ask("GET", f"/batches/{job}")
        if not isinstance(said, Said):
            raise BrokenResultsError(f"the job cannot be looked at: {said.error}")
        if said.text(("status",)) == "failed":
            async for named in self._named(said):
                yield named
            return
        for kind in ("output_file_id", "error_file_id"):
            if file := said.text((kind,)):
                async for line in self.lines(f"/files/{file}/content"):
                    yield self._result(line)

    def _named_in(self, said: Said) -> tuple[int, ...]:
        """The line that the error names, as those of a failed job do."""
        line = (said.document.get("error") or {}).get("line")
        return (line - 1,) if isinstance(line, int) and line > 0 else ()

    async def _named(self, said: Said) -> AsyncIterator[JobResult]:
        errors = {
            count(error.get("line")): error
            for error in objects(an_object(said.document.get("errors")).get("data"))
        }
        number = 0
        async for line in self.lines(f"/files/{said.text(('input_file_id',))}/content"):
            number += 1
            if (error := errors.get(number)) is not None:
                text = self._excerpt(error.get("message") or "")
                verdict = Verdict(Fate.REJECTED, self._excerpt(error.get("code") or "failed"), text)
                yield JobResult(self.ids.where(read_line(request_line, line).custom_id), verdict)

    def _result(self, line: bytes) -> JobResult:
        found = read_line(result_line, line)
        where = self.ids.where(found.custom_id)
        response = found.response
        if response is None:
            error = found.error or LineError()
            code, text = self._excerpt(error.code or "failed"), self._excerpt(error.message or "")
            return JobResult(where, Verdict(Fate.RETRY, code, text))
        if not 200 <= response.status_code < 300:
            verdict = verdict_of(response.status_code, self._excerpt(message_of(response.body)))
            return JobResult(where, verdict)
        model, taken, given = counted(response.body)
        return JobResult(where, DELIVERED, bytes(response.body), model, taken, given)

    def _excerpt(self, text: Any) -> str:
        return excerpt(text, self._credentials.scrub)


def _file_name(name: str) -> str:
    return f"sluiced-{name}.jsonl"

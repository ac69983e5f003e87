"""Jobs in a directory, for workers that come by: a job is a directory by the job's name, and in it

    requests.jsonl  {"custom_id": "…", "body": <the record>}, a line for each record
    results.jsonl   {"custom_id": "…", "response": <any JSON>} or {"custom_id": "…", "error": "…"}
    done            how many results there are; the worker moves it there when they are all written
    cancelled       made here: what is not done by now is not wanted

Results come in any order; what has none goes into a next job. Names that begin with a dot are not
for workers. A job is cleared away by whoever likes to, once `sluiced jobs list` is without it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec

from sluiced.batch import Batch
from sluiced.errors import Problem, SluicedError
from sluiced.outcome import DELIVERED, Again, Fate, TooLarge, Verdict
from sluiced.ports import BrokenResultsError, JobResult, Progress, Submitted
from sluiced.record import Record
from sluiced.sinks.job_settings import JobSettings
from sluiced.sinks.job_sink import ConfiguredJobSink
from sluiced.sinks.settings import Line

T = TypeVar("T")


class SpoolSettings(JobSettings, frozen=True, tag_field="type", tag="spool"):
    """[sink] type = "spool". `poll`, `max_jobs` and `on_cancel` are there for every sink of jobs.

    `directory` is one within what is mounted: an empty mount point would look like no jobs.
    """

    directory: str

    @property
    def summary(self) -> str:
        return f"jobs in {self.directory}"

    def build(self, line: Line) -> Spool:
        return Spool(self, line)

    def problems(self, line: Line) -> Iterator[Problem]:
        yield from super().problems(line)
        if line.record.format != "json":
            text = 'a request is a line of JSON; write "json"'
            yield Problem("record.format", text, value=line.record.format)


class Result(msgspec.Struct):
    """A line of results.jsonl."""

    custom_id: str
    response: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None


class Spool(ConfiguredJobSink):
    """See `JobSink` in sluiced.ports."""

    settings: SpoolSettings

    def __init__(self, settings: SpoolSettings, line: Line) -> None:
        super().__init__(settings, line)
        self._spool = Path(settings.directory)

    def successor(self, settings: SpoolSettings) -> Spool:
        return Spool(settings, self.line)

    def objection(self, record: Record) -> str | None:
        return "a tombstone is no request" if record.value is None else None

    async def probe(self) -> None:
        """For `sluiced check --connect`."""
        found = await self._tried(lambda: os.access(self._spool, os.W_OK | os.X_OK))
        if found is not True:
            raise SluicedError(
                f"sink.directory = {self._spool} cannot be written to",
                "Create it, or let the daemon's user write there.",
            )

    def preview(self, batch: Batch) -> Iterator[str]:
        """For `sluiced preview`."""
        yield from (line.decode().rstrip() for line in self._requests(batch))

    async def submit(self, batch: Batch, name: str) -> Submitted | Again | TooLarge:
        """The job's id is its name."""
        if len(batch) > self.settings.max_records:
            return TooLarge(error="more records than sink.max_records", sent=False)
        if sum(map(len, self._requests(batch))) > self.settings.max_bytes:
            return TooLarge(error="more bytes than sink.max_bytes", sent=False)
        return await self._tried(lambda: self._submit(batch, name))

    async def find(
        self, batch: Batch, name: str, known: Collection[str], *, whole: bool = True
    ) -> Submitted | Again | None:
        return await self._tried(lambda: self._find(name, known))

    async def poll(self, job: str) -> Progress | Again:
        return await self._tried(lambda: self._poll(self._spool / job))

    async def results(self, job: str) -> AsyncIterator[JobResult]:
        path, told = anyio.Path(self._spool / job), 0
        try:
            async with await (path / "results.jsonl").open("rb") as file:
                async for line in file:
                    yield self._result(msgspec.json.decode(line, type=Result))
                    told += 1
            if told < int(await (path / "done").read_text()):
                raise BrokenResultsError(f"the results of {job} end too early")
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise BrokenResultsError(f"the results of {job} cannot be read: {error}") from None

    async def cancel(self, job: str) -> Again | None:
        return await self._tried(lambda: self._cancel(self._spool / job))

    def _requests(self, batch: Batch) -> Iterator[bytes]:
        for record in batch.records:
            body = (record.value or b"null").replace(b"\n", b" ")  # JSON: in no string is a newline
            yield b'{"custom_id":"%b","body":%b}\n' % (self.ids.of(record).encode(), body)

    def _submit(self, batch: Batch, name: str) -> Submitted:
        """A job appears whole and once: of all who rename to its name, one succeeds."""
        job, half = self._spool / name, self._spool / f".{name}~{os.urandom(8).hex()}"
        half.mkdir()
        with (half / "requests.jsonl").open("xb") as file:
            file.writelines(self._requests(batch))
            file.flush()
            os.fsync(file.fileno())
        try:
            half.rename(job)
        except OSError:
            shutil.rmtree(half, ignore_errors=True)
            if not job.exists():
                raise
        _on_disk(self._spool)
        return Submitted(name)

    def _find(self, name: str, known: Collection[str]) -> Submitted | None:
        """Halves go first: whoever was held up over one makes no job of it any more."""
        for other in self._spool.iterdir():
            if other.name.startswith(f".{name}~"):
                shutil.rmtree(other)
        return Submitted(name) if name not in known and (self._spool / name).exists() else None

    def _poll(self, job: Path) -> Progress:
        if job not in self._spool.iterdir():  # which fails where there is no spool either
            return Progress("missing", error=f"there is no {job}")
        return Progress(
            "ended" if (job / "done").exists() else "working",
            cancelled=(job / "cancelled").exists(),
            created=(job / "requests.jsonl").stat().st_mtime,
        )

    def _cancel(self, job: Path) -> None:
        if not (job / "done").exists():
            (job / "cancelled").touch()

    def _result(self, found: Result) -> JobResult:
        where = self.ids.where(found.custom_id)
        if found.error is not None:
            return JobResult(where, Verdict(Fate.REJECTED, "error", found.error))
        return JobResult(where, DELIVERED, bytes(found.response))

    async def _tried(self, work: Callable[[], T]) -> T | Again:
        """In a thread, since a shared directory may hang. What goes wrong is about no record."""
        started, status = time.monotonic(), "error"
        try:
            with anyio.fail_after(self.settings.timeout):
                found = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
            status = "ok"
        except TimeoutError:
            status = "timeout"
            return Again("timeout", f"nothing from {self._spool} in {self.settings.timeout}")
        except OSError as error:
            return Again("connection", f"{self._spool}: {error.strerror}", outage=True)
        else:
            return found
        finally:
            self.line.requests(status, time.monotonic() - started)


def _on_disk(directory: Path) -> None:
    """What was renamed in it outlives a power failure."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

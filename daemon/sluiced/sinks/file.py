"""One file for each batch, in a directory: for people with no API at hand, and for archives."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from ..batch import Batch
from ..errors import Problem, SluicedError
from ..outcome import DELIVERED, Again, Answered, Outcome, TooLarge
from ..ports import Identifies
from ..record import Record
from .body import BodyEncoder
from .encoding import Compression, compress
from .http_settings import BodySettings
from .settings import Line, SinkSettings

# Threads that may hang over one file: each holds what it writes.
MOST_BEGUN = 2

_SUFFIX = {"none": "", "gzip": ".gz", "zstd": ".zst"}


class FileSettings(SinkSettings, frozen=True, tag_field="type", tag="file"):
    """[sink] type = "file": NDJSON, one file a batch, named by the batch's id.

    A batch that is written again makes the same file, which takes the place of the first.
    """

    directory: str
    item: str = "$value"
    compression: Compression = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.directory:
            raise ValueError("directory must not be empty")
        self.body()

    def body(self) -> BodySettings:
        """The same template as in an HTTP request's body, a line for each record."""
        return BodySettings(item=self.item, separator="\n", envelope="$items\n")

    @property
    def identified_by(self) -> Identifies:
        return "batch"

    @property
    def summary(self) -> str:
        return f"files in {self.directory}"

    def build(self, line: Line) -> FileSink:
        return FileSink(self, line)

    def problems(self, line: Line) -> Iterator[Problem]:
        if not Path(self.directory).is_absolute():
            yield Problem(
                "sink.directory",
                "taken from wherever the daemon is started; write it from the root on",
                "warning",
                f'"{self.directory}"',
            )


class FileSink:
    """Writes beside the file's place first, so that whoever reads never finds half a file."""

    def __init__(self, settings: FileSettings, line: Line) -> None:
        self._settings = settings
        self._line = line
        self._body = BodyEncoder(settings.body(), line.identify, line.record.format)
        self._directory = Path(settings.directory)
        self._begun: list[Path] = []  # by threads that have not come to an end

    def successor(self, settings: FileSettings) -> FileSink:
        return FileSink(settings, self._line)

    @property
    def identifies(self) -> Identifies:
        return self._settings.identified_by

    @property
    def objections_needed(self) -> bool:
        return bool(self._body.objections)

    def objection(self, record: Record) -> str | None:
        return next((text for ask in self._body.objections if (text := ask(record))), None)

    async def open(self) -> None:
        """There is nothing to make ready: the directory may come and go, as a mounted one does."""

    async def close(self) -> None:
        pass

    async def probe(self) -> None:
        """Writes an empty file and takes it away again."""
        try:
            await anyio.to_thread.run_sync(self._probe)
        except OSError as error:
            raise SluicedError(
                f"cannot write files to sink.directory {self._directory}: {error.strerror}",
                "Create it, let the daemon's user write there, or name another one. Under the "
                "unit's protection it must be in ReadWritePaths= too.",
            ) from None

    def _probe(self) -> None:
        path = self._directory / f".probe-{os.getpid()}.tmp"
        path.touch()
        path.unlink()

    def preview(self, batch: Batch) -> Iterator[str]:
        yield f"{self._path(batch)}:"
        yield from self._body.encode(batch).decode(errors="backslashreplace").splitlines()

    def _path(self, batch: Batch) -> Path:
        return self._directory / f"{batch.id}.ndjson{_SUFFIX[self._settings.compression]}"

    async def send(self, batch: Batch) -> Outcome:
        """Writes the file. What hinders it is never the records: it is tried for ever."""
        settings = self._settings
        if len(batch) > settings.max_records:
            error = f"{len(batch)} records, and sink.max_records is {settings.max_records}"
            return TooLarge(error=error, sent=False)
        body = self._body.encode(batch)
        if len(body) > settings.max_bytes:
            error = f"the file has {len(body)} bytes, and sink.max_bytes is {settings.max_bytes}"
            return TooLarge(error=error, sent=False)
        path = self._path(batch)
        if self._begun.count(path) >= MOST_BEGUN:
            return Again("timeout", f"what was written to {self._directory} before still hangs")
        outcome, status, seconds = await self._written(partial(self._write, path, body))
        self._line.requests(status, seconds)
        return outcome or Answered([DELIVERED] * len(batch))

    async def _written(self, write: Callable[[], None]) -> tuple[Outcome | None, str, float]:
        """What hindered it if anything did, for the metrics a word for it, and the seconds."""
        started = time.monotonic()
        outcome, status = None, "ok"
        try:
            with anyio.fail_after(self._settings.timeout):
                # A disk that hangs holds the thread. Should it come to an end later after all,
                # what it has written is the same as what is written again meanwhile.
                await anyio.to_thread.run_sync(write, abandon_on_cancel=True)
        except TimeoutError:
            error = f"nothing written to {self._directory} within {self._settings.timeout}"
            outcome, status = Again("timeout", error), "timeout"
        except OSError as trouble:
            error = f"cannot write to {self._directory}: {trouble.strerror}"
            outcome, status = Again("connection", error, outage=True), "error"
        return outcome, status, time.monotonic() - started

    def _write(self, path: Path, body: bytes) -> None:
        """On disk when it returns, under its name. Two threads may write the same file."""
        self._begun.append(path)
        try:
            self._put(path, body)
        finally:
            self._begun.remove(path)

    def _put(self, path: Path, body: bytes) -> None:
        body = compress(body, self._settings.compression)
        beside = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
        try:
            with beside.open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

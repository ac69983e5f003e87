"""Batches into a table of SQLite: one transaction each, and a row for each record's id."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import anyio.to_thread

from sluiced.batch import Batch
from sluiced.errors import SluicedError
from sluiced.outcome import DELIVERED, Again, Answered, Outcome, Refused, TooLarge
from sluiced.ports import Identifies
from sluiced.record import Record
from sluiced.sinks.settings import Line, SinkSettings
from sluiced.transform import Output, Reject

TABLE = "CREATE TABLE IF NOT EXISTS pages (id TEXT PRIMARY KEY, page TEXT CHECK (json_valid(page)))"
UPSERT = "INSERT INTO pages VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET page = excluded.page"


class SqliteSettings(SinkSettings, frozen=True, tag_field="type", tag="sqlite"):
    """[sink] type = "sqlite". `timeout`, `max_records` and `max_bytes` are there for every sink."""

    file: str

    @property
    def identified_by(self) -> Identifies:
        return "item"  # a row that comes again takes the place of the first

    @property
    def summary(self) -> str:
        return f"table pages of {self.file}"

    def build(self, line: Line) -> SqliteSink:
        return SqliteSink(self, line)


class SqliteSink:
    """See `Sink` in sluiced.ports and `ConfiguredSink` in sluiced.sinks.settings."""

    objections_needed = True

    def __init__(self, settings: SqliteSettings, line: Line) -> None:
        self._settings = settings
        self._line = line

    def successor(self, settings: SqliteSettings) -> SqliteSink:
        return SqliteSink(settings, self._line)

    @property
    def identifies(self) -> Identifies:
        return self._settings.identified_by

    def objection(self, record: Record) -> str | None:
        """Asked of every record before it is buffered: one that can never be a row is no use."""
        try:
            self._row(record)
        except ValueError as error:
            return f"cannot be a row: {error}"
        return None

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def probe(self) -> None:
        """For `sluiced check --connect`."""
        try:
            await anyio.to_thread.run_sync(self._probe)
        except sqlite3.Error as error:
            raise SluicedError(f"sink.file cannot be used: {error}", "Name another file.") from None

    def preview(self, batch: Batch) -> Iterator[str]:
        """For `sluiced preview`."""
        yield f"{self._settings.file}: {UPSERT}"
        yield from (f"  {row}" for row in map(self._row, batch.records))

    async def send(self, batch: Batch) -> Outcome:
        """Never raises: whatever happens is an Outcome."""
        if len(batch) > self._settings.max_records:
            return TooLarge(error="more records than sink.max_records", sent=False)
        if batch.size > self._settings.max_bytes:
            return TooLarge(error="more bytes than sink.max_bytes", sent=False)
        started, status = time.monotonic(), "error"
        try:
            with anyio.fail_after(self._settings.timeout):
                rows = [self._row(record) for record in batch.records]
                await anyio.to_thread.run_sync(self._write, rows, abandon_on_cancel=True)
            status = "ok"
        except TimeoutError:
            status = "timeout"
            return Again("timeout", f"nothing was written within {self._settings.timeout}")
        except sqlite3.IntegrityError as error:
            return Refused("constraint", str(error))  # the daemon finds out which record it was
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                status = "timeout"
                return Again("timeout", f"somebody else writes: {error}")
            return Again("connection", str(error), outage=True)
        finally:
            self._line.requests(status, time.monotonic() - started)
        return Answered([DELIVERED] * len(batch))

    def _row(self, record: Record) -> tuple[str, str | None]:
        return self._line.identify(record), None if record.value is None else record.value.decode()

    def _connect(self) -> sqlite3.Connection:
        uri = f"{Path(self._settings.file).absolute().as_uri()}?mode=rw"  # never makes the file
        # SQLite is to give up before we do: what we gave up it could still write.
        return sqlite3.connect(uri, uri=True, timeout=0.9 * self._settings.timeout)

    def _probe(self) -> None:
        with closing(self._connect()) as connection:
            connection.execute("SELECT 1 FROM sqlite_master")

    def _write(self, rows: Sequence[tuple[str, str | None]]) -> None:
        with closing(self._connect()) as connection, connection:  # commits, or rolls back
            connection.execute(TABLE)
            connection.executemany(UPSERT, rows)


def without_drafts(records: Sequence[Record]) -> list[Output]:
    """`[record] transform = "sluiced_sqlite:without_drafts"`: called once for a run of records."""
    return [_published(record.value or b"") for record in records]


def _published(value: bytes) -> Output:
    if b'"draft":true' in value:
        return None  # left out
    if b'"title"' not in value:
        return Reject("a page needs a title")  # a dead letter
    return value.replace(b'"internal":true,', b"")

"""The sink of type "postgres": see the package's text."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncpg
import structlog

from ...batch import Batch
from ...errors import PositionsError, SluicedError
from ...outcome import DELIVERED, Again, Answered, Outcome, Refused, TooLarge
from ...ports import Identifies, Mark
from ...record import Record, TopicPartition
from ..settings import Line
from . import checkpoint
from .answers import TROUBLE, UndoError, outcome_of, outdated, reason
from .checkpoint import Checkpoint, FencedError
from .columns import CATALOGUE, Cell, Rows, quoted, types_of
from .connections import Connections
from .pointers import UnfitError
from .probe import probe
from .progress import Progress
from .settings import PostgresSettings

log = structlog.get_logger("sluiced.postgres")

# Every transaction ends, also that of a client which was frozen in the middle: until then the rows
# of the checkpoint are locked for whoever comes next. The isolation is that of these locks.
_BEGIN = """\
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL statement_timeout = {ms};
SET LOCAL idle_in_transaction_session_timeout = {ms}"""

_LONGEST_MS = 2**31 - 1  # that the database takes for a timeout

# The status of an encoding that the database would refuse.
_UNFIT = "22021"

_TABLE = """\
SELECT c.oid, nspname::text AS schema FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace WHERE c.oid = $1::text::regclass"""
_EXISTS = "SELECT to_regclass($1::text) IS NOT NULL"

Epochs = Mapping[TopicPartition, int]


class _TooLargeError(UndoError):
    """More than `max_bytes`."""


class PostgresSink:
    """One transaction for each batch. Implements ports.Sink and ports.Positions."""

    identifies: Identifies = "transaction"
    objections_needed = False

    def __init__(
        self, settings: PostgresSettings, line: Line, kept: Checkpoint | None = None
    ) -> None:
        self._settings = settings
        self._line = line
        self._checkpoint = kept or Checkpoint(line.name, line.group)
        self._connections = Connections(settings.dsn, settings.timeout)
        ms = min(max(1, int(settings.timeout * 1000)), _LONGEST_MS)
        self._begin = _BEGIN.format(ms=ms)
        self._rows: Rows | None = None  # known once a connection has been there
        self._table = ""  # of the checkpoint, likewise

    def successor(self, settings: PostgresSettings) -> PostgresSink:
        """Another one by other settings, not open yet, which holds what this one has claimed."""
        return PostgresSink(settings, self._line, self._checkpoint)

    def objection(self, record: Record) -> str | None:
        """None: the database judges."""
        return None

    async def open(self) -> None:
        """Makes ready to send; connects nothing yet. Raises ConfigError for a missing secret."""
        self._connections.reveal()

    async def close(self) -> None:
        await self._connections.close()

    async def probe(self) -> None:
        """See `probe`. Raises SluicedError."""
        self._connections.reveal()
        try:
            with anyio.fail_after(self._settings.timeout):
                async with self._connections.one() as connection:
                    await probe(connection, self._settings)
        except TROUBLE as error:
            raise self._unreached(error) from None
        finally:
            await self._connections.close()

    def _unreached(self, error: Exception) -> SluicedError:
        return SluicedError(
            f"cannot use the database at {self._connections.where}: {reason(error)}",
            "Check sink.dsn, and that the database runs and can be reached from this machine.",
        )

    def preview(self, batch: Batch) -> Iterable[str]:
        """What would be written, as a statement. Of columns that the database would be asked
        about, each text stands as a text."""
        rows = self._rows or Rows(self._settings, self._line.identify, {})
        try:
            yield from rows.preview(batch.records)
        except UnfitError as error:
            yield f"cannot be written: {error}"

    # --- batches ------------------------------------------------------------------------------

    async def send(self, batch: Batch) -> Outcome:
        """One transaction. Only SluicedError is raised, where nothing but a fresh start helps."""
        if len(batch) > self._settings.max_records:
            error = f"{len(batch)} records, and sink.max_records is {self._settings.max_records}"
            return TooLarge(error=error, sent=False)
        started = time.monotonic()
        outcome = await self._outcome(batch)
        if not isinstance(outcome, TooLarge):
            self._line.requests(_status(outcome), time.monotonic() - started)
        return outcome

    async def _outcome(self, batch: Batch) -> Outcome:
        try:
            with anyio.fail_after(self._settings.timeout):
                return await self._write(batch)
        except _TooLargeError as error:
            return TooLarge(error=str(error), sent=False)
        except UnfitError as error:
            return Refused(_UNFIT, str(error))
        except FencedError as error:
            return Again("status", str(error), "fenced")
        except TROUBLE as error:
            if outdated(error):
                self._rows = None  # its columns may be others by now
            return outcome_of(error, self._connections.where)

    async def _write(self, batch: Batch) -> Outcome:
        async with self._connections.one() as connection:
            rows = await self._known_rows(connection)
            if not self._checkpoint.claimed:
                columns = rows.columns(batch.records)
                self._check_size(columns)
                await connection.execute(rows.statement, *columns)
                return _delivered(batch)
            epochs = {span.tp: span.epoch for span in batch.covers}
            async with self._transaction(connection, epochs) as progress:
                if records := _undone(batch, progress):
                    columns = rows.columns(records)
                    self._check_size(columns)
                    await connection.execute(rows.statement, *columns)
                for tp, _, ranges in batch.covers:
                    progress[tp] = progress[tp].with_done(ranges)
            return _delivered(batch)

    @asynccontextmanager
    async def _transaction(
        self, connection: Any, epochs: Epochs
    ) -> AsyncIterator[dict[TopicPartition, Progress]]:
        """How far the partitions are. It is saved as it stands at the end of the block, and with it
        whatever was written inside, or none of both."""
        await connection.execute(self._begin)
        progress = await self._checkpoint.lock(connection, self._table, epochs)
        yield progress
        await self._checkpoint.save(connection, self._table, progress)
        if await connection.execute("COMMIT") != "COMMIT":
            raise asyncpg.InterfaceError("the database has rolled back")
        self._checkpoint.acknowledged(epochs, progress)

    async def _known_rows(self, connection: Any) -> Rows:
        """Looks the table up in the catalogue, unless it is known."""
        if self._rows is None:
            table = ".".join(map(quoted, self._settings.table.split(".")))
            found = await connection.fetchrow(_TABLE, table)
            types = types_of(await connection.fetch(CATALOGUE, found["oid"]))
            self._rows = Rows(self._settings, self._line.identify, types)
            self._table = checkpoint.qualified(found["schema"])
        return self._rows

    def _check_size(self, columns: Sequence[Sequence[Cell]]) -> None:
        size = sum(map(_size, columns))
        if size > (cap := self._settings.max_bytes):
            raise _TooLargeError(f"the rows have {size} bytes, and sink.max_bytes is {cap}")

    # --- the checkpoint -----------------------------------------------------------------------

    async def claim(
        self, epoch: int, starts: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, int]:
        """See ports.Positions."""
        try:
            with anyio.fail_after(self._settings.timeout):
                async with self._connections.one() as connection:
                    await self._known_rows(connection)
                    await self._create(connection)
                    return await self._checkpoint.claim(connection, self._table, epoch, starts)
        except TROUBLE as error:
            self._rows = None
            unreached = self._unreached(error)
            raise PositionsError(unreached.message, unreached.hint) from None

    async def _create(self, connection: Any) -> None:
        if await connection.fetchval(_EXISTS, self._table):
            return
        statement = checkpoint.CREATE.format(table=self._table)
        try:
            await connection.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            raise PositionsError(
                f"the table {self._table} is missing, and the user may not create it",
                f"Create it, and grant SELECT, INSERT and UPDATE on it:\n{statement};",
            ) from None
        log.info("checkpoint_table_created", table=self._table)

    async def advance(self, marks: Mapping[TopicPartition, Mark]) -> bool:
        """See ports.Positions. Most often the table knows already."""
        try:
            if not (news := self._checkpoint.behind(marks)):
                return True
            epochs = {tp: marks[tp].epoch for tp in news}
            with anyio.fail_after(self._settings.timeout):
                async with (
                    self._connections.one() as connection,
                    self._transaction(connection, epochs) as progress,
                ):
                    for tp, position in news.items():
                        progress[tp] = progress[tp].advanced(position)
        except TROUBLE as error:
            log.warning("checkpoint_not_written", error=reason(error))
            return False
        except (FencedError, SluicedError) as error:
            log.warning("checkpoint_not_written", error=str(error))
            return False
        return True


def _delivered(batch: Batch) -> Answered:
    """A row that a newer one of the same batch has replaced is delivered, too."""
    return Answered([DELIVERED] * len(batch))


def _undone(batch: Batch, progress: Mapping[TopicPartition, Progress]) -> Sequence[Record]:
    """What a former attempt has not written, whose answer may have been lost."""
    if not any(_touched(progress[tp], ranges) for tp, _, ranges in batch.spans):
        return batch.records
    return [
        r
        for r in batch.records
        if not progress[TopicPartition(r.topic, r.partition)].holds(r.offset)
    ]


def _touched(progress: Progress, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether anything is done at or above the first of these offsets."""
    first = ranges[0][0]
    return progress.position > first or bool(progress.done and progress.done[-1][1] >= first)


def _size(cells: Sequence[Cell]) -> int:
    """Bytes, or characters where they are texts: a cap need not be that exact."""
    return sum(map(len, filter(None, cells)))


def _status(outcome: Outcome) -> str:
    """As the metrics have it: they count by the statuses of HTTP."""
    if isinstance(outcome, Answered):
        return "200"
    return "timeout" if isinstance(outcome, Again) and outcome.reason == "timeout" else "error"

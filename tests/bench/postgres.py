"""The PostgreSQL sink beside asyncpg's own ways to write the same rows."""

from __future__ import annotations

import asyncio
import io
import resource
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

import msgspec

from databases.postgres import Postgres
from fakes import P0, FakeRecord
from sluiced.batch import Batch, Run
from sluiced.outcome import Answered
from sluiced.sinks.postgres.columns import Rows, Type
from sluiced.sinks.postgres.settings import PostgresSettings
from sluiced.sinks.settings import Line
from sluiced.units import Duration

ROWS = 100_000
BATCH = 1000
NAMES = ("slug", "n", "price", "at", "doc")
COLUMNS = {"slug": "/slug", "n": "/n", "price": "/price", "at": "/at", "doc": "$value"}
TABLE = "(slug text, n integer, price float, at timestamptz, doc jsonb)"
_LIST = ", ".join(NAMES)
_INSERT = f"INSERT INTO pages ({_LIST}) VALUES ($1, $2, $3, $4, $5)"
_UPDATE = " ON CONFLICT (slug) DO UPDATE SET " + ", ".join(
    f"{name} = EXCLUDED.{name}" for name in NAMES[1:]
)
_STAGE = "CREATE TEMPORARY TABLE IF NOT EXISTS stage (LIKE pages) ON COMMIT DELETE ROWS"
_FROM_STAGE = f"INSERT INTO pages SELECT * FROM stage{_UPDATE}"
_ESCAPES = ((b"\\", b"\\\\"), (b"\t", b"\\t"), (b"\n", b"\\n"), (b"\r", b"\\r"))

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class Speed:
    """Rows a second, and the client's CPU in microseconds a row: medians of all rounds."""

    name: str
    rate: float
    cpu: float


Write = Callable[[Any, Sequence[FakeRecord]], Awaitable[None]]


def page(n: int) -> bytes:
    """A page of 250 bytes, with quotes in it as texts have them."""
    head = b'{"slug":"page-%d","n":%d,"price":%d.25,"at":"2026-02-03T04:05:06Z","text":"\\"' % (
        *(n, n, n % 100),
    )
    return head + b"x" * (248 - len(head)) + b'"}'


def compare(upsert: bool, rounds: int) -> list[Speed]:
    """All of them in turn on a server of their own: one round that does not count, then `rounds`.

    With `upsert` the table has a unique index, and all rows are new."""
    with Postgres() as server:
        return asyncio.run(_compare(server, upsert, rounds))


async def _compare(server: Postgres, upsert: bool, rounds: int) -> list[Speed]:
    found: dict[str, list[tuple[float, float]]] = {}
    for turn in range(rounds + 1):
        for name, write in _contestants(upsert):
            seconds, cpu = await _measure(server, upsert, write)
            if turn:
                found.setdefault(name, []).append((ROWS / seconds, cpu * 1e6 / ROWS))
    return [
        Speed(name, median(r for r, _ in runs), median(c for _, c in runs))
        for name, runs in found.items()
    ]


def _contestants(upsert: bool) -> Iterator[tuple[str, Write | None]]:
    yield "asyncpg, executemany", _executemany_upsert if upsert else _executemany
    yield "asyncpg, COPY of Python's values", _copy_upsert if upsert else _copy
    yield "COPY of texts", _copy_texts_upsert if upsert else _copy_texts
    yield "sluiced's statement alone", _arrays_upsert if upsert else _arrays
    yield "sluiced", None


async def _measure(server: Postgres, upsert: bool, write: Write | None) -> tuple[float, float]:
    schema = await server.create_schema()
    connection = await server.connect(schema)
    await connection.execute(f"CREATE TABLE pages {TABLE}")
    if upsert:
        await connection.execute("CREATE UNIQUE INDEX ON pages (slug)")
    batches = [
        [FakeRecord(offset=n, value=page(n)) for n in range(start, start + BATCH)]
        for start in range(0, ROWS, BATCH)
    ]
    run = _by_sink if write is None else _by_hand
    started, cpu = time.monotonic(), _cpu()
    await run(server.dsn(schema), connection, upsert, batches, write)
    seconds, cpu = time.monotonic() - started, _cpu() - cpu
    assert await connection.fetchval("SELECT count(*) FROM pages WHERE n >= 0") == ROWS
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    await connection.close()
    return seconds, cpu


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _by_hand(
    _: str, connection: Any, __: bool, batches: Sequence[Any], write: Write | None
) -> None:
    """A transaction for each batch, and nothing else: no checkpoint, no errors."""
    assert write is not None
    for records in batches:
        async with connection.transaction():
            await write(connection, records)


def _settings(upsert: bool, dsn: str = "postgresql:///") -> PostgresSettings:
    return PostgresSettings(
        dsn=dsn,
        table="pages",
        columns=COLUMNS,
        mode="upsert" if upsert else "insert",
        conflict=("slug",) if upsert else (),
        timeout=Duration(30),
    )


async def _by_sink(dsn: str, _: Any, upsert: bool, batches: Sequence[Any], __: Any) -> None:
    sink: Any = _settings(upsert, dsn).build(Line("pages", group="bench"))
    await sink.open()
    await sink.claim(1, {P0: 0})
    for records in batches:
        outcome = await sink.send(Batch.of("pages", [Run(P0, 1, records)], "records"))
        assert isinstance(outcome, Answered), outcome
    await sink.close()


def _values(records: Sequence[FakeRecord]) -> list[tuple[Any, ...]]:
    rows = []
    for record in records:
        value = record.value or b""
        page = _decode(value)
        at = datetime.fromisoformat(page["at"])
        rows.append((page["slug"], page["n"], page["price"], at, value.decode()))
    return rows


def _texts(records: Sequence[FakeRecord]) -> io.BytesIO:
    """PostgreSQL's own text format."""
    lines = []
    for record in records:
        value = record.value or b""
        page = _decode(value)
        for char, escape in _ESCAPES:
            value = value.replace(char, escape)
        cells = [str(page[name]).encode() for name in NAMES[:4]]
        lines.append(b"\t".join([*cells, value]))
    return io.BytesIO(b"\n".join(lines) + b"\n")


async def _executemany(connection: Any, records: Sequence[FakeRecord]) -> None:
    await connection.executemany(_INSERT, _values(records))


async def _executemany_upsert(connection: Any, records: Sequence[FakeRecord]) -> None:
    await connection.executemany(_INSERT + _UPDATE, _values(records))


async def _copy(connection: Any, records: Sequence[FakeRecord]) -> None:
    await connection.copy_records_to_table("pages", records=_values(records), columns=NAMES)


async def _copy_upsert(connection: Any, records: Sequence[FakeRecord]) -> None:
    await connection.execute(_STAGE)
    await connection.copy_records_to_table("stage", records=_values(records), columns=NAMES)
    await connection.execute(_FROM_STAGE)


async def _copy_texts(connection: Any, records: Sequence[FakeRecord]) -> None:
    source = _texts(records)
    await connection.copy_to_table("pages", source=source, columns=NAMES, format="text")


async def _copy_texts_upsert(connection: Any, records: Sequence[FakeRecord]) -> None:
    await connection.execute(_STAGE)
    source = _texts(records)
    await connection.copy_to_table("stage", source=source, columns=NAMES, format="text")
    await connection.execute(_FROM_STAGE)


_TYPES = {
    "n": Type("integer"),
    "price": Type("float8"),
    "at": Type("timestamptz"),
    "doc": Type("jsonb"),
}
_ROWS = {upsert: Rows(_settings(upsert), str, _TYPES) for upsert in (False, True)}


async def _arrays(connection: Any, records: Sequence[FakeRecord]) -> None:
    await connection.execute(_ROWS[False].statement, *_ROWS[False].columns(records))


async def _arrays_upsert(connection: Any, records: Sequence[FakeRecord]) -> None:
    await connection.execute(_ROWS[True].statement, *_ROWS[True].columns(records))

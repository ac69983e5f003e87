"""Records as columns of texts, which the database itself turns into its types.

All columns go as arrays of texts, and the statement casts them to what the catalogue says: so the
database judges a value exactly as it would a literal, and its answer carries its own status.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...identity import Identify
from ...record import Record
from ..template import HEADER
from .pointers import Pointers, UnfitError
from .settings import PostgresSettings

Cell: TypeAlias = str | bytes | None
# Makes the cells of a column of records, and of what the pointers have found in their values.
Column: TypeAlias = Callable[[Sequence[Record], Sequence[Any]], Sequence[Cell]]

_TIMES = ("timestamp with time zone", "timestamp without time zone", "date")
_JSON = ("json", "jsonb")
_BYTES = "bytea"

# The types of a table's columns without their length, which an assignment checks and a cast would
# cut to; of a domain, those beneath it.
CATALOGUE = """
WITH RECURSIVE bare AS (
    SELECT attname, atttypid AS type FROM pg_catalog.pg_attribute
    WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT attname, typbasetype FROM bare JOIN pg_catalog.pg_type t ON t.oid = type
    WHERE typtype = 'd'
)
SELECT attname::text AS name, pg_catalog.format_type(type, -1) AS type, typcategory = 'A' AS array
FROM bare JOIN pg_catalog.pg_type t ON t.oid = type WHERE typtype <> 'd'
"""


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a column as the catalogue has it."""

    name: str
    array: bool = False


def quoted(name: str) -> str:
    """A name as it stands in a statement: exactly what it says, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


class Rows:
    """Makes rows of records, for columns of these types."""

    def __init__(
        self, settings: PostgresSettings, identify: Identify, types: Mapping[str, Type]
    ) -> None:
        sources = settings.columns
        self._names = list(sources)
        self._pointers = Pointers([each for each in sources.values() if each.startswith("/")])
        self._columns = [
            self._column(name, source, types.get(name, Type("text")), identify)
            for name, source in sources.items()
        ]
        self._conflict = [self._names.index(name) for name in settings.conflict]
        self._tail = _on_conflict(settings)
        self._table = ".".join(map(quoted, settings.table.split(".")))
        self._types = [types.get(name, Type("text")) for name in self._names]
        self._sources = list(sources.values())

    @property
    def statement(self) -> str:
        """INSERT of all rows at once, with one array for each column."""
        names = [quoted(name) for name in self._names]
        kinds = zip(self._types, self._sources, strict=True)
        arrays = [
            f"${n}::{_BYTES if _is_binary(kind, source) else 'text'}[]"
            for n, (kind, source) in enumerate(kinds, 1)
        ]
        cells = [f"c{n}" for n in range(1, len(names) + 1)]
        values = map(_cast, cells, self._types, self._sources)
        return (
            f"INSERT INTO {self._table} ({', '.join(names)}) SELECT {', '.join(values)} "  # noqa: S608 - names are quoted
            f"FROM unnest({', '.join(arrays)}) AS rows({', '.join(cells)}){self._tail}"
        )

    def columns(self, records: Sequence[Record]) -> Sequence[Sequence[Cell]]:
        """The cells, column by column. Raises UnfitError.

        With `conflict`, one statement may hold a row once only: the newest stays.
        """
        read = self._pointers.read(records)
        columns = [column(records, read) for column in self._columns]
        if not self._conflict:
            return columns
        newest: dict[tuple[Cell, ...] | int, int] = {}
        keys = zip(*(columns[n] for n in self._conflict), strict=True)
        for row, key in enumerate(keys):
            # A NULL is like no other NULL, so that such rows never meet.
            newest[row if None in key else key] = row
        if len(newest) == len(records):
            return columns
        keep = sorted(newest.values())
        return [[column[row] for row in keep] for column in columns]

    def _column(self, name: str, source: str, kind: Type, identify: Identify) -> Column:
        if source.startswith("/"):
            found = self._pointers.column(source, as_json=kind.array or kind.name in _JSON)
            return lambda _, read: found(read)
        what = source.removeprefix("$")
        take = _SIMPLE.get(what) or _named(what, identify)
        if _is_binary(kind, source):
            return lambda records, _: [_bytes(take(r)) for r in records]
        told = f"{'the header ' if what.startswith(HEADER) else 'the '}{what.removeprefix(HEADER)}"
        return lambda records, _: _decoded([take(r) for r in records], told, name)

    def preview(self, records: Sequence[Record]) -> Iterable[str]:
        """The same as a statement for people. Raises UnfitError."""
        columns = self.columns(records)
        yield f"INSERT INTO {self._table} ({', '.join(map(quoted, self._names))}) VALUES"
        rows = [f"  ({', '.join(map(_literal, row))})" for row in zip(*columns, strict=True)]
        yield from (f"{row}," for row in rows[:-1])
        yield rows[-1] + self._tail


def _on_conflict(settings: PostgresSettings) -> str:
    if settings.mode == "insert":
        return ""
    keys = ", ".join(map(quoted, settings.conflict))
    others = [quoted(name) for name in settings.columns if name not in settings.conflict]
    changes = ", ".join(f"{name} = EXCLUDED.{name}" for name in others)
    return f" ON CONFLICT ({keys}) DO " + (f"UPDATE SET {changes}" if others else "NOTHING")


def _is_binary(kind: Type, source: str) -> bool:
    """Whether bytes go as they are. What a pointer leads to is text, such as the hexadecimal one
    that the database takes for bytes."""
    return kind.name == _BYTES and source.startswith("$")


def _cast(cell: str, kind: Type, source: str) -> str:
    if _is_binary(kind, source):
        return cell
    if source == "$timestamp" and kind.name in _TIMES:
        moment = f"pg_catalog.to_timestamp({cell}::pg_catalog.float8 / 1000)"
        return moment if kind.name == _TIMES[0] else f"({moment} AT TIME ZONE 'UTC')::{kind.name}"
    if kind.array and source.startswith("/"):
        items = f"ARRAY(SELECT pg_catalog.jsonb_array_elements_text({cell}::pg_catalog.jsonb))"
        return f"CASE WHEN {cell} IS NOT NULL THEN {items}::{kind.name} END"
    return f"{cell}::{kind.name}"


def _named(what: str, identify: Identify) -> Callable[[Record], Cell]:
    if what == "id":

        def identified(record: Record) -> str:
            try:
                return identify(record)
            except ValueError as error:
                raise UnfitError(str(error)) from None

        return identified
    wanted = what.removeprefix(HEADER)
    # The last one of that name, as Kafka's own `lastHeader`.
    return lambda r: next((value for key, value in reversed(r.headers) if key == wanted), None)


_SIMPLE: dict[str, Callable[[Record], Cell]] = {
    "value": lambda r: r.value,
    "key": lambda r: r.key,
    "topic": lambda r: r.topic,
    "partition": lambda r: str(r.partition),
    "offset": lambda r: str(r.offset),
    # A record without a timestamp has -1.
    "timestamp": lambda r: str(r.timestamp) if r.timestamp >= 0 else None,
}


def _bytes(cell: Cell) -> Cell:
    return cell.encode() if isinstance(cell, str) else cell


def _decoded(cells: Sequence[Cell], what: str, name: str) -> Sequence[Cell]:
    try:
        return [cell.decode() if isinstance(cell, bytes) else cell for cell in cells]
    except UnicodeDecodeError as error:
        raise UnfitError(
            f"{what} is not UTF-8 at byte {error.start}, and the column {name} is no bytea"
        ) from None


def _literal(cell: Cell) -> str:
    if cell is None:
        return "NULL"
    if isinstance(cell, bytes):
        return rf"'\x{cell.hex()}'"
    if re.fullmatch(r"-?\d{1,18}", cell):
        return cell
    return "'" + cell.replace("'", "''") + "'"


def types_of(rows: Iterable[Any]) -> dict[str, Type]:
    """What `CATALOGUE` answers, by the name of the column."""
    return {row["name"]: Type(row["type"], row["array"]) for row in rows}

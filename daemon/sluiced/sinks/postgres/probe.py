"""Looks whether a database can be used as the configuration says, and changes nothing there."""

from __future__ import annotations

from typing import Any

from ...errors import SluicedError
from . import checkpoint
from .columns import quoted
from .settings import PostgresSettings

_FOUND = """
SELECT c.oid, nspname::text AS schema, pg_is_in_recovery() AS standby,
    current_setting('transaction_read_only')::boolean AS read_only,
    has_schema_privilege(n.oid, 'CREATE') AS may_create
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
WHERE c.oid = to_regclass($1::text)
"""

# With the rights that the statement will need on each.
_COLUMNS = """
SELECT attname::text AS name, has_column_privilege($1::oid, attnum, 'INSERT') AS insert,
    has_column_privilege($1::oid, attnum, 'UPDATE') AS update,
    has_column_privilege($1::oid, attnum, 'SELECT') AS select,
    attgenerated <> '' OR attidentity = 'a' AS generated,
    attnotnull AND NOT atthasdef AND attidentity = '' AS required
FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
"""

# The columns of each index that ON CONFLICT can go by.
_UNIQUE = """
SELECT array(
    SELECT attname::text FROM pg_catalog.pg_attribute
    WHERE attrelid = indrelid AND attnum = ANY (indkey[0:indnkeyatts - 1])
) AS names
FROM pg_catalog.pg_index WHERE indrelid = $1 AND indisunique AND indisvalid AND indimmediate
    AND indpred IS NULL AND indexprs IS NULL
"""

_CHECKPOINT = """
SELECT coalesce(bool_and(has_table_privilege(c, right_)), false) AS usable
FROM to_regclass($1::text) AS c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS right_
"""


async def probe(connection: Any, settings: PostgresSettings) -> None:
    """Table, columns, rights, and the index that `conflict` needs. Raises SluicedError."""
    name = ".".join(map(quoted, settings.table.split(".")))
    found = await connection.fetchrow(_FOUND, name)
    if found is None:
        raise SluicedError(
            f"reached the database, but there is no table {settings.table}, or it may not be seen",
            "Create it, or correct sink.table, which is written as the database shows it.",
        )
    if found["standby"] or found["read_only"]:
        raise SluicedError(
            "reached the database, but it takes no writes: it is a standby or set to read-only",
            "Name the primary in sink.dsn, or all servers with target_session_attrs=primary.",
        )
    columns = {row["name"]: row for row in await connection.fetch(_COLUMNS, found["oid"])}
    _check_columns(settings, columns)
    _check_rights(settings, columns)
    if settings.conflict:
        indexes = [set(row["names"]) for row in await connection.fetch(_UNIQUE, found["oid"])]
        if set(settings.conflict) not in indexes:
            names = ", ".join(map(quoted, settings.conflict))
            raise SluicedError(
                f"no unique index of {settings.table} has exactly the columns of sink.conflict",
                f"Create one: CREATE UNIQUE INDEX ON {name} ({names});",
            )
    await _check_checkpoint(connection, found["schema"], may_create=found["may_create"])


def _check_columns(settings: PostgresSettings, columns: dict[str, Any]) -> None:
    if missing := [each for each in settings.columns if each not in columns]:
        raise SluicedError(
            f"{settings.table} has no column {missing[0]}", "Add it, or correct sink.columns."
        )
    if generated := [each for each in settings.columns if columns[each]["generated"]]:
        raise SluicedError(
            f"{settings.table}: the database itself fills the column {generated[0]}",
            "Remove it from sink.columns.",
        )
    left = [n for n, row in columns.items() if row["required"] and n not in settings.columns]
    if left:
        raise SluicedError(
            f"{settings.table}: the column {left[0]} is NOT NULL and has no default, so that every "
            "row would be refused",
            "Fill it in sink.columns, or give it a default.",
        )


def _check_rights(settings: PostgresSettings, columns: dict[str, Any]) -> None:
    needed = ["insert"] if settings.mode == "insert" else ["insert", "update", "select"]
    for right in needed:
        for name in settings.columns:
            if right == "update" and name in settings.conflict:
                continue
            if not columns[name][right]:
                raise SluicedError(
                    f"the user may not {right.upper()} the column {name} of {settings.table}",
                    f"Grant {', '.join(needed).upper()} on the table to the user.",
                )


async def _check_checkpoint(connection: Any, schema: str, *, may_create: bool) -> None:
    table = checkpoint.qualified(schema)
    if await connection.fetchval("SELECT to_regclass($1::text) IS NULL", table):
        if not may_create:
            raise SluicedError(
                f"the table {table} is missing, and the user may not create it",
                "Create it, and grant SELECT, INSERT and UPDATE on it:\n"
                f"{checkpoint.CREATE.format(table=table)};",
            )
    elif not await connection.fetchval(_CHECKPOINT, table):
        raise SluicedError(
            f"the user may not use the table {table}",
            "Grant SELECT, INSERT and UPDATE on it to the user.",
        )

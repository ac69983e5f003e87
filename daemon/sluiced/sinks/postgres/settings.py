"""The `[sink]` block of type "postgres", and what can be said about it without a database."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from ...errors import ConfigError, Problem
from ...identity import tokens_of
from ...units import Secret
from ..http_settings import names_a_host
from ..settings import ConfiguredSink, Line, SinkSettings
from ..template import HEADER, Template

# What a column may be filled with besides what a pointer into the value points to.
SOURCES = ("value", "key", "id", "topic", "partition", "offset", "timestamp", HEADER)

LONGEST_NAME = 63  # bytes; PostgreSQL cuts off the rest without a word

_SCHEMES = ("postgresql", "postgres")
_VERIFIED = ("verify-ca", "verify-full")


class PostgresSettings(SinkSettings, frozen=True, tag_field="type", tag="postgres"):
    """[sink] type = "postgres". `columns` says by column what goes there: a JSON pointer into the
    value, or one of `SOURCES` after a dollar sign."""

    dsn: str | Secret
    table: str
    columns: dict[str, str]
    mode: Literal["insert", "upsert"] = "insert"
    conflict: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.dsn, str):
            _check_dsn(self.dsn)
        parts = self.table.split(".")
        if len(parts) > 2 or not all(map(_is_name, parts)):
            raise ValueError(
                'table must be a name such as "pages" or "shop.pages", written as the database '
                "shows it and without quotes"
            )
        if not self.columns:
            raise ValueError('columns needs one at least, such as { doc = "$value" }')
        for name, source in self.columns.items():
            _check_column(name, source)
        if self.mode == "insert" and self.conflict:
            raise ValueError('conflict needs mode = "upsert"')
        if self.mode == "upsert" and not self.conflict:
            raise ValueError(
                'mode: "upsert" needs conflict, the columns that tell which row is meant, such as '
                'conflict = ["slug"]'
            )
        if missing := [name for name in self.conflict if name not in self.columns]:
            raise ValueError(f"conflict names {missing[0]}, which is not in columns; add it there")
        if len(set(self.conflict)) < len(self.conflict):
            raise ValueError("conflict names a column twice")

    @property
    def identified_by(self) -> Literal["transaction"]:
        return "transaction"

    @property
    def summary(self) -> str:
        verb = "inserts into" if self.mode == "insert" else "upserts into"
        where = f"({self.dsn})" if isinstance(self.dsn, Secret) else place(self.dsn)
        return f"{verb} {self.table} at {where}"

    def build(self, line: Line) -> ConfiguredSink:
        try:
            from .sink import PostgresSink
        except ModuleNotFoundError as error:
            if error.name != "asyncpg":
                raise
            raise ConfigError(
                "[sink] of type postgres needs the package asyncpg, which is not installed",
                "Run: pip install 'sluiced[postgres]'",
            ) from None
        return PostgresSink(self, line)

    def problems(self, line: Line) -> Iterator[Problem]:
        if line.record.format != "json" and any(s.startswith("/") for s in self.columns.values()):
            yield Problem(
                "record.format",
                'pointers in sink.columns lead into JSON; write "json", or take the whole value '
                "with $value",
                value=f'"{line.record.format}"',
            )
        if line.window.collapse:
            yield Problem(
                "window.collapse",
                "a crash could write an older record after a newer one; remove it, and set "
                'sink.mode = "upsert", which keeps the newest of each row by itself',
                value="true",
            )
        if self.mode == "upsert" and line.max_in_flight > 1:
            yield Problem(
                "limits.max_in_flight",
                "with more than one batch in flight an older state of a row may be written after "
                "a newer one; write 1 where records of a row follow one another closely",
                "warning",
                str(line.max_in_flight),
            )
        if self._in_the_clear():
            yield Problem(
                "sink.dsn",
                "the network between here and the database is trusted blindly; add "
                "sslmode=verify-full to its query",
                "warning",
            )

    def _in_the_clear(self) -> bool:
        try:
            dsn = self.dsn if isinstance(self.dsn, str) else self.dsn.reveal()
            parts = urlsplit(dsn)
            host, query = parts.hostname, parse_qs(parts.query)
        except ValueError:  # told elsewhere
            return False
        host = query.get("host", [host or ""])[0]
        return not _is_local(host) and query.get("sslmode", [""])[0] not in _VERIFIED


def place(dsn: str) -> str:
    """Host and database of an address: what of it may be shown."""
    parts = urlsplit(dsn)
    host = unquote(parts.netloc.rpartition("@")[2]) or "the local socket"
    database = parts.path.lstrip("/")
    return f"{host}/{database}" if database else host


def _is_local(host: str) -> bool:
    if not host or host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(dsn: str) -> None:
    """Raises ValueError where it cannot be read, and then a part that would be shown, or that a
    library would name in an error, may be of the password."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    if parts.scheme not in _SCHEMES or parts.fragment or "@" in parts.path:
        raise ValueError
    places = [urlsplit(f"//{each}") for each in parts.netloc.rpartition("@")[2].split(",")]
    ports = [each.port for each in places]
    ports += [int(port) for port in query.get("port", [""])[0].split(",") if port]
    if any(port is not None and not 0 <= port < 65536 for port in ports):
        raise ValueError
    hosts = [unquote(each.hostname or "") for each in places]
    hosts += query.get("host", [""])[0].split(",")
    if not all(host.startswith("/") or names_a_host(host) for host in hosts):
        raise ValueError


def _check_dsn(dsn: str) -> None:
    """Its text is never repeated: a part of it may be what should not be seen."""
    try:
        parts = urlsplit(dsn)
        password = parts.password
        if parts.scheme in _SCHEMES:
            check_address(dsn)
    except ValueError:
        raise ValueError("dsn: its host or port cannot be read; correct it") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError('dsn must look like "postgresql://user@host:5432/database"')
    if password is not None or "password" in parse_qs(parts.query):
        raise ValueError(
            'dsn holds a password, which never stands in this file; write { env = "NAME" }, '
            '{ file = "path" } or { credential = "name" } for the whole of it'
        )


def _check_column(name: str, source: str) -> None:
    if not _is_name(name):
        raise ValueError(f"columns: {name!r} cannot be the name of a column")
    if source.startswith("$"):
        try:
            template = Template.parse(source, SOURCES)
        except ValueError as error:
            raise ValueError(f"columns: {name}: {error}") from None
        if len(template.names) == 1 and not any(template.literals):
            return
    elif source.startswith("/"):
        tokens_of(source)
        return
    known = ", ".join(f"${s}NAME" if s == HEADER else f"${s}" for s in SOURCES)
    raise ValueError(
        f'columns: {name}: expected a pointer into the value such as "/slug", or one of {known}'
    )


def _is_name(name: str) -> bool:
    return 0 < len(name.encode()) <= LONGEST_NAME and not set('"\0.') & set(name)

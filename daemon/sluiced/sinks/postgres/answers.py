"""What an error of the database means for a batch.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import re
import ssl

import asyncpg

from ...outcome import Again, Outcome, Refused

# Classes that judge what was to be written: rows that meet in one statement, data exceptions,
# broken constraints and checks, rows too large for an index, what triggers and functions raise.
_ABOUT_ROWS = ("09", "21", "22", "23", "27", "2F", "38", "39", "44", "54", "P0")

# Classes that waiting for will not mend, but a person will: privileges, names, types, passwords,
# databases that are missing, disks that are full.
_OUTAGE = ("28", "3D", "3F", "42", "53")

_CANCELED = "57014"  # by statement_timeout, which is ours
_LOST = ("08", "57")  # connections, and servers that shut down

# What a type says of a text that is no tsvector, ltree or jsonpath. Of a statement it would mean
# that it is wrong itself, but ours is always the same.
_NO_SYNTAX = "42601"

# The only values that a message itself repeats stand between double quotes, of whatever language.
_VALUE = re.compile(r'["\u00ab\u00bb\u201c-\u201e].*["\u00ab\u00bb\u201c-\u201e]', re.DOTALL)

# What an attempt may raise that is about the database, the connection or the rows. A connection
# that ends at a bad moment is an internal error of asyncpg's.
TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

TLS = "the certificate of the database is not accepted"


class UndoError(Exception):
    """We undo the transaction ourselves."""


def undoable(error: BaseException) -> bool:
    """Whether a rollback makes the connection as good as before."""
    if isinstance(error, asyncpg.PostgresError):
        return _about_rows(error)
    return isinstance(error, UndoError)


def outdated(error: BaseException) -> bool:
    """Whether the table may be another one than when its columns were looked up."""
    if not isinstance(error, asyncpg.PostgresError) or _about_rows(error):
        return False
    return _class(error) in ("0A", "42")


def outcome_of(error: Exception, where: str) -> Outcome:
    """The outcome of an attempt that has raised this and changed nothing. Never holds a value of
    a row: of the error's texts only the message is used, which has none but what is taken out."""
    if isinstance(error, asyncpg.PostgresError):
        return _answer(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Again("connection", f"{TLS}: {error.verify_message}", outage=True)
    if isinstance(error, TimeoutError):
        return Again("timeout", f"no answer from {where} in time")
    if isinstance(error, asyncpg.ClientConfigurationError):
        return Again("connection", f"sink.dsn cannot be used to reach {where}", outage=True)
    return Again("connection", f"no connection to {where}: {reason(error)}")


def reason(error: Exception) -> str:
    """What the matter is, without the values of a row or the address of the database."""
    if isinstance(error, asyncpg.PostgresError):
        return message(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def message(error: asyncpg.PostgresError) -> str:
    """The database's own message without the values of a row."""
    text = str(getattr(error, "message", None) or type(error).__name__)
    may_repeat = _class(error) == "22" or error.sqlstate == _NO_SYNTAX
    return _VALUE.sub('"***"', text) if may_repeat else text


def _about_rows(error: asyncpg.PostgresError) -> bool:
    return _class(error) in _ABOUT_ROWS or error.sqlstate == _NO_SYNTAX


def _class(error: asyncpg.PostgresError) -> str:
    return str(error.sqlstate or "XX")[:2]


def _answer(error: asyncpg.PostgresError) -> Outcome:
    status, kind, text = str(error.sqlstate or ""), _class(error), message(error)
    if _about_rows(error):
        return Refused(status, text)
    if status == _CANCELED:
        return Again("timeout", text, status)
    if kind in _LOST:
        return Again("connection", text, status)
    return Again("status", text, status, outage=kind in _OUTAGE)

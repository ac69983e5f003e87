"""Connections to a database, kept while nothing odd happens on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncpg

from ... import __version__
from ...errors import ConfigError
from ...units import Secret
from .answers import undoable
from .settings import check_address, place

CLOSE_TIMEOUT = 2.0  # seconds; a connection that is not closed by then is dropped


class Connections:
    """As many as are in use at once. `dsn` is an address or where it is kept."""

    def __init__(self, dsn: str | Secret, timeout: float) -> None:
        self._source = dsn
        self._timeout = timeout
        self._dsn = ""
        self._idle: list[Any] = []

    def reveal(self) -> None:
        """Reads the address. Raises ConfigError, and then keeps what was read before."""
        if isinstance(self._source, str):
            self._dsn = self._source
            return
        try:
            dsn = self._source.reveal()
        except ValueError as error:
            raise ConfigError(
                f"sink.dsn: {error}", "Put the secret there, or name its place."
            ) from None
        try:
            check_address(dsn)
        except ValueError:
            raise ConfigError(
                f"sink.dsn: the secret ({self._source}) is no address of a database",
                'It must look like "postgresql://user:password@host:5432/database", and what is no '
                "letter or digit in a password be percent-encoded.",
            ) from None
        self._dsn = dsn

    @property
    def where(self) -> str:
        """Host and database, for a text that is shown."""
        return place(self._dsn)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Any]:
        """One for a transaction, opened if there is none left over.

        What was raised inside decides whether it can be used again. A connection in an unknown
        state is dropped, by which the database undoes what was not committed.
        """
        connection = await self._take()
        try:
            yield connection
        except BaseException as error:
            if not (undoable(error) and await _rolled_back(connection)):
                connection.terminate()
                raise
            self._idle.append(connection)
            raise
        self._idle.append(connection)

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                await connection.close()
            connection.terminate()

    async def _take(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await asyncpg.connect(
            self._dsn,
            timeout=self._timeout,
            server_settings={"application_name": f"sluiced {__version__}"},
        )


async def _rolled_back(connection: Any) -> bool:
    try:
        await connection.execute("ROLLBACK")
    except Exception:  # whatever it is: the connection is of no use any more
        return False
    return True

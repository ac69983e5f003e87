"""Connections to an API, kept open between requests for as long as nothing odd happens on them."""

from __future__ import annotations

from typing import Any

import aiohttp


class Connector(aiohttp.TCPConnector):
    """Drops a connection on which something has come that no request had asked for.

    aiohttp takes it for the answer to the next request, and so would have a batch delivered that
    the API has never seen.
    """

    async def _get(self, key: Any, traces: Any) -> aiohttp.connector.Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None

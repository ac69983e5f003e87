"""Connections to an API, kept open between requests for as long as nothing odd happens on them."""

from __future__ import annotations

import ssl
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


def session(origin: str, connect_timeout: float) -> aiohttp.ClientSession:
    """For requests to this origin; connects nothing yet."""
    return aiohttp.ClientSession(
        connector=Connector(limit=0, ssl=tls(origin) or True),
        # `connect` covers the name, the connection and TLS. The whole has its own deadline.
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


def tls(origin: str) -> ssl.SSLContext | None:
    """The system's own certificates and rules; verification cannot be turned off."""
    if not origin.startswith("https:"):
        return None
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context

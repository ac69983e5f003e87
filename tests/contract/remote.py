"""A real server behind a proxy that can cut it off: what stands of real things have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from chaos.proxy import Fault, Proxy
from sluiced.testing import Stand


class Remote(Stand):
    """Reached at `address`, which is the proxy's."""

    def __init__(self, port: int) -> None:
        self._proxy = Proxy(port)

    async def __aenter__(self) -> Self:
        await self._proxy.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._proxy.__aexit__(None, None, None)

    @property
    def port(self) -> int:
        return self._proxy.port

    @asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        await self._proxy.begin(Fault("refuse"))
        yield
        await self._proxy.heal()

    @asynccontextmanager
    async def mute(self) -> AsyncIterator[None]:
        await self._proxy.begin(Fault("silence"))
        yield
        await self._proxy.heal()

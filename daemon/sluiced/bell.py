"""A signal that something has changed."""

from __future__ import annotations

import anyio


class Bell:
    """Wakes everyone who is waiting, and nobody who comes later.

    Whoever waits looks at the state first and again after each ring. No await may stand between
    the look and `heard`; then no ring is missed, since nothing else runs in between.
    """

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = anyio.Event()

    async def heard(self, timeout: float | None = None) -> None:
        """Returns at the next ring, or after `timeout` seconds."""
        with anyio.move_on_after(timeout):
            await self._event.wait()

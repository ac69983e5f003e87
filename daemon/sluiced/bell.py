"""A signal that something has changed."""

from __future__ import annotations

from collections.abc import Callable

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


class Bells:
    """Those of the line. `jobs_moved` rings the jobs' own, if there are any."""

    def __init__(self, jobs_moved: Callable[[], None] | None = None) -> None:
        self.work = Bell()  # a batch may be released, or a window has got an age
        self.left = Bell()  # something has left the line
        self._jobs_moved = jobs_moved

    def moved(self) -> None:
        """The books say something else: a batch may be released, and a job go on."""
        self.work.ring()
        if self._jobs_moved is not None:
            self._jobs_moved()

    def gone(self) -> None:
        """Something has left, and something else may be released in its place."""
        self.moved()
        self.left.ring()

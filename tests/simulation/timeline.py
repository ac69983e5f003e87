"""What happens in the world and when: callbacks on the virtual clock, run by one task."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Timeline:
    """Runs callbacks at their times, equal ones in the order they were entered.

    Everything outside the members is made of such callbacks and has no task of its own, so that
    a crash of a member stops nothing but the member.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self._sleep = trio.CancelScope()

    def at(self, time: float, callback: Callable[[], object]) -> None:
        self._count += 1
        heappush(self._entries, (time, self._count, callback))
        if time < self._sleep.deadline:
            self._sleep.deadline = time

    def after(self, delay: float, callback: Callable[[], object]) -> None:
        self.at(trio.current_time() + delay, callback)

    async def run(self) -> None:
        while True:
            while self._entries and self._entries[0][0] <= trio.current_time():
                heappop(self._entries)[2]()
            deadline = self._entries[0][0] if self._entries else math.inf
            with trio.CancelScope(deadline=deadline) as self._sleep:
                await trio.sleep_forever()


class Reply(Generic[T]):
    """An answer that is on its way to whoever asked; the first one counts."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._value: T

    def give(self, value: T) -> None:
        if not self._event.is_set():
            self._value = value
            self._event.set()

    async def wait(self) -> T:
        await self._event.wait()
        return self._value

    async def within(self, timeout: float) -> T | None:
        """The answer, or None if it is not there in time."""
        with trio.move_on_after(timeout):
            await self._event.wait()
        return self._value if self._event.is_set() else None

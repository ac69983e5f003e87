"""The tasks of the line: one that dies ends all, but by way of the drain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from math import inf
from typing import TypeAlias

import anyio
import structlog
from anyio.abc import TaskGroup

from .errors import SluicedError

log = structlog.get_logger("sluiced.pipeline")

Task: TypeAlias = Callable[[], Awaitable[None]]


class Tasks:
    """Runs them in one group, from `run` on. `fatal` is the first error that one has died of."""

    def __init__(self) -> None:
        self.fatal: Exception | None = None
        self._group: TaskGroup | None = None
        self._unstarted: list[Task] = []
        self._end = anyio.Event()
        self._told = anyio.Event()  # the `stop` of run()

    @property
    def stopping(self) -> bool:
        """From the very moment of the signal, before any task has taken notice."""
        return self._told.is_set() or self._end.is_set()

    def start(self, task: Task) -> None:
        """At once, or as soon as there is a group."""
        if self._group is None:
            self._unstarted.append(task)
        else:
            self._group.start_soon(self._guard, task)

    async def run(self, loops: Iterable[Task], stop: anyio.Event, drain: Task) -> None:
        """Runs the loops until `stop` is set or something fatal happens; then drains, cancels what
        still runs and returns, or raises the fatal error."""
        self._told = stop
        async with anyio.create_task_group() as self._group:
            for task in (*loops, *self._unstarted):
                self.start(task)
            self._group.start_soon(self._pass_on, stop)
            await self._end.wait()
            await drain()
            self._group.cancel_scope.cancel()
        if self.fatal is not None:
            raise self.fatal

    async def _pass_on(self, stop: anyio.Event) -> None:
        await stop.wait()
        self._end.set()

    async def _guard(self, task: Task) -> None:
        try:
            await task()
        except anyio.get_cancelled_exc_class() as error:
            if anyio.current_effective_deadline() == -inf:
                raise  # it is we who end
            # A library may cancel what a task waits for, which would end all without a word.
            why = RuntimeError("a task was cancelled from outside")
            why.__cause__ = error
            self._fail(why)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self.fatal is None:
            self.fatal = error
            bug = not isinstance(error, SluicedError)
            log.error("fatal", error=str(error), exc_info=error if bug else None)
        self._end.set()

"""Runs a tool's work in an event loop, and lets a person stop it between two steps."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from .. import logs
from ..errors import SluicedError, unwrapped
from ..logs import LogSettings

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """The work's result. Only errors are logged; stdout belongs to the tool.

    Raises SluicedError as it is, also out of a task group.
    """
    quiet()
    return asyncio.run(unwrapped(work))


def quiet() -> None:
    """Logs errors alone, and nothing of what libraries say."""
    logs.configure(LogSettings(level="error", format="console"))
    # What aiokafka cannot cure it raises, and then it is said in our words. It also leaves futures
    # behind with the same errors in them, which asyncio would print with their tracebacks, at the
    # latest when the process ends.
    for library in ("aiokafka", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


def run_stoppable(work: Callable[[anyio.Event], Awaitable[T]]) -> T:
    """The same, where the work can be stopped: the first SIGINT or SIGTERM sets its event, the
    second one cancels it, and then SluicedError is raised."""
    return run(_stoppable(work))


async def _stoppable(work: Callable[[anyio.Event], Awaitable[T]]) -> T:
    stop = anyio.Event()
    results: list[T] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_obey, stop, tasks)
        results.append(await work(stop))
        tasks.cancel_scope.cancel()
    if not results:
        raise SluicedError("stopped in the middle", "What was under way may or may not be done.")
    return results[0]


async def _obey(stop: anyio.Event, tasks: TaskGroup) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if stop.is_set():
                tasks.cancel_scope.cancel()
            stop.set()

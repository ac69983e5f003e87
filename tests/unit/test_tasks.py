"""The tasks of the line on asyncio, where a task can be cancelled by anybody."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from sluiced.tasks import Tasks

pytestmark = pytest.mark.anyio


async def cut_off() -> None:
    """Waits for what a library has cancelled, as connections that are closed may do."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def test_a_task_that_a_library_cuts_off_ends_the_line_by_way_of_the_drain() -> None:
    tasks, drained = Tasks(), []

    async def drain() -> None:
        drained.append(tasks.fatal)

    with pytest.raises(RuntimeError, match="cancelled from outside"):
        await tasks.run([anyio.sleep_forever, cut_off], anyio.Event(), drain)
    assert drained == [tasks.fatal]


async def test_a_stop_that_cancels_what_still_runs_is_no_failure() -> None:
    tasks, stop = Tasks(), anyio.Event()
    stop.set()
    await tasks.run([anyio.sleep_forever], stop, anyio.lowlevel.checkpoint)
    assert tasks.fatal is None


async def test_who_cancels_the_whole_line_makes_no_failure_of_it() -> None:
    tasks = Tasks()
    with anyio.move_on_after(0.0):
        await tasks.run([anyio.sleep_forever], anyio.Event(), anyio.lowlevel.checkpoint)
    assert tasks.fatal is None

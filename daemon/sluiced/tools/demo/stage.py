"""What both demos stand on: the way in and out, and their configurations."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from rich.console import Console

from ...errors import SluicedError

STOPS = (signal.SIGINT, signal.SIGTERM)


def play(run: Callable[[Console], Awaitable[int]]) -> int:
    """The exit status of the demo, 1 if it failed. Prints what went wrong."""
    console = Console()
    try:
        return asyncio.run(_interruptible(console, run))
    except SluicedError as error:
        console.print(f"\nThe demo failed. {error}", style="red", markup=False, soft_wrap=True)
        return 1


async def _interruptible(console: Console, run: Callable[[Console], Awaitable[int]]) -> int:
    """Ctrl-C and SIGTERM take the same way out as any failure: through every clean-up."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in STOPS:
        loop.add_signal_handler(number, task.cancel)
    try:
        return await run(console)
    except asyncio.CancelledError:
        console.print("\nInterrupted; everything is stopped and removed.")
        return 1


async def until_told(console: Console, addresses: Mapping[str, str]) -> None:
    """Prints where everything is and waits for Ctrl-C or SIGTERM."""
    console.print("\nStill running, until Ctrl-C:")
    for name, address in addresses.items():
        console.print(f"{name:>14}  {address}", highlight=False, soft_wrap=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOPS:
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def configuration(name: str, replaced: Mapping[str, str]) -> str:
    """A file of configs/ with other addresses.

    Raises SluicedError if the file is not there, or does not have each address exactly once.
    """
    text = _file(name).read_text()
    for old, new in replaced.items():
        if text.count(f'"{old}') != 1:
            raise SluicedError(
                f"{name} does not have the address {old} exactly once.",
                "Put the file back as it was published; the demo replaces that address.",
            )
        text = text.replace(old, new)
    return text


def _file(name: str) -> Path:
    """In a checkout the file is in configs/; in an installed package it is beside this module."""
    here = Path(__file__).resolve()
    for path in (here.with_name(name), here.parents[4] / "configs" / name):
        if path.is_file():
            return path
    raise SluicedError(
        f"{name} is missing.", "Install sluiced again, or run the demo from a checkout of it."
    )

"""The command line, as a process of its own: its exit code and what it prints where."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass

import anyio


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


async def start(*arguments: object) -> asyncio.subprocess.Process:
    """A command that is left running; see `ended`."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sluiced", *map(str, arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"COLUMNS": "80"},
    )


async def ended(process: asyncio.subprocess.Process, seconds: float = 120.0) -> Ended:
    """Waits for its end. No command may show a traceback."""
    with anyio.fail_after(seconds):
        out, err = (text.decode() for text in await process.communicate())
    assert "Traceback" not in err, err
    return Ended(process.returncode or 0, out, err)


async def sluiced(*arguments: object, seconds: float = 120.0) -> Ended:
    return await ended(await start(*arguments), seconds)

"""What both demos are: a stream and a daemon on the way to an API, a crash half-way, and an audit.

Each of them says what its API is, when the daemon is to be killed, and what has to hold in the end.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import ClassVar

from aiokafka import ConsumerRecord
from rich.console import Console

from ...errors import SluicedError
from .audit import Letter
from .cities import Message
from .display import Display, Shown
from .process import Daemon
from .stream import Stream, letter

# What the files in configs/ say and the demos replace.
BROKER, API, ADMIN = "127.0.0.1:9092", "http://127.0.0.1:8080", "127.0.0.1:9464"

READY_WITHIN = 60.0  # seconds; the first join of the group alone takes three
DEADLINE = 120.0  # seconds after which a demo that is not done has failed
POLL = 0.1  # seconds between two looks at how far things are

STOPS = (signal.SIGINT, signal.SIGTERM)


class Demo(ABC):
    """The pieces, all of them running once `start` has returned."""

    config: ClassVar[str]  # the name of a file in configs/
    group: ClassVar[str]
    dead: ClassVar[str]
    rate: ClassVar[float]  # records per second published
    messages: Sequence[Message]

    def __init__(self, home: Path, broker: str, admin: str, stream: Stream) -> None:
        self.letters: list[Letter] = []
        self.path = home / self.config
        self.daemon = Daemon(self.path, admin)
        self.stream = stream
        self.addresses = {"broker": broker, "admin port": f"http://{admin}"}
        self._replaced = {BROKER: broker, ADMIN: admin}

    async def start(self, stack: AsyncExitStack, api: str) -> None:
        """Starts the stream, and the daemon with the API at this address; the stack stops them in
        reverse order."""
        await stack.enter_async_context(self.stream)
        self.path.write_text(configuration(self.config, self._replaced | {API: api}))
        await stack.enter_async_context(self.daemon)
        self.daemon.start()
        await self.daemon.ready(READY_WITHIN)

    async def run(self, display: Display) -> None:
        """Until every record is somewhere and the checkpoint says so."""
        self.say = display.say
        publishing = asyncio.create_task(self.stream.publish(self.messages, self.rate))
        try:
            async with asyncio.timeout(DEADLINE):
                while not await self._settled(publishing):
                    await self._read()
                    display.update(self.figures())
                    self.daemon.check()
                while await self._read():
                    pass
        except TimeoutError:
            self.daemon.fail(f"After {DEADLINE:g} s: {self.figures().line().strip()}.")
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)

    async def _settled(self, publishing: asyncio.Task[None]) -> bool:
        if not publishing.done():
            return False
        publishing.result()
        return self.figures().complete and await self.stream.checkpoint_is_complete(self.group)

    async def _read(self) -> bool:
        """Whether there was anything to be read."""
        arrived = await self.stream.arrived(POLL)
        self.take(arrived)
        return bool(arrived)

    def take(self, arrived: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        """What has come at the ends of the line."""
        self.letters += [letter(record) for record in arrived if record.topic == self.dead]

    @abstractmethod
    def figures(self) -> Shown:
        """How far things are."""

    async def stop(self) -> None:
        """Raises SluicedError unless the daemon drains and ends with status 0."""
        status = await self.daemon.stop()
        if status != 0:
            self.daemon.fail(f"The daemon did not stop cleanly: status {status}.")

    @abstractmethod
    def audited(self, console: Console, seconds: float) -> bool:
        """Shows what has become of everything. Whether it is what it should be."""


Prepare = Callable[[AsyncExitStack, Path], Awaitable[Demo]]


def play(prepare: Prepare, keep: bool) -> int:
    """The exit status of a demo: 0 when the audit holds. Prints what went wrong otherwise."""
    console = Console()
    try:
        return asyncio.run(_interruptible(console, prepare, keep))
    except SluicedError as error:
        console.print(f"\nThe demo failed. {error}", style="red", markup=False, soft_wrap=True)
        return 1


async def _interruptible(console: Console, prepare: Prepare, keep: bool) -> int:
    """Ctrl-C and SIGTERM take the same way out as any failure: through every clean-up."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in STOPS:
        loop.add_signal_handler(number, task.cancel)
    try:
        return 0 if await _run(console, prepare, keep) else 1
    except asyncio.CancelledError:
        console.print("\nInterrupted; everything is stopped and removed.")
        return 1


async def _run(console: Console, prepare: Prepare, keep: bool) -> bool:
    """Whether the audit holds."""
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluiced-demo-")))
        demo = await prepare(stack, home)
        with Display(console) as display:
            await demo.run(display)
        if not keep:  # even its last words are audited
            await demo.stop()
        holds = demo.audited(console, time.monotonic() - begun)
        if keep:
            await until_told(console, demo.addresses)
            await demo.stop()
    return holds


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

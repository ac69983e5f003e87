"""The demo from start to end: publish, deliver, crash half-way, go on, audit."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from ..embedded_broker import EmbeddedBroker, free_ports
from .audit import Findings, Letter, audit
from .bulk_api import BulkApi, Caps, serve
from .cities import messages
from .display import Display, Figures, report
from .process import Daemon
from .stage import configuration, play, until_told
from .stream import Stream

CONFIG = "demo.toml"
# What configs/demo.toml says and the demo replaces.
BROKER, API, ADMIN = "127.0.0.1:9092", "http://127.0.0.1:8080", "127.0.0.1:9464"
GROUP, TOPIC, PARTITIONS, DEAD = "city-pages-to-cms", "pages", 4, "pages.dead"

CAPS = Caps(items=500, bytes=512 * 1024, rate=10, burst=10)
RATE = 3_500  # records per second published: a busy stream, and below what the API's rate allows
READY_WITHIN = 30.0  # seconds; the first join of the group alone takes three
DEADLINE = 120.0  # seconds after which a demo that is not done has failed
POLL = 0.1  # seconds between two looks at how far things are


def main(keep: bool) -> int:
    """The exit status: 0 when the audit holds. Prints what went wrong otherwise."""
    return play(lambda console: _run(console, keep))


async def _run(console: Console, keep: bool) -> int:
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluiced-demo-")))
        demo = await Demo.prepare(stack, home)
        with Display(console) as display:
            await demo.run(display)
        if not keep:  # even its last words are audited
            await demo.stop()
        findings = demo.audit()
        report(console, findings, demo.api.counts, time.monotonic() - begun)
        if keep:
            await demo.keep(console)
            await demo.stop()
    return 1 if findings.wrong else 0


class Demo:
    """The pieces, all of them running once `prepare` has returned."""

    def __init__(self, home: Path, broker: str, admin: str) -> None:
        self.messages = messages(oversize=CAPS.bytes)
        self.letters: list[Letter] = []
        self._database = home / "pages.sqlite"
        self.api = BulkApi(self._database, CAPS, before_answer=self._crash)
        self.daemon = Daemon(home / CONFIG, admin)
        self.stream = Stream(broker, TOPIC, PARTITIONS, DEAD)
        self.addresses = {
            "broker": broker,
            "admin port": f"http://{admin}",
            "database": str(self._database),
        }
        self._crashed = False

    @classmethod
    async def prepare(cls, stack: AsyncExitStack, home: Path) -> Demo:
        """Starts everything; the stack stops it in reverse order."""
        broker = stack.enter_context(EmbeddedBroker()).bootstrap
        admin = f"127.0.0.1:{free_ports(1)[0]}"
        demo = cls(home, broker, admin)
        demo.addresses["bulk API"] = await stack.enter_async_context(serve(demo.api))
        await stack.enter_async_context(demo.stream)
        replaced = {BROKER: broker, API: demo.addresses["bulk API"], ADMIN: admin}
        (home / CONFIG).write_text(configuration(CONFIG, replaced))
        await stack.enter_async_context(demo.daemon)
        demo.daemon.start()
        await demo.daemon.ready(READY_WITHIN)
        return demo

    async def run(self, display: Display) -> None:
        """Until every record is somewhere and the checkpoint says so."""
        self._say = display.say
        publishing = asyncio.create_task(self.stream.publish(self.messages, RATE))
        try:
            async with asyncio.timeout(DEADLINE):
                while not await self._settled(publishing):
                    self.letters += await self.stream.dead_letters(POLL)
                    display.update(self.figures())
                    self.daemon.check()
                while more := await self.stream.dead_letters(POLL):
                    self.letters += more
        except TimeoutError:
            f = self.figures()
            self.daemon.fail(
                f"After {DEADLINE:g} s, of {f.total:,} records {f.produced:,} are published, "
                f"{f.delivered:,} delivered and {f.dead_lettered:,} dead-lettered."
            )
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)

    async def _crash(self) -> None:
        """Kills the daemon once, at the worst moment: the rows are there, the answer is not."""
        if self._crashed or self.api.counts.created < len(self.messages) // 2:
            return
        self._crashed = True
        self.daemon.kill()
        self._say(
            f"  SIGKILL to the daemon after {self.api.counts.created:,} records, between the API's "
            "commit and its answer; starting it again"
        )
        self.daemon.start()

    async def _settled(self, publishing: asyncio.Task[None]) -> bool:
        if not publishing.done():
            return False
        publishing.result()
        figures = self.figures()
        if figures.delivered + figures.dead_lettered < figures.total:
            return False
        return await self.stream.checkpoint_is_complete(GROUP)

    def figures(self) -> Figures:
        return Figures(
            total=len(self.messages),
            produced=len(self.stream.produced),
            delivered=self.api.counts.created,
            dead_lettered=len({letter.coordinates for letter in self.letters}),
            requests=self.api.counts.requests,
        )

    async def stop(self) -> None:
        """Raises SluicedError unless the daemon drains and ends with status 0."""
        status = await self.daemon.stop()
        if status != 0:
            self.daemon.fail(f"The daemon did not stop cleanly: status {status}.")

    def audit(self) -> Findings:
        findings = audit(self._database, self.stream.produced, self.letters)
        if not self._crashed:
            findings.wrong.append("the daemon was never killed, so nothing was shown")
        return findings

    async def keep(self, console: Console) -> None:
        """Prints where everything is and waits for Ctrl-C or SIGTERM."""
        await until_told(console, self.addresses)

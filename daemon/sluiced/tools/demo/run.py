"""The demo of a bulk API, from start to end: publish, deliver, crash half-way, go on, audit."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from ..embedded_broker import EmbeddedBroker, free_ports
from .audit import audit
from .bulk_api import BulkApi, Caps, serve
from .cities import messages
from .display import Figures, report
from .stage import Demo, play
from .stream import Stream

TOPIC, PARTITIONS = "pages", 4  # as in configs/demo.toml
CAPS = Caps(items=500, bytes=512 * 1024, rate=10, burst=10)


def main(keep: bool) -> int:
    """The exit status: 0 when the audit holds. Prints what went wrong otherwise."""
    return play(Pages.prepare, keep)


class Pages(Demo):
    """Pages of cities for a content management system."""

    config, group, dead = "demo.toml", "city-pages-to-cms", "pages.dead"
    rate = 3_500  # a busy stream, and below what the API's rate allows

    def __init__(self, home: Path, broker: str, admin: str) -> None:
        super().__init__(home, broker, admin, Stream(broker, TOPIC, PARTITIONS, self.dead))
        self.messages = messages(oversize=CAPS.bytes)
        self._database = home / "pages.sqlite"
        self.api = BulkApi(self._database, CAPS, before_answer=self._crash)
        self.addresses["database"] = str(self._database)
        self._crashed = False

    @classmethod
    async def prepare(cls, stack: AsyncExitStack, home: Path) -> Pages:
        """Starts everything; the stack stops it in reverse order."""
        broker = stack.enter_context(EmbeddedBroker()).bootstrap
        demo = cls(home, broker, f"127.0.0.1:{free_ports(1)[0]}")
        url = demo.addresses["bulk API"] = await stack.enter_async_context(serve(demo.api))
        await demo.start(stack, url)
        return demo

    async def _crash(self) -> None:
        """Kills the daemon once, at the worst moment: the rows are there, the answer is not."""
        if self._crashed or self.api.counts.created < len(self.messages) // 2:
            return
        self._crashed = True
        self.daemon.kill()
        self.say(
            f"  SIGKILL to the daemon after {self.api.counts.created:,} records, between the API's "
            "commit and its answer; starting it again"
        )
        self.daemon.start()

    def figures(self) -> Figures:
        return Figures(
            total=len(self.messages),
            produced=len(self.stream.produced),
            delivered=self.api.counts.created,
            dead_lettered=len({letter.coordinates for letter in self.letters}),
            requests=self.api.counts.requests,
        )

    def audited(self, console: Console, seconds: float) -> bool:
        findings = audit(self._database, self.stream.produced, self.letters)
        if not self._crashed:
            findings.wrong.append("the daemon was never killed, so nothing was shown")
        report(console, findings, self.api.counts, seconds)
        return not findings.wrong

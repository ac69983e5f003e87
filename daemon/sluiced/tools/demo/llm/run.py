"""The demo from start to end: prompts, jobs, a crash between a job and its answer, an audit."""

from __future__ import annotations

import asyncio
import tempfile
import time
import tomllib
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from aiokafka import ConsumerRecord
from rich.console import Console

from ....prices import Prices, PriceSettings, Usage
from ....units import decode
from ...embedded_broker import EmbeddedBroker, free_ports
from ..audit import Coordinates, Letter
from ..cities import Message
from ..display import Display
from ..keeper import Keeper
from ..process import Daemon
from ..provider import Pace, served
from ..stage import configuration, play, until_told
from ..stream import Stream, letter
from .audit import Answer, Findings, Ledger, audit
from .display import Crash, Figures, report
from .model import Model
from .prompts import prompts

CONFIG = "demo-llm.toml"
# What configs/demo-llm.toml says and the demo replaces.
BROKER, API, ADMIN = "127.0.0.1:9092", "http://127.0.0.1:8080", "127.0.0.1:9464"
GROUP, TOPIC, PARTITIONS, ANSWERS, DEAD = "cities-to-llm", "cities", 4, "sentences", "cities.dead"

COUNT = 3_000  # prompts
PACE = Pace(validating=0.3, working=1.5, finalizing=0.2)
RATE = 1_500  # prompts per second published
FATAL = 4  # the number of the job that the daemon does not survive
READY_WITHIN = 30.0  # seconds; the first join of the group alone takes three
DEADLINE = 120.0  # seconds after which a demo that is not done has failed
POLL = 0.1  # seconds between two looks at how far things are


def main(keep: bool, count: int = COUNT, pace: Pace = PACE) -> int:
    """The exit status: 0 when the audit holds. Prints what went wrong otherwise."""
    return play(lambda console: _run(console, keep, count, pace))


async def _run(console: Console, keep: bool, count: int, pace: Pace) -> int:
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluiced-demo-")))
        demo = await Demo.prepare(stack, home, count, pace)
        with Display(console) as display:
            await demo.run(display)
        crash = await demo.crash()
        if not keep:  # even its last words are audited
            await demo.stop()
        findings = demo.audit(crash)
        report(console, findings, crash, time.monotonic() - begun)
        if keep:
            await until_told(console, demo.addresses)
            await demo.stop()
    return 1 if findings.wrong else 0


class Demo:
    """The pieces, all of them running once `prepare` has returned."""

    def __init__(self, home: Path, keeper: Keeper, broker: str, admin: str, model: Model) -> None:
        self.answers: list[Answer] = []
        self.letters: list[Letter] = []
        self.model = model
        self.keeper = keeper
        self.daemon = Daemon(home / CONFIG, admin)
        self.stream = Stream(broker, TOPIC, PARTITIONS, ANSWERS, DEAD, alone=True)
        self.addresses = {"broker": broker, "admin port": f"http://{admin}"}
        self.prompts: list[Message] = []
        self._config = home / CONFIG
        self._crash: Crash | None = None

    @classmethod
    async def prepare(cls, stack: AsyncExitStack, home: Path, count: int, pace: Pace) -> Demo:
        """Starts everything; the stack stops it in reverse order."""
        port, admin_port = free_ports(2)
        embedded = stack.enter_context(EmbeddedBroker(behind=port))
        keeper = await stack.enter_async_context(Keeper(port, embedded.port))
        admin = f"127.0.0.1:{admin_port}"
        demo = cls(home, keeper, embedded.bootstrap, admin, Model(pace))
        demo.prompts = prompts(count)
        demo.model.answered = demo._after
        url = demo.addresses["provider"] = await stack.enter_async_context(served(demo.model))
        await stack.enter_async_context(demo.stream)
        replaced = {BROKER: embedded.bootstrap, API: url, ADMIN: admin}
        (home / CONFIG).write_text(configuration(CONFIG, replaced))
        (home / "openai-key").write_text("sk-of-the-demo")
        await stack.enter_async_context(demo.daemon)
        demo.daemon.start()
        await demo.daemon.ready(READY_WITHIN)
        return demo

    async def run(self, display: Display) -> None:
        """Until every prompt is somewhere and the checkpoint says so."""
        self._say = display.say
        publishing = asyncio.create_task(self.stream.publish(self.prompts, RATE))
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

    async def _read(self) -> bool:
        """Whether there was anything to be read."""
        arrived = await self.stream.arrived(POLL)
        self.letters += [letter(record) for record in arrived if record.topic == DEAD]
        self.answers += [_answer(record) for record in arrived if record.topic == ANSWERS]
        return bool(arrived)

    async def _after(self, verb: str) -> None:
        """Kills the daemon once, at the worst moment: the job is made, and it was not told so."""
        jobs = len(self.model.jobs)
        if self._crash is not None or verb != "create" or jobs < FATAL:
            return
        self.daemon.kill()
        noted = sum(self._is_noted(job) for job in self.model.jobs)
        self._crash = Crash(jobs, noted, 0)
        self._say(
            f"  SIGKILL to the daemon: {jobs} jobs are at the provider, {noted} of them in the "
            "checkpoint,\n  and it was never told that the last one was made; starting it again"
        )
        self.daemon.start()

    def _is_noted(self, job: str) -> bool:
        return any(job in text for _, text in self.keeper.kept.values())

    async def _settled(self, publishing: asyncio.Task[None]) -> bool:
        if not publishing.done():
            return False
        publishing.result()
        figures = self.figures()
        if figures.answered + figures.dead_lettered < figures.total:
            return False
        return await self.stream.checkpoint_is_complete(GROUP)

    def figures(self) -> Figures:
        jobs = self.model.jobs.values()
        return Figures(
            total=len(self.prompts),
            produced=len(self.stream.produced),
            answered=len({answer.coordinates for answer in self.answers}),
            dead_lettered=len({letter.coordinates for letter in self.letters}),
            jobs=len(jobs),
            at_work=sum(not job.over for job in jobs),
        )

    async def crash(self) -> Crash:
        """What the daemon that was started again has found by name. Fails without a crash."""
        if self._crash is None:
            self.daemon.fail("The daemon was never killed, so nothing was shown.")
        adopted = await self.daemon.counted("sluiced_jobs_total", outcome="adopted")
        return Crash(self._crash.jobs, self._crash.noted, adopted)

    async def stop(self) -> None:
        """Raises SluicedError unless the daemon drains and ends with status 0."""
        status = await self.daemon.stop()
        if status != 0:
            self.daemon.fail(f"The daemon did not stop cleanly: status {status}.")

    def audit(self, crash: Crash) -> Findings:
        config = tomllib.loads(self._config.read_text())
        prices = Prices(
            msgspec.convert(config["prices"], dict[str, PriceSettings], dec_hook=decode)
        )
        attempts = config["retry"]["max_item_attempts"]
        ledger = Ledger.of(self.model)
        produced = self.stream.produced
        findings = audit(produced, self.answers, self.letters, ledger, prices, attempts)
        if not crash.adopted:
            findings.wrong.append("the job of which the daemon was never told was not adopted")
        return findings


def _answer(record: ConsumerRecord[bytes, bytes]) -> Answer:
    headers = {name.removeprefix("sluiced."): value.decode() for name, value in record.headers}
    at = Coordinates(headers["topic"], int(headers["partition"]), int(headers["offset"]))
    taken, given = int(headers["input_tokens"]), int(headers["output_tokens"])
    usage = Usage(headers["model"], 1, taken, given)
    return Answer(at, record.key, record.value or b"", headers["job"], usage)

"""The demo of prompts, from start to end: jobs, a crash between a job and its answer, an audit."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
from aiokafka import ConsumerRecord
from rich.console import Console

from ....prices import Prices, PriceSettings, Usage
from ....units import decode
from ...embedded_broker import EmbeddedBroker, free_ports
from ..audit import Coordinates
from ..display import Display
from ..keeper import Keeper
from ..provider import Pace, served
from ..stage import Demo, play
from ..stream import Stream
from .audit import Answer, Ledger, audit
from .display import Crash, Figures, report
from .model import Model
from .prompts import prompts

TOPIC, PARTITIONS, ANSWERS = "cities", 4, "sentences"  # as in configs/demo-llm.toml
COUNT = 3_000  # prompts
PACE = Pace(validating=0.3, working=1.5, finalizing=0.2)
FATAL = 4  # the number of the job that the daemon does not survive


def main(keep: bool, count: int = COUNT, pace: Pace = PACE) -> int:
    """The exit status: 0 when the audit holds. Prints what went wrong otherwise."""
    return play(lambda stack, home: Sentences.prepare(stack, home, count, pace), keep)


class Sentences(Demo):
    """A sentence about each city, of a model that answers in batch jobs."""

    config, group, dead = "demo-llm.toml", "cities-to-llm", "cities.dead"
    rate = 1_500

    def __init__(self, home: Path, keeper: Keeper, broker: str, admin: str, model: Model) -> None:
        stream = Stream(broker, TOPIC, PARTITIONS, ANSWERS, self.dead, alone=True)
        super().__init__(home, broker, admin, stream)
        self.answers: list[Answer] = []
        self.model = model
        self.model.answered = self._after
        self.keeper = keeper
        self._crash: Crash | None = None

    @classmethod
    async def prepare(cls, stack: AsyncExitStack, home: Path, count: int, pace: Pace) -> Sentences:
        """Starts everything; the stack stops it in reverse order."""
        port, admin_port = free_ports(2)
        embedded = stack.enter_context(EmbeddedBroker(behind=port))
        keeper = await stack.enter_async_context(Keeper(port, embedded.port))
        admin = f"127.0.0.1:{admin_port}"
        demo = cls(home, keeper, embedded.bootstrap, admin, Model(pace))
        demo.messages = prompts(count)
        url = demo.addresses["provider"] = await stack.enter_async_context(served(demo.model))
        (home / "openai-key").write_text("sk-of-the-demo")
        await demo.start(stack, url)
        return demo

    async def run(self, display: Display) -> None:
        """Fails without a crash. What the daemon that was started again has found by name is asked
        before it stops."""
        await super().run(display)
        if self._crash is None:
            self.daemon.fail("The daemon was never killed, so nothing was shown.")
        adopted = await self.daemon.counted("sluiced_jobs_total", outcome="adopted")
        self._crash = replace(self._crash, adopted=adopted)

    def take(self, arrived: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        super().take(arrived)
        self.answers += [_answer(record) for record in arrived if record.topic == ANSWERS]

    async def _after(self, verb: str) -> None:
        """Kills the daemon once, at the worst moment: the job is made, and it was not told so."""
        jobs = len(self.model.jobs)
        if self._crash is not None or verb != "create" or jobs < FATAL:
            return
        self.daemon.kill()
        noted = sum(self._is_noted(job) for job in self.model.jobs)
        self._crash = Crash(jobs, noted, 0)
        self.say(
            f"  SIGKILL to the daemon: {jobs} jobs are at the provider, {noted} of them in the "
            "checkpoint,\n  and it was never told that the last one was made; starting it again"
        )
        self.daemon.start()

    def _is_noted(self, job: str) -> bool:
        return any(job in text for _, text in self.keeper.kept.values())

    def figures(self) -> Figures:
        jobs = self.model.jobs.values()
        return Figures(
            total=len(self.messages),
            produced=len(self.stream.produced),
            answered=len({answer.coordinates for answer in self.answers}),
            dead_lettered=len({letter.coordinates for letter in self.letters}),
            jobs=len(jobs),
            at_work=sum(not job.over for job in jobs),
        )

    def audited(self, console: Console, seconds: float) -> bool:
        assert self._crash is not None
        config = tomllib.loads(self.path.read_text())
        prices = Prices(
            msgspec.convert(config["prices"], dict[str, PriceSettings], dec_hook=decode)
        )
        attempts = config["retry"]["max_item_attempts"]
        ledger = Ledger.of(self.model)
        produced = self.stream.produced
        findings = audit(produced, self.answers, self.letters, ledger, prices, attempts)
        if not self._crash.adopted:
            findings.wrong.append("the job of which the daemon was never told was not adopted")
        report(console, findings, self._crash, seconds)
        return not findings.wrong


def _answer(record: ConsumerRecord[bytes, bytes]) -> Answer:
    headers = {name.removeprefix("sluiced."): value.decode() for name, value in record.headers}
    at = Coordinates(headers["topic"], int(headers["partition"]), int(headers["offset"]))
    taken, given = int(headers["input_tokens"]), int(headers["output_tokens"])
    usage = Usage(headers["model"], 1, taken, given)
    return Answer(at, record.key, record.value or b"", headers["job"], usage)

"""One run: brings everything up, lets the storm pass over it, waits for calm, and audits."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import anyio
from anyio import to_thread

from brokers.base import unique
from brokers.kafka import Kafka
from harness.daemon import Daemon

from .audit import Findings
from .fleet import Fleet
from .proxy import Proxy
from .schedule import Blow, Side, Storm, schedule
from .subject import Stage, Subject

MEMBERS = 3  # at most
_AT_FIRST = 2
_PARTITIONS = 6
_PRODUCED_BY = 0.97  # part of the storm's time in which all records are produced
_TICK = 0.05  # seconds between two portions of records
_SHOWN = 15  # last log lines of each daemon, where something is wrong
# Log lines that tell how the storm was weathered; their number goes into the report.
_COUNTED = {"assigned", "batch_abandoned", "fatal", "pipeline_halted", "stale_records_dropped"}
_COUNTED |= {"planned_batch_changed", "planned_batches_taken_apart", "foreign_metadata"}


@dataclass(frozen=True)
class Orders:
    """What to do. `calm` is how many seconds the group may take to finish once the storm is
    over."""

    storm: Storm
    records: int
    seed: int
    calm: float = 60.0


@dataclass(frozen=True)
class Verdict:
    """How it went. `text` is for people, and complete."""

    counts: dict[str, int]
    violations: list[str]
    text: str


class Conductor:
    """Everything of one run. `kafka` runs already; `say` is told what happens, line by line."""

    def __init__(
        self,
        kafka: Kafka,
        directory: Path,
        orders: Orders,
        subject: Subject,
        say: Callable[[str], None],
    ) -> None:
        self._kafka = kafka
        self._stage = Stage(kafka, directory, unique("chaos"), unique("group"))
        self._orders = orders
        self._subject = subject
        self._say = say
        self._random = Random(orders.seed)
        self._counts: Counter[str] = Counter()
        self._started = time.monotonic()
        self._acknowledged = 0
        self._busy = {deed: anyio.Lock() for deed in ("broker", "sink", "kill broker")}

    async def run(self) -> Verdict:
        stage = self._stage
        await self._kafka.create_topic(stage.topic, _PARTITIONS)
        for topic in (stage.dead, *self._subject.topics(stage)):
            await self._kafka.create_topic(topic)
        async with AsyncExitStack() as stack:
            api = stack.enter_context(self._subject.api(stage, self._orders.seed))
            self._proxies: dict[Side, Proxy] = {
                "broker": Proxy(
                    _port(self._kafka.listener("PROXIED")), _port(self._kafka.advertised("PROXIED"))
                ),
                "sink": Proxy(api.port),
            }
            for proxy in self._proxies.values():
                await stack.enter_async_context(proxy)
            fleet = await stack.enter_async_context(self._fleet())
            await self._storm(fleet)
            self._counts["seconds of storm"] = round(self._now())
            await to_thread.run_sync(api.calm)
            trouble = await self._drained()
            self._counts["seconds"] = round(self._now())
            codes = await fleet.stop()
            trouble += [f"{name}: exit code {c} at the end" for name, c in codes.items() if c]
            trouble += self._confessions(fleet)
            found = await self._subject.audit(stage, self._acknowledged)
            return self._verdict(found, trouble, fleet)

    # --- the storm ----------------------------------------------------------------------------

    @asynccontextmanager
    async def _fleet(self) -> AsyncIterator[Fleet]:
        daemons = [self._daemon(index) for index in range(MEMBERS)]
        fleet = Fleet(daemons, self._random)
        try:
            async with anyio.create_task_group() as tasks:
                fleet.start(_AT_FIRST, tasks)
                tasks.start_soon(self._subject.watch, self._stage)
                yield fleet
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await fleet.end()

    def _daemon(self, index: int) -> Daemon:
        """All but the last are static members: after a short absence they have their partitions
        back, and the group stands still only for those that stay away."""
        return Daemon(
            self._stage.directory,
            **{
                "bootstrap": self._kafka.advertised("PROXIED"),
                "group": self._stage.group,
                "topic": self._stage.topic,
                "dead": self._stage.dead,
                "kafka": f'group_instance_id = "{index}"' if index < MEMBERS - 1 else "",
                "max_age": "100ms",
                **self._subject.settings(
                    self._stage, f"http://127.0.0.1:{self._proxies['sink'].port}"
                ),
            },
        )

    async def _storm(self, fleet: Fleet) -> None:
        """Returns when the last blow has been dealt and has passed, and all is produced."""
        self._started = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._produce)
            for blow in schedule(self._orders.storm, self._orders.seed):
                await anyio.sleep(max(0.0, blow.at - self._now()))  # two may be close together
                self._say(f"{self._now():6.1f} s  {blow}")
                tasks.start_soon(self._strike, blow, fleet)

    async def _strike(self, blow: Blow, fleet: Fleet) -> None:
        match blow.deed:
            case "kill":
                await fleet.kill(blow.lasts)
            case "freeze":
                await fleet.freeze(blow.lasts)
            case "restart":
                await fleet.restart()
            case "join":
                await fleet.join()
            case "leave":
                await fleet.leave()
            case "kill broker":
                await self._kill_broker(blow.lasts)
            case "network":
                await self._disturb(blow)

    async def _kill_broker(self, down: float) -> None:
        async with self._busy["kill broker"]:
            self._counts["broker kills"] += 1
            await to_thread.run_sync(self._kafka.kill)
            await anyio.sleep(down)
            await to_thread.run_sync(self._kafka.start)

    async def _disturb(self, blow: Blow) -> None:
        """One fault at a time on each side; the next one waits."""
        assert blow.side is not None
        assert blow.fault is not None
        async with self._busy[blow.side]:
            self._counts[f"network to {blow.side}: {blow.fault.kind}"] += 1
            proxy = self._proxies[blow.side]
            await proxy.begin(blow.fault)
            await anyio.sleep(blow.lasts)
            await proxy.heal()

    async def _produce(self) -> None:
        """Directly to the broker, evenly over the time of the storm, whatever happens there."""
        orders, topic = self._orders, self._stage.topic
        sent: list[asyncio.Future[Any]] = []
        until = orders.storm.seconds * _PRODUCED_BY
        # A broker that was killed may need its time to come back.
        patient = {"enable_idempotence": True, "request_timeout_ms": 180_000}
        async with self._kafka.producer(**patient) as producer:
            while len(sent) < orders.records:
                due = min(orders.records, int(orders.records * self._now() / until) + 1)
                for number in range(len(sent), due):
                    m = self._subject.message(number, _PARTITIONS, self._random)
                    sent.append(await producer.send(topic, m.value, m.key, partition=m.partition))
                await anyio.sleep(_TICK)
            for future in sent:
                await future
        self._acknowledged = len(sent)

    # --- calm ---------------------------------------------------------------------------------

    async def _drained(self) -> list[str]:
        """Waits until everything is committed; what is wrong if that does not come to be."""
        ends = await self._kafka.end_offsets(self._stage.topic)
        deadline = time.monotonic() + self._orders.calm
        while (committed := await self._stage.committed()) != ends:
            if time.monotonic() > deadline:
                owed = {p: end - committed.get(p, 0) for p, end in ends.items()}
                return [f"not done {self._orders.calm:.0f} s after the storm; left over: {owed}"]
            await anyio.sleep(0.5)
        return []

    def _confessions(self, fleet: Fleet) -> list[str]:
        """What the daemons themselves say that must not be. An error that says what to do is none,
        a traceback is."""
        faults = []
        for member, event in fleet.events():
            name = event["event"]
            if name in _COUNTED | self._subject.counted:
                self._counts[f"logged {name}"] += 1
            if name in self._subject.never:
                faults.append(f"{member.name} logged {event}")
            if name == "fatal" and "exception" in event:
                faults.append(f"{member.name} crashed: {event['exception']}")
        for member in fleet.members:
            if "Traceback" in member.log() and not faults:
                faults.append(f"{member.name} printed a traceback; see its log")
        return faults

    def _verdict(self, found: Findings, trouble: Sequence[str], fleet: Fleet) -> Verdict:
        orders = self._orders
        counts = {**found.counts, **dict(sorted((self._counts + fleet.counts).items()))}
        violations = [*trouble, *found.violations]
        lines = [f"seed {orders.seed}, {self._subject}"]
        lines += [f"{count:>10,}  {what}" for what, count in counts.items()]
        lines += [f"VIOLATION  {violation}" for violation in violations]
        if not violations:
            lines.append(self._subject.sound)
        else:
            for member in fleet.members:
                lines += [f"the last lines of {member.name}:", *member.log().splitlines()[-_SHOWN:]]
        return Verdict(counts, violations, "\n".join(lines))

    def _now(self) -> float:
        """Seconds since the storm began."""
        return time.monotonic() - self._started


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])

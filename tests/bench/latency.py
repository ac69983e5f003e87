"""What the plan costs in time: from a window that is full to the request that carries it.

One window at a time is filled on an idle Apache Kafka, once for a sink that needs a plan and once
for one that does not. The daemon's own histogram tells how long the plan was under way; the clock
at the server tells what of it is left in the whole, from the producer's acknowledgement on.

Since version 4.0 a broker holds every offset commit back, for company, for as long as its setting
group.coordinator.append.linger.ms says: 5 ms by default. So there is a row with and one without.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from prometheus_client.parser import text_string_to_metric_families

from brokers.base import unique
from brokers.kafka import Kafka
from harness.api import Api, Call
from harness.daemon import Daemon

_WINDOW = 10
_WARM_UP = 20
_BOUND = "0.005"  # seconds; a bucket of the daemon's histogram


@dataclass(frozen=True)
class Latency:
    """Milliseconds. `within` is the part of the plans that took up to 5 ms, 1 where there are none.

    `commits` is how many the daemon made for each batch.
    """

    name: str
    p50: float
    p99: float
    within: float
    commits: float


async def latency(
    name: str, kafka: Kafka, directory: Path, identifies: str, windows: int
) -> Latency:
    """Fills so many windows, one after another, and times each."""
    topic, dead = unique("latency"), unique("latency-dead")
    await kafka.create_topic(topic)
    await kafka.create_topic(dead)
    arrived: asyncio.Queue[float] = asyncio.Queue()

    async def note(_: Call) -> None:
        arrived.put_nowait(time.monotonic())

    async def fill() -> float:
        """Seconds from the acknowledgement of a window's last record to its request."""
        sent = [await producer.send(topic, b"{}", partition=0) for _ in range(_WINDOW)]
        await asyncio.gather(*sent)
        acknowledged = time.monotonic()
        async with asyncio.timeout(30):
            return await arrived.get() - acknowledged

    seconds: list[float] = []
    rhythm = Random(1)
    async with Api(note) as api, kafka.producer(linger_ms=0) as producer:
        values = {"bootstrap": kafka.bootstrap, "group": unique("g"), "topic": topic, "dead": dead}
        values |= {"url": api.url, "sink": f'identifies = "{identifies}"'}
        values |= {"max_age": "60s", "max_records": str(_WINDOW)}
        async with Daemon(directory, **values) as daemon:
            await daemon.ready()
            for _ in range(windows + _WARM_UP):
                seconds.append(await fill())
                await asyncio.sleep(rhythm.uniform(0.005, 0.2))
            metrics = (await daemon.get("/metrics"))[1]
    times = sorted(seconds[_WARM_UP:])
    plans = _sample(metrics, "sluiced_plan_seconds_count")
    quick = _sample(metrics, "sluiced_plan_seconds_bucket", le=_BOUND)
    return Latency(
        name,
        times[len(times) // 2] * 1000,
        times[len(times) * 99 // 100] * 1000,
        quick / plans if plans else 1.0,
        _sample(metrics, "sluiced_commits_total", outcome="ok") / (windows + _WARM_UP),
    )


def _sample(text: str, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found)


def compare(jars: Path, directory: Path, windows: int) -> list[Latency]:
    """The sink without a plan first."""
    found = []
    for number, linger in enumerate(("0", "5")):
        (home := directory / f"kafka-{number}").mkdir()
        with Kafka(jars, home, {"group.coordinator.append.linger.ms": linger}) as kafka:
            for identifies in ("item", "batch") if linger == "0" else ("batch",):
                kind = "a plan" if identifies == "batch" else "no plan"
                name = f"{kind}, broker lingers {linger} ms"
                found.append(asyncio.run(latency(name, kafka, directory, identifies, windows)))
    return found

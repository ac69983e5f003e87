"""A limit of the default budget and 150 MB, enforced by the kernel, against a larger stream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from brokers.base import Message
from brokers.tansu import Tansu
from harness.api import Api, Call
from harness.cgroup import Cgroup
from harness.daemon import Daemon, until
from harness.machine import REPOSITORY
from harness.stream import make_stream
from harness.tools import require
from sluiced.gate import LimitSettings
from soak.run import MARGIN

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

RECORD = 600_000  # bytes
COUNT = 1200


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    limit = int(LimitSettings().memory) + MARGIN
    unit = (REPOSITORY / "systemd/sluiced@.service").read_text()
    [megabytes] = re.findall(r"^MemoryMax=(\d+)M$", unit, re.M)
    assert limit <= int(megabytes) * 1024**2, "the unit allows what it needs"
    try:
        made = Cgroup(limit)
    except OSError as error:
        require("memory cgroup", found=False, why=str(error))
    with made:
        yield made


async def test_an_api_that_stalls_before_a_large_backlog_does_not_cost_the_daemon_its_life(
    cgroup: Cgroup, tmp_path: Path
) -> None:
    released = anyio.Event()
    delivered: set[tuple[int, int]] = set()

    async def stall(call: Call) -> web.Response | None:
        await released.wait()
        delivered.update(
            call.coordinates
        )  # it may have come before, if this took longer than it waits
        call.items, call.body = [], b""  # 700 MB that need not be kept
        return None

    with Tansu() as broker:
        stream = await make_stream(broker, tmp_path)
        value = b'"%s"' % (b"x" * RECORD)
        messages = (Message(value, partition=n % 4) for n in range(COUNT))
        await broker.produce(stream.topic, messages)
        limits = {"window": 'max_bytes = "64MB"', "sink": 'max_bytes = "70MB"', "max_age": "2s"}
        async with Api(stall) as api, stream.daemon(api, **limits) as daemon:
            cgroup.take(daemon.process.pid)
            await daemon.ready()
            with anyio.fail_after(60):
                while await memory_used(daemon) < 0.75:
                    await anyio.sleep(0.1)
            released.set()
            await until(lambda: len(delivered) == COUNT, "all records", 120)
            assert await daemon.stop() == 0
    assert cgroup.kills == 0


async def memory_used(daemon: Daemon) -> float:
    """The part of the budget for records that is in use."""
    limits = {limit["name"]: limit for limit in (await daemon.status())["limits"]}
    return float(limits["memory"]["used"] / limits["memory"]["limit"])

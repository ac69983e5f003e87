"""The daemon's own redrive is never the line's concern."""

from __future__ import annotations

import anyio
import msgspec
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from sluiced.config import Config
from sluiced.metrics import Metrics
from sluiced.redrive.automatic import Redriver
from sluiced.tools.embedded_broker import free_ports
from sluiced.units import decode


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Rig:
    """A redriver of a cluster that is not there. `leads` says whether it is its turn."""

    def __init__(self, *, leads: bool = True) -> None:
        [port] = free_ports(1)
        config = msgspec.convert(
            {
                "name": "pages",
                "kafka": {
                    "bootstrap_servers": [f"127.0.0.1:{port}"],
                    "group_id": "g",
                    "topics": ["pages"],
                },
                "sink": {"type": "http", "url": "http://127.0.0.1:1/bulk"},
                "dead_letter": {"topic": "pages.dead", "retry_after": "1s"},
            },
            Config,
            dec_hook=decode,
        )
        self.registry = CollectorRegistry()
        self.asked = anyio.Event()
        self.leads = leads
        metrics = Metrics("pages", self.registry)
        self.redriver = Redriver(config, metrics, self._turn)

    def _turn(self) -> bool:
        self.asked.set()
        return self.leads

    def failed(self) -> float:
        labels = {"pipeline": "pages", "outcome": "failed"}
        return self.registry.get_sample_value("sluiced_redriven_total", labels) or 0.0


@pytest.mark.anyio
async def test_what_goes_wrong_is_logged_and_counted_and_does_not_end_it() -> None:
    rig, stop = Rig(), anyio.Event()
    with capture_logs() as lines, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rig.redriver.run, stop)
            while not rig.failed():
                await anyio.sleep(0.01)
            assert not rig.redriver.ended.is_set()
            stop.set()  # which it obeys also while it waits to try again
            await rig.redriver.ended.wait()
    [line] = [line for line in lines if line["event"] == "redrive_failed"]
    assert "cannot be used" in line["error"]
    assert line["again_in"] == 5.0
    assert line["exc_info"] is None, "a cluster that is not there is no bug"


@pytest.mark.anyio
async def test_nothing_is_asked_of_the_cluster_while_it_is_another_daemons_turn() -> None:
    rig, stop = Rig(leads=False), anyio.Event()
    with capture_logs() as lines, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rig.redriver.run, stop)
            await rig.asked.wait()
            stop.set()
    assert lines == []
    assert rig.failed() == 0

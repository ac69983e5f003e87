"""The daemon's own redrive is never the line's concern."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    TransactionalIdAuthorizationFailed,
    UnknownError,
)
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from sluiced.config import Config
from sluiced.errors import SourceError
from sluiced.metrics import Metrics
from sluiced.redrive import to_topic
from sluiced.redrive.automatic import Redriver
from sluiced.tools.embedded_broker import free_ports
from sluiced.units import decode


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def config() -> Config:
    [port] = free_ports(1)
    return msgspec.convert(
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


class Rig:
    """A redriver of a cluster that is not there. `leads` says whether it is its turn."""

    def __init__(self, *, leads: bool = True) -> None:
        self.registry = CollectorRegistry()
        self.asked = anyio.Event()
        self.leads = leads
        metrics = Metrics("pages", self.registry)
        self.redriver = Redriver(config(), metrics, self._turn)

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


class Producer:
    """One of aiokafka's that cannot begin transactions, for this reason."""

    why: Exception

    def __init__(self, **settings: Any) -> None:
        self._transactional = "transactional_id" in settings

    async def start(self) -> None:
        if self._transactional:
            raise self.why

    async def stop(self) -> None:
        pass


def _looked_up(why: Exception) -> Exception:
    """As aiokafka tells of a look-up of the coordinator."""
    error = KafkaError(repr(why))
    error.__cause__ = why
    return error


@pytest.mark.anyio
@pytest.mark.parametrize(
    "why",
    [TimeoutError(), KafkaConnectionError(), _looked_up(KafkaConnectionError())],
    ids=["timeout", "connection", "look-up"],
)
async def test_a_coordinator_that_is_away_is_not_taken_for_a_broker_without_transactions(
    why: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_topic, "AIOKafkaProducer", Producer)
    monkeypatch.setattr(Producer, "why", why, raising=False)
    with pytest.raises(SourceError, match="letters cannot be sent"):
        async with to_topic.to_topic(config(), "g.redrive", keep_timestamps=True):
            pass


@pytest.mark.anyio
@pytest.mark.parametrize("why", [UnknownError(), TransactionalIdAuthorizationFailed("g.redrive")])
async def test_a_broker_that_refuses_transactions_takes_letters_without_them(
    why: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_topic, "AIOKafkaProducer", Producer)
    monkeypatch.setattr(Producer, "why", why, raising=False)
    async with to_topic.to_topic(config(), "g.redrive", keep_timestamps=True) as target:
        assert not target.transactional

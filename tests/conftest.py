"""Fixtures of the whole suite: the event loop, and real brokers, each started once in a run.

Tests share a broker, so every topic and group has a name from `brokers.base.unique`. A test that
stops, kills or freezes a broker for long takes one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from brokers.base import Broker
from brokers.kafka import Kafka
from brokers.kafka_jars import KafkaUnavailableError, jars, skip_or_fail
from brokers.tansu import Tansu


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever needs Kafka's jars is marked as such, so that `-m "not kafka"` needs no Java."""
    for item in items:
        if "kafka_jars" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """aiokafka knows asyncio alone; the simulation overrides this with trio."""
    return "asyncio"


@pytest.fixture(scope="session")
def kafka_jars(pytestconfig: pytest.Config) -> Path:
    """Apache Kafka itself. Where it cannot be had, tests are skipped, or fail if this is CI."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            return jars()
    except KafkaUnavailableError as error:
        skip_or_fail(str(error))


@pytest.fixture(scope="session")
def kafka(kafka_jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with Kafka(kafka_jars, tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def tansu() -> Iterator[Tansu]:
    with Tansu() as broker:
        yield broker


@pytest.fixture(scope="session", params=["tansu", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> Broker:
    """The broker that all of these tests share, once as Tansu and once as Apache Kafka."""
    shared: Broker = request.getfixturevalue(request.param)
    return shared


@pytest.fixture
def own_kafka(kafka_jars: Path, tmp_path: Path) -> Iterator[Kafka]:
    """A Kafka for one test alone, which may do to it what it likes. It costs about 5 s."""
    with Kafka(kafka_jars, tmp_path) as broker:
        yield broker

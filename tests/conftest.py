"""Fixtures of the whole suite: the event loop, and real brokers, each started once in a run.

Tests share a broker, so every topic and group has a name from `brokers.base.unique`. A test that
stops, kills or freezes a broker for long takes one of its own.
"""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from brokers.base import Broker
from brokers.kafka import Kafka
from brokers.kafka_jars import KafkaUnavailableError, jars, skip_or_fail
from brokers.tansu import Tansu
from databases.postgres import Postgres, programs
from harness.maven import UnavailableError
from harness.tools import require
from search.opensearch import OPENSEARCH, OpenSearch

EXAMPLE = Path(__file__).parents[1] / "docs/example"


def pytest_configure() -> None:
    """What a shell starts in the background ignores SIGINT, and so would all that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # How busy the machine is, is not what is tested.
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("unhurried", deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("unhurried")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever needs the jars of a server is marked as such, so that `-m "not kafka and not
    opensearch"` needs no Java."""
    for item in items:
        needed = getattr(item, "fixturenames", ())
        if "kafka_jars" in needed:
            item.add_marker(pytest.mark.kafka)
        if "opensearch" in needed:
            item.add_marker(pytest.mark.opensearch)


@pytest.fixture(autouse=True)
def logs() -> None:
    """What one test has configured of logging is not the next one's."""
    structlog.reset_defaults()


@pytest.fixture
def collected() -> Iterator[None]:
    """What a test leaves to the garbage collector is found in that test."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """aiokafka knows asyncio alone; the simulation overrides this with trio."""
    return "asyncio"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where docs/example, a package with sinks of somebody else's, is installed and importable
    from."""
    target = tmp_path_factory.mktemp("site")
    pip = f"{sys.executable} -m pip install --quiet --disable-pip-version-check --no-deps"
    command = [*pip.split(), "--target", str(target), str(EXAMPLE)]
    subprocess.run(command, check=True, capture_output=True)
    sys.path.insert(0, str(target))
    yield target
    sys.path.remove(str(target))


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL that tests share; each takes a database of its own."""
    require("initdb", found=programs() is not None)
    with Postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL for one test alone, which may do to it what it likes. It costs about 1 s."""
    require("initdb", found=programs() is not None)
    with Postgres() as server:
        yield server


@pytest.fixture
def own_kafka(kafka_jars: Path, tmp_path: Path) -> Iterator[Kafka]:
    """A Kafka for one test alone, which may do to it what it likes. It costs about 5 s."""
    with Kafka(kafka_jars, tmp_path) as broker:
        yield broker


@pytest.fixture(scope="session")
def opensearch(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenSearch]:
    """A real OpenSearch, up after about 4 s. Every index on it has a name of its test's own."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            jars = OPENSEARCH.fetched()
    except UnavailableError as error:
        OPENSEARCH.skip_or_fail(str(error))
    with OpenSearch(jars, tmp_path_factory.mktemp("opensearch")) as server:
        yield server

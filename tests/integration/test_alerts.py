"""The alerts, fired by a real Prometheus about a real daemon in real trouble."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from brokers.base import Message
from brokers.kafka import Kafka
from brokers.tansu import Tansu
from harness.api import Api, Call, Picky
from harness.daemon import Daemon, until
from harness.prometheus import GRAFANA, Prometheus
from harness.stream import Stream, make_stream

pytestmark = pytest.mark.anyio

OF_PROMETHEUS = {"up", "ALERTS"}


@pytest.fixture
async def stream(tansu: Tansu, tmp_path: Path) -> Stream:
    return await make_stream(tansu, tmp_path)


def watching(daemon: Daemon, directory: Path) -> Prometheus:
    return Prometheus(directory, [f"127.0.0.1:{daemon.port}"])


async def test_an_api_that_is_down_fires_an_outage_until_it_is_back(
    stream: Stream, tmp_path: Path
) -> None:
    down = True

    async def fail(_: Call) -> web.Response | None:
        return web.Response(status=503) if down else None

    await stream.produce(40)
    async with (
        Api(fail) as api,
        stream.daemon(api) as daemon,
        watching(daemon, tmp_path) as prometheus,
    ):
        labels = await prometheus.until_firing("SluicedSinkOutage")
        assert (labels["pipeline"], labels["severity"]) == ("pages", "critical")
        assert "SluicedStalled" not in await prometheus.firing(), "the outage explains it"
        down = False
        await until(lambda: len(api.delivered()) == 40, "40 records")
        await prometheus.until_silent("SluicedSinkOutage")


async def test_one_refused_record_among_good_ones_fires_dead_letters_with_the_reason(
    stream: Stream, tmp_path: Path
) -> None:
    async with (
        Api() as api,
        stream.daemon(api) as daemon,
        watching(daemon, tmp_path) as prometheus,
    ):
        # An increase is one above what was seen before.
        await prometheus.until_scraped("sluiced_records_dead_lettered_total")
        await daemon.ready()
        await stream.broker.produce(stream.topic, [Message(b"{not json", partition=0)])
        labels = await prometheus.until_firing("SluicedDeadLetters")
        assert (labels["topic"], labels["reason"]) == (stream.topic, "invalid")


async def test_a_record_that_dies_again_after_its_last_redrive_fires_given_up(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    retrying = 'retry_after = "1s"\nmax_redrives = 1'
    async with (
        Api(Picky()) as api,
        stream.daemon(api, dead_letter=retrying) as daemon,
        watching(daemon, tmp_path) as prometheus,
    ):
        await prometheus.until_scraped("sluiced_redriven_total")
        await daemon.ready()
        await kafka.produce(stream.topic, [Message(b'{"refuse":1}', partition=0)])
        labels = await prometheus.until_firing("SluicedRedriveGivenUp")
        assert (labels["pipeline"], labels["outcome"]) == ("pages", "given_up")


async def test_a_pipeline_that_has_halted_fires_until_a_person_lifts_the_halt(
    stream: Stream, tmp_path: Path
) -> None:
    refusing = True

    async def refuse(_: Call) -> web.Response | None:
        return web.Response(status=400) if refusing else None

    await stream.produce(40)
    async with (
        Api(refuse) as api,
        stream.daemon(api, dead_letter="max_ratio_window = 20") as daemon,
        watching(daemon, tmp_path) as prometheus,
    ):
        labels = await prometheus.until_firing("SluicedHalted")
        assert labels["pipeline"] == "pages"
        refusing = False
        daemon.signal(signal.SIGHUP)
        await prometheus.until_silent("SluicedHalted")


async def test_records_that_retention_deletes_before_they_are_delivered_are_a_lost_range(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)

    async def fail(_: Call) -> web.Response | None:
        return web.Response(status=503)

    await stream.produce(400)
    async with (
        Api(fail) as api,
        stream.daemon(api) as daemon,
        watching(daemon, tmp_path) as prometheus,
    ):
        await until(lambda: api.calls, "a request")
        await kafka.delete_records(stream.topic, 2, 50)
        labels = await prometheus.until_firing("SluicedLostRange")
        assert (labels["topic"], labels["partition"]) == (stream.topic, "2")


async def test_a_daemon_that_was_killed_fires_down(stream: Stream, tmp_path: Path) -> None:
    async with (
        Api() as api,
        stream.daemon(api) as daemon,
        watching(daemon, tmp_path) as prometheus,
    ):
        await prometheus.until_scraped("up == 1")
        await daemon.kill()
        labels = await prometheus.until_firing("SluicedDown")
        assert labels["instance"] == f"127.0.0.1:{daemon.port}"


async def test_what_dashboards_and_alerts_ask_for_is_on_the_page_of_a_daemon(
    stream: Stream,
) -> None:
    wanted = set()
    for path in (GRAFANA / "alerts.yml", *GRAFANA.glob("*.json")):
        wanted |= set(re.findall(r"\b(?:sluiced|process)_[a-z_]+\b", path.read_text()))
    assert len(wanted) > 30, "nothing was found to look for"
    await stream.produce(4)
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 4, "4 records")
        shown: set[str] = set()
        with anyio.fail_after(60):  # the lag is looked up every few seconds
            while not wanted <= shown:
                shown = exposed((await daemon.get("/metrics"))[1])
                await anyio.sleep(0.1)


def exposed(page: str) -> set[str]:
    """The names of all series, and of families that have none yet."""
    names = set()
    for family in text_string_to_metric_families(page):
        names |= {sample.name for sample in family.samples}
        names |= {f"{family.name}_total"} if family.type == "counter" else {family.name}
    return names

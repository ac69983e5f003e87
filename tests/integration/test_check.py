"""`sluiced check --connect`, as it is typed, on a real broker: what does not go together is told at
once, and what has been mended is told no more."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from brokers.base import Broker, Message, unique
from brokers.kafka import Kafka
from brokers.tansu import Tansu
from harness.api import Api, Call
from harness.cli import sluiced
from harness.daemon import until
from harness.stream import make_stream
from sluiced.tools.demo.openai_api import OpenAI
from sluiced.tools.demo.provider import served

pytestmark = pytest.mark.anyio

ODD = """\
name = "pages"

[kafka]
bootstrap_servers = ["{bootstrap}"]
group_id = "{group}"
topics = ["{topic}"]
session_timeout = "5s"

[window]
align = "15m"
active = "22:00-06:00 UTC"

[sink]
type = "http"
url = "{url}"
idempotency_header = "Idempotency-Key"
connect_timeout = "60s"
timeout = "60s"

[retry]
give_up_after = "1m"

[shutdown]
drain = "3m"

[dead_letter]
topic = "{dead}"
retry_after = "3d"
"""
MENDED = {
    'session_timeout = "5s"': 'session_timeout = "45s"',
    'align = "15m"': 'align = "15m"\nmax_age = "15m"',
    'connect_timeout = "60s"': 'connect_timeout = "5s"',
    'give_up_after = "1m"': 'give_up_after = "2m"',
    'drain = "3m"': 'drain = "75s"',
    'retry_after = "3d"': 'retry_after = "15m"',
}


async def test_all_conflicts_of_a_configuration_are_told_at_once_each_with_a_fix(
    kafka: Kafka, tmp_path: Path
) -> None:
    topic, dead = unique("pages"), unique("dead")
    hour = {"retention.ms": "3600000", "retention.bytes": "1048576"}
    await kafka.create_topic(topic, config=hour | {"message.timestamp.type": "LogAppendTime"})
    await kafka.create_topic(dead)
    async with Api() as api:
        text = ODD.format(
            bootstrap=kafka.bootstrap, group=unique("group"), topic=topic, dead=dead, url=api.url
        )
        path = tmp_path / "pages.toml"
        path.write_text(text)
        found = await sluiced("check", path, "--connect")
        for odd, mended in MENDED.items():
            assert odd in text
            text = text.replace(odd, mended)
        path.write_text(text.replace('active = "22:00-06:00 UTC"\n', ""))
        good = await sluiced("check", path, "--connect")
    assert found.code == good.code == 0, found.err
    said = found.err.splitlines()
    beginnings = [
        "warning: kafka.session_timeout = 5s: brokers take 6s to 30m",
        "warning: sink.connect_timeout = 1m: not below sink.timeout = 1m",
        "warning: shutdown.drain = 3m: a rebalance may take 200s",
        "warning: retry.give_up_after = 1m: not above sink.timeout = 1m",
        'warning: window.align = "15m": window.max_age = 2s closes windows before',
        f"warning: dead_letter.retry_after: {dead} keeps letters for 7d",
        "warning: window.active = 22:00-06:00 UTC: nothing is released for up to 16h, and "
        f"{topic} keeps its records for 1h (retention.ms)",
        f"warning: {topic} keeps no more than 1MiB of each partition",
    ]
    assert len(said) == len(beginnings), found.err
    for line, beginning in zip(said, beginnings, strict=True):
        assert line.startswith(beginning), line
    assert good.err == ""


def jobs(broker: Broker, url: str, topic: str, dead: str, answers: str) -> str:
    return f"""
name = "pages"
kafka = {{ bootstrap_servers = ["{broker.bootstrap}"], group_id = "g", topics = ["{topic}"] }}
dead_letter = {{ topic = "{dead}" }}
results = {{ topic = "{answers}" }}
[retry]
max_item_attempts = ATTEMPTS
[sink]
type = "openai-batch"
api_key = {{ env = "LLM_KEY" }}
base_url = "{url}/v1"
"""


async def told_of_jobs(broker: Broker, directory: Path, attempts: int) -> str:
    """The line about jobs of a check with `--connect`."""
    names = [unique(name) for name in ("prompts", "dead", "answers")]
    for name in names:
        await broker.create_topic(name)
    path = directory / "jobs.toml"
    async with served(OpenAI()) as url:
        path.write_text(jobs(broker, url, *names).replace("ATTEMPTS", str(attempts)))
        checked = await sluiced("check", path, "--connect")
    assert checked.code == 0, checked.err
    lines: list[str] = checked.out.splitlines()
    [line] = [line for line in lines if line.startswith("jobs: a checkpoint")]
    return line


async def test_as_many_jobs_fit_as_the_broker_has_room_for(
    kafka_jars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_KEY", "hunter2")
    with Kafka(kafka_jars, tmp_path, {"offset.metadata.max.bytes": "1000"}) as kafka:
        few = await told_of_jobs(kafka, tmp_path, 5)
        more = await told_of_jobs(kafka, tmp_path, 1)
    room = "jobs: a checkpoint's metadata has 1000 bytes, which is"
    assert few == f"{room} 3 of a partition with 5 attempts each"
    assert more == f"{room} 11 of a partition with 1 attempts each"


async def test_of_a_broker_that_does_not_say_how_much_room_it_has_kafkas_own_is_assumed(
    tansu: Tansu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_KEY", "hunter2")
    said = await told_of_jobs(tansu, tmp_path, 5)
    room = "jobs: a checkpoint's metadata has 4096 bytes, which is"
    assert said == f"{room} 14 of a partition with 5 attempts each"


async def test_a_job_that_takes_longer_than_its_topic_keeps_prompts_is_warned_of(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_KEY", "hunter2")
    topic, dead, answers = unique("prompts"), unique("dead"), unique("answers")
    for name in (dead, answers):
        await kafka.create_topic(name)
    day = {"retention.ms": "86400000", "message.timestamp.type": "LogAppendTime"}
    await kafka.create_topic(topic, config=day)
    async with served(OpenAI()) as url:
        text = jobs(kafka, url, topic, dead, answers)
        path = tmp_path / "jobs.toml"
        path.write_text(text.replace("ATTEMPTS", "2"))
        short = await sluiced("check", path, "--connect")
        path.write_text(text.replace("ATTEMPTS", "1"))
        long = await sluiced("check", path, "--connect")
    assert (short.code, long.code) == (0, 0), short.err
    assert "retry.max_item_attempts = 2: a job may take 2d" in short.err
    assert f"{topic} keeps its records for 1d (retention.ms)" in short.err
    assert "a job may take" not in long.err


async def test_a_running_daemon_tells_check_how_long_its_batches_take(
    tansu: Tansu, tmp_path: Path
) -> None:
    """Batches of 100 records take more than half of the timeout."""

    async def slow(call: Call) -> web.Response:
        await anyio.sleep(1.8)
        return web.Response(text="[]")

    stream = await make_stream(tansu, tmp_path)
    await tansu.produce(stream.topic, [Message(b'{"n":%d}' % n) for n in range(200)])
    async with Api(slow) as api, stream.daemon(api, sink='timeout = "3s"') as daemon:
        await daemon.ready()
        await until(lambda: len(api.calls) >= 2, "two batches")
        await until(lambda: daemon.events("batch_answered"), "an answer")
        checked = await sluiced("check", daemon.path, "--connect")
        text = daemon.path.read_text()
        other = tmp_path / "other.toml"
        other.write_text(text.replace('timeout = "3s"', 'timeout = "9s"'))
        roomy = await sluiced("check", other, "--connect")
        assert await daemon.stop() == 0
    assert checked.code == 0, checked.err
    slowest = r"sink.timeout = 3s: the slowest of the running daemon's last batches took [12]\."
    assert re.search(slowest, checked.err), checked.err
    assert "sink.timeout" not in roomy.err

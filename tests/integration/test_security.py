"""TLS and SASL as configured in [kafka.tls] and [kafka.sasl], against Apache Kafka's listeners."""

from __future__ import annotations

from pathlib import Path

import pytest

from brokers.base import Message, unique
from brokers.kafka import Kafka
from brokers.security import PASSWORD, USER, oauth_token
from harness.api import Api
from harness.daemon import until
from harness.stream import make_stream
from sluiced.errors import ConfigError, SourceError
from sluiced.kafka import KafkaSettings, SaslSettings, TlsSettings, describe
from sluiced.units import Secret

# aiokafka leaves the sockets of refused handshakes to the garbage collector.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def settings(
    kafka: Kafka, listener: str, topic: str, sasl: SaslSettings | None = None, **tls: str
) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=[kafka.listener(listener)],
        group_id=unique("group"),
        topics=[topic],
        tls=TlsSettings(**{"ca": str(kafka.certificates.ca), **tls}),
        sasl=sasl,
    )


@pytest.fixture
async def topic(kafka: Kafka) -> str:
    name = unique("secret")
    await kafka.create_topic(name, partitions=3)
    return name


async def test_tls_alone_connects(kafka: Kafka, topic: str) -> None:
    assert await describe(settings(kafka, "SSL", topic), [topic]) == {topic: 3}


async def test_a_client_certificate_connects(kafka: Kafka, topic: str) -> None:
    client = str(kafka.certificates.client)
    assert await describe(settings(kafka, "MTLS", topic, cert=client, key=client), [topic])


async def test_a_certificate_that_is_not_trusted_is_refused(kafka: Kafka, topic: str) -> None:
    untrusting = KafkaSettings(
        bootstrap_servers=[kafka.listener("SSL")],
        group_id="g",
        topics=[topic],
        tls=TlsSettings(),
    )
    with pytest.raises(SourceError, match=r"Check kafka.bootstrap_servers.*\[kafka.tls\]"):
        await describe(untrusting, [topic])


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_password_connects_and_a_wrong_one_does_not(
    kafka: Kafka, topic: str, tmp_path: Path, mechanism: str
) -> None:
    (tmp_path / "right").write_text(PASSWORD)
    (tmp_path / "wrong").write_text("wrong-password")

    def sasl(name: str) -> SaslSettings:
        password = Secret(file=str(tmp_path / name))
        return SaslSettings(mechanism=mechanism, username=USER, password=password)  # type: ignore[arg-type]

    assert await describe(settings(kafka, "SASL_SSL", topic, sasl("right")), [topic]) == {topic: 3}
    with pytest.raises(SourceError) as error:
        await describe(settings(kafka, "SASL_SSL", topic, sasl("wrong")), [topic])
    assert "wrong-password" not in str(error.value)


async def test_a_token_comes_from_a_file_or_a_command(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(oauth_token())
    file = SaslSettings(mechanism="OAUTHBEARER", token_file=str(tmp_path / "token"))
    command = SaslSettings(mechanism="OAUTHBEARER", token_command=["cat", str(tmp_path / "token")])
    for sasl in (file, command):
        assert await describe(settings(kafka, "SASL_SSL", topic, sasl), [topic]) == {topic: 3}


@pytest.mark.parametrize("mechanism", ["PLAIN", "OAUTHBEARER"])
def test_a_readable_secret_is_refused_without_tls(mechanism: str) -> None:
    sasl = (
        SaslSettings(mechanism="PLAIN", username="u", password=Secret(env="P"))
        if mechanism == "PLAIN"
        else SaslSettings(mechanism="OAUTHBEARER", token_file="token")
    )
    with pytest.raises(ValueError, match="without TLS"):
        KafkaSettings(bootstrap_servers=["localhost:1"], group_id="g", topics=["t"], sasl=sasl)


def test_a_missing_certificate_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"kafka.tls.ca: there is no file /nowhere/ca.pem"):
        TlsSettings(ca="/nowhere/ca.pem").context()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "OAUTHBEARER"])
async def test_the_daemon_consumes_commits_and_buries_over_tls_and_sasl(
    kafka: Kafka, tmp_path: Path, mechanism: str
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.broker.produce(
        stream.topic, [Message(v, partition=0) for v in (b"1", b"{broken", b"2")]
    )
    (tmp_path / "secret").write_text(PASSWORD if mechanism.startswith("SCRAM") else oauth_token())
    secret = tmp_path / "secret"
    sasl = (
        f'username = "{USER}", password = {{ file = "{secret}" }}'
        if mechanism.startswith("SCRAM")
        else f'token_file = "{secret}"'
    )
    values = {
        "bootstrap": kafka.listener("SASL_SSL"),
        "kafka": f'tls = {{ ca = "{kafka.certificates.ca}" }}\n'
        f'sasl = {{ mechanism = "{mechanism}", {sasl} }}',
    }
    async with Api() as api, stream.daemon(api, **values) as daemon:
        await until(lambda: len(api.delivered()) == 2, "both good records")
        await until(lambda: len(daemon.events("dead_lettered")) == 1, "the burial")
        assert await daemon.stop() == 0
        assert secret.read_text() not in daemon.log
    assert await stream.checkpoints() == {0: 3}
    assert [letter.value for letter in await kafka.read(stream.dead)] == [b"{broken"]

"""Apache Kafka, as the jars that a broker runs on."""

from __future__ import annotations

from pathlib import Path

from harness.maven import Jars, UnavailableError

KAFKA = Jars(
    "Apache Kafka",
    Path(__file__).resolve().parent.parent / "pom.xml",
    "kafka_2.13",
    java=17,  # Kafka 4 brokers, https://kafka.apache.org/41/getting-started/compatibility/
    variable="SLUICED_REQUIRE_KAFKA",
)
KafkaUnavailableError = UnavailableError
jars, skip_or_fail, version = KAFKA.fetched, KAFKA.skip_or_fail, KAFKA.version

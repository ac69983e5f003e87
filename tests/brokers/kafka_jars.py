"""The jars of Apache Kafka, fetched from Maven Central once and kept in the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

TESTS = Path(__file__).resolve().parent.parent
POM = TESTS / "pom.xml"
CACHE = TESTS.parent / ".cache"
JAVA_NEEDED = 17  # Kafka 4 brokers, https://kafka.apache.org/41/getting-started/compatibility/
_FETCH_SECONDS = 90  # below the time limit of one test, so that it is this that speaks


class KafkaUnavailableError(Exception):
    """This machine cannot run Apache Kafka; the message says what it lacks."""


def skip_or_fail(reason: str, environment: Mapping[str, str] = os.environ) -> NoReturn:
    """Ends the test: as skipped, or as failed where Kafka is not optional.

    That is in CI (CI=true) and wherever SLUICED_REQUIRE_KAFKA=1.
    """
    required = environment.get("CI") == "true" or environment.get("SLUICED_REQUIRE_KAFKA") == "1"
    if required:
        pytest.fail(f"Apache Kafka is required here, but: {reason}", pytrace=False)
    pytest.skip(f"no Apache Kafka: {reason}")


def version() -> str:
    """The version of Kafka that the pom asks for."""
    found = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>(.+?)<", POM.read_text())
    assert found is not None, f"{POM.name} names no version of kafka_2.13"
    return found[1]


def jars(say: Callable[[str], object] = print) -> Path:
    """The directory with all jars, fetched now if this is the first time.

    Raises KafkaUnavailableError if Java or Maven are missing, or if Maven cannot fetch the jars.
    """
    _require_java()
    kept = CACHE / f"kafka-{version()}"
    # The pom a set was made from lies beside the jars: another pom makes another set.
    if not _same_text(kept / POM.name, POM):
        say(f"Fetching Apache Kafka {version()} from Maven Central, once.")
        _fetch(kept)
    return kept


def _require_java() -> None:
    if shutil.which("java") is None:
        raise KafkaUnavailableError(f"no `java` on PATH; Kafka needs Java {JAVA_NEEDED} or newer")
    says = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', says)
    if found is None or int(found[1]) < JAVA_NEEDED:
        first = says.partition("\n")[0]
        raise KafkaUnavailableError(f"Kafka needs Java {JAVA_NEEDED} or newer; `java` is {first}")


def _same_text(one: Path, other: Path) -> bool:
    return one.exists() and one.read_bytes() == other.read_bytes()


def _fetch(kept: Path) -> None:
    if shutil.which("mvn") is None:
        raise KafkaUnavailableError("no `mvn` on PATH; Maven fetches Kafka's jars")
    CACHE.mkdir(exist_ok=True)
    # Made aside and moved into place: a set that exists is complete.
    with tempfile.TemporaryDirectory(dir=CACHE) as aside:
        made = Path(aside) / "jars"
        _run_maven(made)
        shutil.copy(POM, made / POM.name)
        shutil.rmtree(kept, ignore_errors=True)
        made.rename(kept)


def _run_maven(directory: Path) -> None:
    command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
    try:
        subprocess.run(
            [*command, f"-DoutputDirectory={directory}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_FETCH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise KafkaUnavailableError(f"Maven fetched no jars within {_FETCH_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        raise KafkaUnavailableError(f"Maven could not fetch the jars:\n{error.stdout}") from None

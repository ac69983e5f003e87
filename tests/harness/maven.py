"""Servers that are written in Java: their jars, fetched from Maven Central once and kept in the
checkout."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".cache"
_FETCH_SECONDS = 90  # below the time limit of one test, so that it is this that speaks


class UnavailableError(Exception):
    """This machine cannot run the server; the message says what it lacks."""


@dataclass(frozen=True)
class Jars:
    """The jars of `name`, which needs this Java: what the pom names, of which `artifact` has the
    server's version. `variable` in the environment makes the server one that tests must not do
    without."""

    name: str
    pom: Path
    artifact: str
    java: int
    variable: str

    def version(self) -> str:
        """The version that the pom asks for."""
        pattern = rf"<artifactId>{re.escape(self.artifact)}</artifactId>\s*<version>(.+?)<"
        found = re.search(pattern, self.pom.read_text())
        assert found is not None, f"{self.pom.name} names no version of {self.artifact}"
        return found[1]

    def skip_or_fail(self, reason: str, environment: Mapping[str, str] = os.environ) -> NoReturn:
        """Ends the test: as skipped, or as failed where the server is not optional.

        That is in CI (CI=true) and wherever `variable` is 1.
        """
        if environment.get("CI") == "true" or environment.get(self.variable) == "1":
            pytest.fail(f"{self.name} is required here, but: {reason}", pytrace=False)
        pytest.skip(f"no {self.name}: {reason}")

    def fetched(self, say: Callable[[str], object] = print) -> Path:
        """The directory with all jars, fetched now if this is the first time.

        Raises UnavailableError if Java or Maven are missing, or if Maven cannot fetch the jars.
        """
        self._require_java()
        kept = CACHE / f"{self.artifact}-{self.version()}"
        CACHE.mkdir(exist_ok=True)
        with (CACHE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one fetches
            # The pom a set was made from lies beside the jars: another pom makes another set.
            if not _same_text(kept / "pom.xml", self.pom):
                say(f"Fetching {self.name} {self.version()} from Maven Central, once.")
                self._fetch(kept)
        return kept

    def _require_java(self) -> None:
        needed = f"{self.name} needs Java {self.java} or newer"
        if shutil.which("java") is None:
            raise UnavailableError(f"no `java` on PATH; {needed}")
        asked = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
        found = re.search(r'version "(\d+)', asked.stderr)
        if found is None or int(found[1]) < self.java:
            first = asked.stderr.partition("\n")[0]
            raise UnavailableError(f"{needed}; `java` is {first}")

    def _fetch(self, kept: Path) -> None:
        if shutil.which("mvn") is None:
            raise UnavailableError(f"no `mvn` on PATH; Maven fetches the jars of {self.name}")
        # Made aside and moved into place: a set that exists is complete.
        with tempfile.TemporaryDirectory(dir=CACHE) as aside:
            made = Path(aside) / "jars"
            self._run_maven(made)
            shutil.copy(self.pom, made / "pom.xml")
            shutil.rmtree(kept, ignore_errors=True)
            made.rename(kept)

    def _run_maven(self, directory: Path) -> None:
        command = ["mvn", "-q", "-B", "-f", str(self.pom), "dependency:copy-dependencies"]
        try:
            subprocess.run(
                [*command, f"-DoutputDirectory={directory}"],
                capture_output=True,
                text=True,
                check=True,
                timeout=_FETCH_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"Maven fetched no jars within {_FETCH_SECONDS} s") from None
        except subprocess.CalledProcessError as error:
            raise UnavailableError(f"Maven could not fetch the jars:\n{error.stdout}") from None


def _same_text(one: Path, other: Path) -> bool:
    return one.exists() and one.read_bytes() == other.read_bytes()

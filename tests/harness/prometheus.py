"""A real Prometheus with our alert rules, in a hurry: it scrapes five times a second."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import anyio

from harness.tools import require
from sluiced.tools.embedded_broker import free_ports

GRAFANA = Path(__file__).resolve().parent.parent.parent / "grafana"
ALERTS = GRAFANA / "alerts.yml"

# JSON, which YAML includes.
_CONFIG = {"global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"}}


class Prometheus:
    """Scrapes the admin ports at `targets`, "host:port" each. An async context manager."""

    def __init__(self, directory: Path, targets: Sequence[str]) -> None:
        [port] = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        rules = directory / "alerts.yml"
        # What is true for one evaluation is true for as long as the rule asks.
        rules.write_text(re.sub(r"^ +for: .*\n", "", ALERTS.read_text(), flags=re.M))
        job = {"job_name": "sluiced", "static_configs": [{"targets": list(targets)}]}
        config = directory / "prometheus.yml"
        config.write_text(
            json.dumps(_CONFIG | {"rule_files": [str(rules)], "scrape_configs": [job]})
        )
        self._log = directory / "prometheus.log"
        self._command = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        require("prometheus", found=shutil.which("prometheus") is not None)
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=log, stderr=log
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is not None:
            print(self._log.read_text()[-5000:])
        self._process.kill()
        await self._process.wait()

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that the expression has now; none while Prometheus is not up."""
        return list((await self._get("query", query=expression)).get("result", []))

    async def firing(self) -> dict[str, dict[str, str]]:
        """The labels of each alert that is firing, by its name."""
        alerts = (await self._get("alerts")).get("alerts", [])
        return {
            alert["labels"]["alertname"]: alert["labels"]
            for alert in alerts
            if alert["state"] == "firing"
        }

    async def until_scraped(self, expression: str) -> None:
        await self._until(lambda: self.query(expression), f"{expression} to have a value")

    async def until_firing(self, alert: str) -> dict[str, str]:
        """The labels of the alert, as soon as it fires."""

        async def fires() -> dict[str, str] | None:
            return (await self.firing()).get(alert)

        return dict(await self._until(fires, f"{alert} to fire"))

    async def until_silent(self, alert: str) -> None:
        async def silent() -> bool:
            return alert not in await self.firing()

        await self._until(silent, f"{alert} to end")

    async def _until(self, ask: Any, what: str, seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (answer := await ask()):
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
            await anyio.sleep(0.05)
        return answer

    async def _get(self, what: str, **parameters: str) -> dict[str, Any]:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{self.url}/api/v1/{what}", params=parameters) as answer,
            ):
                return dict((await answer.json()).get("data", {})) if answer.ok else {}
        except aiohttp.ClientError:
            return {}

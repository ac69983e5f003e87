"""The daemon as the demo runs it: a process of its own on a configuration file of its own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from ...errors import SluicedError
from ..embedded_broker import log_tail, spawn, stop_process

GRACE = 15.0  # seconds to stop in: more than [shutdown] drain of configs/demo.toml


class Daemon:
    """`sluiced run`, with its log in a file beside its configuration and its credentials there."""

    def __init__(self, config: Path, admin: str) -> None:
        self._config = config
        self._admin = admin
        self._environment = {"CREDENTIALS_DIRECTORY": str(config.parent)}
        self._log = config.with_suffix(".log").open("w+b")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # The exit status tells the demo of any trouble, so the log is only read when there is some.
        command = [sys.executable, "-m", "sluiced", "run", str(self._config)]
        self._process = spawn(command, self._log, self._environment)

    def kill(self) -> None:
        """The crash: SIGKILL, and certainty that the process is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def check(self) -> None:
        """Raises SluicedError if the daemon has ended without being told to."""
        if self._process is not None and self._process.poll() is not None:
            self.fail(f"The daemon ended by itself with status {self._process.returncode}.")

    def fail(self, message: str) -> NoReturn:
        """Raises SluicedError with the end of the daemon's log."""
        raise SluicedError(message, f"The end of its log:\n{log_tail(self._log)}")

    async def ready(self, within: float) -> None:
        """Returns when /readyz says 200. Raises SluicedError after `within` seconds."""
        reason = "its admin port does not answer"
        try:
            async with asyncio.timeout(within), aiohttp.ClientSession() as session:
                while True:
                    self.check()
                    try:
                        async with session.get(f"http://{self._admin}/readyz") as answer:
                            if answer.status == 200:
                                return
                            reason = (await answer.text()).strip()
                    except aiohttp.ClientError:
                        pass  # not listening yet
                    await asyncio.sleep(0.05)
        except TimeoutError:
            self.fail(f"The daemon was not ready within {within:g} s: {reason}.")

    async def counted(self, name: str, **labels: str) -> int:
        """What a counter of its metrics stands at. Raises aiohttp.ClientError."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self._admin}/metrics") as answer,
        ):
            families = text_string_to_metric_families(await answer.text())
        samples = (sample for family in families for sample in family.samples)
        return sum(
            int(sample.value)
            for sample in samples
            if sample.name == name and sample.labels.items() >= labels.items()
        )

    async def stop(self) -> int:
        """SIGTERM; returns the exit status (-9 if it did not end in time)."""
        assert self._process is not None, "the daemon is not running"
        await asyncio.to_thread(stop_process, self._process, GRACE)
        status = self._process.returncode
        self._process = None
        return status

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        # After a failure nobody waits for a clean stop any more.
        if error is not None:
            self.kill()
        elif self._process is not None:
            await self.stop()
        self._log.close()

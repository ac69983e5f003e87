"""Directus on SQLite, on loopback, with a collection whose keys are the sender's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sluiced.tools.embedded_broker import free_ports, log_tail, spawn, stop_process

from .install import CLI, TOKEN, environment

_READY_SECONDS = 120.0


class Directus:
    """A server with data of its own; what `installed` gave is left as it is."""

    def __init__(self, installed: Path, directory: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._log = (directory / "directus.log").open("w+b")
        database = shutil.copy(installed / "empty.db", directory / "data.db")
        settings = environment(database) | {
            "PORT": str(port),
            "PUBLIC_URL": self.url,
            "STORAGE_LOCAL_ROOT": str(directory),
        }
        self._command = ["env", "-i", "-C", str(directory)]
        self._command += [f"{name}={value}" for name, value in settings.items()]
        self._command += ["node", str(installed / CLI), "start"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = spawn(self._command, self._log)
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise AssertionError(f"Directus does not answer:\n{log_tail(self._log)}")
            time.sleep(0.1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            stop_process(self._process)
        self._log.close()

    def create(self, collection: str, *fields: dict[str, Any]) -> None:
        self.ask("POST", "/collections", {"collection": collection, "schema": {}, "fields": fields})

    def items(self, collection: str) -> list[dict[str, Any]]:
        """All of them, by their keys."""
        found: list[dict[str, Any]] = self.ask("GET", f"/items/{collection}?limit=-1")
        return found

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The data of an answer. Raises HTTPError where it is none."""
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}").get("data")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/server/ping", timeout=10) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

"""A server in a process of its own, so that nothing which happens to whoever asks happens to it."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self


class Child:
    """A module of the tests that prints the port it listens on and serves until it is killed, at
    the end of this context."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            process_group=0,  # a Ctrl-C is not for it
        )
        assert self._process.stdout is not None
        if not (port := self._process.stdout.readline()):
            self._end()
            raise RuntimeError(f"{self._command[2]} did not start; what it printed says why")
        self.port = int(port)
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, target: str, body: bytes | None = None, **headers: str) -> bytes:
        """The answer's body: to a POST where there is one to send. Raises for what is not 2xx."""
        request = urllib.request.Request(self.url + target, body, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

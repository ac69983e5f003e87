"""PostgreSQL: a cluster of its own on a loopback port, with its data in a directory of its own.

The server refuses to run as root, so that root lends it another user. What is written is not
synchronised to the disk: a server that is killed loses nothing by that, only a machine would.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Self

import asyncpg

from sluiced.tools.embedded_broker import free_ports

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.02
_DEBIAN = Path("/usr/lib/postgresql")  # where initdb and postgres are, beside the PATH

# Whoever comes over the network as `locked` needs the password; all others are trusted.
PASSWORD = "correct horse"
_HBA = """\
local all all trust
host all locked 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""

_SETTINGS = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
full_page_writes = off
max_connections = 50
shared_buffers = 64MB
autovacuum = off
log_min_messages = warning
"""


def programs() -> Path | None:
    """The directory of initdb and postgres, the newest; None where there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    return versions[-1].parent if versions else None


class Postgres:
    """A server whose port and data survive `stop`, `kill` and `start`.

    `settings` are lines of postgresql.conf, added to ours.
    """

    def __init__(self, settings: str = "") -> None:
        found = programs()
        assert found is not None, "there is no PostgreSQL on this machine"
        self._programs = found
        [self.port] = free_ports(1)
        self._settings = settings
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix="sluiced-postgres-"))
            self._directory = Path(made)
            self._log = stack.enter_context((self._directory / "log").open("w+b"))
            self._initialise()
            stack.callback(self.stop)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def dsn(self, schema: str = "public", user: str = "postgres", port: int = 0) -> str:
        """The address of the one database, where names are looked up in this schema."""
        address = f"{user}@127.0.0.1:{port or self.port}"
        return f"postgresql://{address}/postgres?sslmode=disable&search_path={schema}"

    async def connect(self, schema: str = "public") -> asyncpg.Connection[Any]:
        return await asyncpg.connect(self.dsn(schema))

    async def create_schema(self) -> str:
        """An empty one under a name that nothing else has; much cheaper than a database."""
        name = f"schema_{uuid.uuid4().hex[:12]}"
        connection = await self.connect()
        try:
            await connection.execute(f"CREATE SCHEMA {name}")
        finally:
            await connection.close()
        return name

    # --- the process --------------------------------------------------------------------------

    def start(self) -> None:
        """Returns when it takes connections; waits for the last process of a killed one to end."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._directory / "data"],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                **self._user(),
            )
            while self._process.poll() is None and time.monotonic() < deadline:
                if self._answers():
                    return
                time.sleep(_POLL_SECONDS)
            if time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL does not start: {self.log[-4000:]}")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Ends it and all connections in an orderly way. Stopping twice is harmless."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # PostgreSQL's "fast shutdown"
            self._process.wait(120)
            self._process = None

    def kill(self) -> None:
        """SIGKILL to the server and all that works for it."""
        assert self._process is not None, "the server has not been started"
        children = self._children()
        self._process.kill()
        self._process.wait()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._process = None

    @property
    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    def _children(self) -> list[int]:
        assert self._process is not None
        found = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def _answers(self) -> bool:
        command = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def _initialise(self) -> None:
        data = self._directory / "data"
        if user := self._user().get("user"):
            shutil.chown(self._directory, user)
        command = [self._programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust"]
        command += ["-E", "UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self._user())
        assert done.returncode == 0, f"initdb failed:\n{done.stdout}{done.stderr}"
        with (data / "postgresql.conf").open("a") as file:
            file.write(f"{_SETTINGS}port = {self.port}\n{self._settings}\n")
        (data / "pg_hba.conf").write_text(_HBA)

    @staticmethod
    def _user() -> dict[str, Any]:
        """Root runs it as somebody else, in a directory that this one may read."""
        if os.geteuid() != 0:
            return {}
        names = {entry.pw_name for entry in pwd.getpwall()}
        return {"user": "postgres" if "postgres" in names else "nobody", "cwd": "/"}

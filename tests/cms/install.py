"""Directus, installed with npm once and kept in the checkout."""

from __future__ import annotations

import fcntl
import filecmp
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

PACKAGE = Path(__file__).parent / "npm"
CACHE = Path(__file__).resolve().parents[2] / ".cache"
NODE_NEEDED = 18  # "engines" in the package.json of directus@11.2.2
# A busy machine with a slow mirror; the tests that come first here have a limit above it.
INSTALL_SECONDS = 240

# Everything that Directus does when it starts, but for asking npm's registry whether there is a
# newer version.
CLI = "node_modules/@directus/api/dist/cli/run.js"

# An account of the tests', on loopback alone.
TOKEN = "made-up-token-of-the-tests"


class DirectusUnavailableError(Exception):
    """This machine cannot run Directus; the message says what it lacks."""


def skip_or_fail(reason: str, environment: Mapping[str, str] = os.environ) -> NoReturn:
    """Ends the test: as skipped, or as failed where Directus is not optional.

    That is in CI (CI=true) and wherever SLUICED_REQUIRE_DIRECTUS=1.
    """
    required = environment.get("CI") == "true" or environment.get("SLUICED_REQUIRE_DIRECTUS") == "1"
    if required:
        pytest.fail(f"Directus is required here, but: {reason}", pytrace=False)
    pytest.skip(f"no Directus: {reason}")


def version() -> str:
    """The version of Directus that package.json asks for."""
    found: str = json.loads((PACKAGE / "package.json").read_text())["dependencies"]["directus"]
    return found


def installed(say: Callable[[str], object] = print) -> Path:
    """The directory with Directus and an empty database, made now if this is the first time.

    Raises DirectusUnavailableError.
    """
    prefix = _node()
    kept = CACHE / f"directus-{version()}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "directus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one installs
        if not _is_of_today(kept):
            say(f"Installing Directus {version()} with npm, once.")
            # Made aside and moved into place: what exists is complete.
            with tempfile.TemporaryDirectory(dir=CACHE) as aside:
                made = Path(aside) / "made"
                shutil.copytree(PACKAGE, made)
                _install(made, prefix)
                shutil.rmtree(kept, ignore_errors=True)
                made.rename(kept)
    return kept


def environment(database: Path) -> dict[str, str]:
    """Settings of a Directus with its data in that file, for any of its commands."""
    return {
        "PATH": os.environ["PATH"],
        "SECRET": "made-up",
        "DB_CLIENT": "sqlite3",
        "DB_FILENAME": str(database),
        "ADMIN_EMAIL": "admin@example.com",
        "ADMIN_PASSWORD": "made-up",
        "ADMIN_TOKEN": TOKEN,
        "HOST": "127.0.0.1",
        "LOG_LEVEL": "warn",
        "SERVE_APP": "false",
        "TELEMETRY": "false",
        # Otherwise it answers 503 whenever its loop is half a second late.
        "PRESSURE_LIMITER_ENABLED": "false",
    }


def _node() -> Path:
    """Where Node is installed, headers included."""
    for tool in ("node", "npm", "g++", "make", "python3"):
        if shutil.which(tool) is None:
            raise DirectusUnavailableError(f"no `{tool}` on PATH")
    said = _run(["node", "-p", "process.version + ' ' + process.execPath"], Path.cwd())
    node, _, path = said.strip().partition(" ")
    if int(node[1:].partition(".")[0]) < NODE_NEEDED:
        raise DirectusUnavailableError(f"Directus needs Node {NODE_NEEDED}; `node` is {node}")
    prefix = Path(path).parents[1]
    if not (prefix / "include/node/node_api.h").exists():
        raise DirectusUnavailableError(f"no headers of Node in {prefix} (Debian: libnode-dev)")
    return prefix


def _is_of_today(kept: Path) -> bool:
    mine = kept / "package.json"
    return mine.exists() and filecmp.cmp(PACKAGE / "package.json", mine, shallow=False)


def _install(made: Path, prefix: Path) -> None:
    quiet = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    few = ("--no-package-lock", "--ignore-scripts", "--omit=optional")
    _run(["npm", "install", *few, *quiet], made)
    # SQLite's own source takes a minute to compile; Debian has it ready.
    ready = ["--sqlite=/usr"] if Path("/usr/include/sqlite3.h").exists() else []
    gyp = made / "node_modules/.bin/node-gyp"
    _run([str(gyp), "rebuild", f"--nodedir={prefix}", *ready], made / "node_modules/sqlite3")
    _run(["node", CLI, "bootstrap"], made, environment(made / "empty.db"))


def _run(command: list[str], where: Path, environment: Mapping[str, str] | None = None) -> str:
    try:
        return subprocess.run(
            command,
            cwd=where,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=INSTALL_SECONDS,
        ).stdout
    except subprocess.TimeoutExpired:
        words = " ".join(command[:2])
        raise DirectusUnavailableError(f"`{words}` took {INSTALL_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        words, said = " ".join(command[:2]), (error.stdout + error.stderr)[-2000:]
        raise DirectusUnavailableError(f"`{words}` failed:\n{said}") from None

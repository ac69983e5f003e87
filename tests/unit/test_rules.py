"""Promises about the code as a whole, which no single test of a behaviour could keep."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

import sluiced
from sluiced.app import Daemon
from sluiced.config import load

PACKAGE = Path(sluiced.__file__).parent
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.anyio


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def test_nothing_turns_the_verification_of_certificates_off() -> None:
    forbidden = {"CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context", "SSLContext"}
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                written = ast.unparse(node)
                assert "check_hostname" not in written, f"{name}: {written}"
            if isinstance(node, ast.keyword) and node.arg in ("ssl", "verify", "verify_ssl"):
                assert ast.unparse(node.value) not in ("False", "0"), f"{name}: {node.arg}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).rsplit(".", 1)[-1]
                assert called not in forbidden, f"{name}: {called}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in forbidden - {"SSLContext"}, f"{name}: {node.attr}"


def test_the_core_reads_no_clock_of_its_own() -> None:
    contracts = ConfigParser()
    contracts.read(ROOT / ".importlinter")
    core = contracts["importlinter:contract:pure"]["source_modules"].split()
    assert "sluiced.window" in core
    for name, tree in trees():
        if "sluiced." + name.removesuffix(".py").replace("/", ".") not in core:
            continue
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            calendar = {"datetime"} if name == "schedule.py" else set()
            assert not {"time", "datetime"} & set(names) - calendar, f"{name} imports {names}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("now", "today", "utcnow"), f"{name}: {node.attr}"


async def test_everything_that_is_measured_is_measured_by_a_clock_that_only_goes_forward() -> None:
    daemon = Daemon(load(ROOT / "configs" / "demo.toml"))
    assert daemon.pipeline.clock is time.monotonic
    assert daemon.pipeline.delivery._clock is time.monotonic

"""docs/example, a package with sinks of its own: built, installed and used as its author would."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from sluiced.intake import RecordSettings
from sluiced.sinks import kinds
from sluiced.sinks.settings import Line, SinkSettings
from sluiced.testing import SinkContract, Stand, read

CONFIG = """\
name = "pages"
[kafka]
bootstrap_servers = ["127.0.0.1:9092"]
group_id = "g"
topics = ["pages"]
[record]
id = "/n"
transform = "sluiced_sqlite:without_drafts"
[sink]
type = "sqlite"
file = "/var/lib/pages.db"
[dead_letter]
topic = "pages.dead"
"""


class Database(Stand):
    bad = b'{"n":-1, no json'
    line = Line("pages", record=RecordSettings(format="text"))

    def __init__(self, file: Path) -> None:
        self._file = file
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute(
                "CREATE TABLE pages (id TEXT PRIMARY KEY, page TEXT CHECK (json_valid(page)))"
            )

    def settings(self, **keys: Any) -> SinkSettings:
        return read(kinds.load_foreign("sqlite"), file=str(self._file), **keys)

    async def effects(self) -> Counter[int]:
        with closing(sqlite3.connect(self._file)) as connection:
            return Counter(n for (n,) in connection.execute("SELECT page ->> 'n' FROM pages"))

    @asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        self._file.rename(self._file.with_suffix(".away"))
        yield
        self._file.with_suffix(".away").rename(self._file)

    @asynccontextmanager
    async def mute(self) -> AsyncIterator[None]:
        with closing(sqlite3.connect(self._file)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield


@pytest.mark.usefixtures("site")
class TestSqlite(SinkContract):
    @pytest.fixture
    def stand(self, site: Path, tmp_path: Path) -> Stand:
        return Database(tmp_path / "pages.db")


def check(directory: Path, site: Path | None, text: str = CONFIG) -> tuple[int, str]:
    (directory / "pages.toml").write_text(text)
    ended = subprocess.run(
        [sys.executable, "-m", "sluiced", "check", str(directory / "pages.toml")],
        env=os.environ | ({"PYTHONPATH": str(site)} if site else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, " ".join((ended.stdout + ended.stderr).split())


def test_its_type_and_its_transform_can_be_named_once_it_is_installed(
    site: Path, tmp_path: Path
) -> None:
    code, said = check(tmp_path, site)
    assert code == 0, said
    assert "table pages of /var/lib/pages.db" in said


def test_before_that_the_types_that_there_are_are_named(tmp_path: Path) -> None:
    code, said = check(tmp_path, None)
    assert code == 2
    assert 'sink.type = "sqlite": there is no such type; write one of "http", ' in said


def test_a_wrong_key_of_it_is_told_like_any_other(site: Path, tmp_path: Path) -> None:
    code, said = check(tmp_path, site, CONFIG.replace("file =", "flie ="))
    assert code == 2
    assert "sink.flie: unknown key; did you mean file?" in said
    assert "sink.file is required" in said


def test_a_package_that_cannot_be_loaded_is_named(site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for info in site.glob("*.dist-info"):
        (broken / info.name).mkdir()
        for name in ("METADATA", "entry_points.txt"):
            (broken / info.name / name).write_text((info / name).read_text())
    code, said = check(tmp_path, broken)
    assert code == 2
    assert "the sink sqlite of sluiced-examples cannot be loaded: ModuleNotFoundError" in said

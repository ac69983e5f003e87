"""docs/example/sluiced_spool.py, a sink of jobs of somebody else's, as its author would test it."""

from __future__ import annotations

import ast
import errno
import json
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from harness.spool import Worker
from sluiced.config import load
from sluiced.errors import ConfigError
from sluiced.outcome import Again
from sluiced.ports import Submitted
from sluiced.reload import needing_restart
from sluiced.sinks import kinds
from sluiced.sinks.job_settings import JobSettings
from sluiced.testing import JobContract, JobStand, read

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("site")]

DOCS = Path(__file__).parents[2] / "docs"
NAME = "0" * 32 + "-1"


class Spool(JobStand):
    bad = b'{"n":-1,\n "refuse":"not this one"}'
    once = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._worker = Worker(directory)

    def settings(self, **keys: Any) -> JobSettings:
        made = read(kinds.load_foreign("spool"), directory=str(self.directory), **keys)
        assert isinstance(made, JobSettings)
        return made

    def number(self, body: bytes) -> int:
        return int(json.loads(body)["heard"]["n"])

    async def jobs(self) -> int:
        assert not list(self.directory.glob(".*")), "nothing is left lying about"
        return len(list(self.directory.iterdir()))

    async def begin(self) -> None:
        self._worker.begin()

    async def finish(self) -> None:
        self._worker.finish()

    async def wait(self, seconds: float) -> None:
        """What it says is so at once."""

    @asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        self.directory.rename(self.directory.with_name("away"))
        yield
        self.directory.with_name("away").rename(self.directory)

    @asynccontextmanager
    async def lost(self) -> AsyncIterator[None]:
        """The disk fails right after a job was moved in."""

        def fail(opened: int) -> None:
            if stat.S_ISDIR(os.fstat(opened).st_mode):
                raise OSError(errno.EIO, "input/output error")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            yield

    @asynccontextmanager
    async def broken(self) -> AsyncIterator[None]:
        [file] = self.directory.glob("*/results.jsonl")
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        yield
        file.write_bytes(whole)


@pytest.fixture
def stand(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


class TestSpool(JobContract):
    @pytest.fixture
    def stand(self, tmp_path: Path) -> JobStand:
        return Spool(tmp_path / "spool")


async def test_of_many_who_submit_a_batch_at_the_same_time_one_makes_the_job(stand: Spool) -> None:
    batch, answers = stand.batch(*range(200)), []

    async def submit() -> None:
        answers.append(await sink.submit(batch, NAME))

    async with stand.sink() as sink, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(submit)
    assert answers == [Submitted(NAME)] * 20
    assert await stand.jobs() == 1


async def test_who_was_held_up_over_half_a_job_makes_none_of_it_once_it_was_looked_for(
    stand: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, rename = stand.batch(1, 2), Path.rename
    async with stand.sink() as frozen, stand.sink() as heir:

        def held_up(half: Path, job: Path) -> Path:
            monkeypatch.undo()
            assert anyio.from_thread.run(heir.find, batch, NAME, []) is None
            return rename(half, job)

        monkeypatch.setattr(Path, "rename", held_up)
        assert isinstance(await frozen.submit(batch, NAME), Again)
    assert await stand.jobs() == 0


async def test_a_spool_that_hangs_is_given_up_and_what_hung_makes_no_job_later(
    stand: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, over = stand.batch(1), threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _: over.wait())
    async with stand.sink(timeout="1s") as hanging:
        answer = await hanging.submit(batch, NAME)
    monkeypatch.undo()
    assert isinstance(answer, Again)
    assert (answer.reason, answer.doubtful) == ("timeout", True)
    async with stand.sink() as sink:
        assert await sink.find(batch, NAME, []) is None
        over.set()
        assert await stand.jobs() == 0


CONFIG = """\
name = "pages"
[kafka]
bootstrap_servers = ["127.0.0.1:9092"]
group_id = "g"
topics = ["pages"]
[dead_letter]
topic = "dead"
[sink]
type = "spool"
directory = "/srv/spool"
"""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "results.topic is required: it is where the answers go"),
        (
            '[record]\nformat = "text"',
            'record.format = text: a request is a line of JSON; write "json"',
        ),
        ("[window]\ncollapse = true", "window.collapse: a job's records do not collapse"),
        ('[window]\nmax_records = "auto"', "nothing can be found out from jobs, which take hours"),
    ],
)
def test_what_does_not_go_with_jobs_is_told_of_this_sink_too(
    tmp_path: Path, more: str, said: str
) -> None:
    (tmp_path / "pages.toml").write_text(CONFIG + more)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "pages.toml")
    assert said in str(caught.value)


@pytest.mark.parametrize("poll", ["0s", "2h"])
def test_how_often_a_job_is_looked_at_is_checked(tmp_path: Path, poll: str) -> None:
    (tmp_path / "pages.toml").write_text(f'{CONFIG}poll = "{poll}"')
    with pytest.raises(ConfigError, match=r"sink\.poll"):
        load(tmp_path / "pages.toml")


def test_a_reload_follows_what_all_sinks_of_jobs_have_and_nothing_that_only_this_one_knows(
    stand: Spool,
) -> None:
    settings = stand.settings()
    followed = ("timeout", "poll", "max_jobs", "on_cancel")
    differing = {f"sink.{key}": (1, 2) for key in (*followed, "directory", "url")}
    assert needing_restart(differing, settings) == ["sink.directory", "sink.url"]


def test_it_uses_nothing_but_what_the_documentation_says_that_it_may() -> None:
    section = (DOCS / "sinks.md").read_text().partition("## A sink of your own")[2]
    for file in (DOCS / "example").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sluiced."):
                assert f"`{node.module}`" in section, f"{file.name} imports {node.module}"

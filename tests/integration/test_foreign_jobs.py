"""docs/example/sluiced_spool.py, a sink of jobs of somebody else's, in a real daemon."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import anyio
import pytest

from brokers.base import Broker, Message
from harness.cli import sluiced
from harness.daemon import SPOOL, Daemon, until
from harness.spool import Worker
from harness.stream import Stream, make_stream

pytestmark = pytest.mark.anyio

# The process dies right after it has moved a job in, and before it can tell anybody.
DIES = """
import os, signal

rename = os.rename

def dies(source, target, **others):
    rename(source, target, **others)
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("DIES"):
    os.rename = dies
"""


class Spooled(Stream):
    """A topic of requests, one of results, and a directory with a worker between them."""

    @property
    def spool(self) -> Path:
        return self.directory / "spool"

    async def write(self, count: int, *, refused: int = -1) -> None:
        def value(n: int) -> bytes:
            body = {"n": n} | ({"refuse": "not this one"} if n == refused else {})
            return json.dumps(body, indent=1).encode()

        messages = (Message(value(n), b"key-%d" % n, partition=n % 4) for n in range(count))
        await self.broker.produce(self.topic, messages)

    def spooling(self, **values: str) -> Daemon:
        fields = {"config": SPOOL, "spool": str(self.spool), "url": "", **values}
        return Daemon(
            self.directory,
            bootstrap=self.broker.bootstrap,
            group=self.group,
            topic=self.topic,
            dead=self.dead,
            **fields,
        )

    async def all_done(self, worker: Worker, count: int) -> None:
        """Returns once so many records are done; every job that appears is worked on."""
        with anyio.fail_after(60):
            while sum((await self.checkpoints()).values()) < count:
                worker.finish()
                await anyio.sleep(0.05)

    async def results(self) -> list[tuple[bytes | None, int]]:
        """Of each the key, and the number of the request that it answers."""
        found = await self.broker.read(f"{self.topic}.answers")
        return sorted((r.key, json.loads(r.value or b"")["heard"]["n"]) for r in found)


@pytest.fixture
async def stream(
    broker: Broker, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Spooled:
    (tmp_path / "dies").mkdir()
    (tmp_path / "dies/sitecustomize.py").write_text(DIES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "dies"), str(site)]))
    made = await make_stream(broker, tmp_path)
    await broker.create_topic(f"{made.topic}.answers")
    spooled = Spooled(broker, tmp_path, made.topic, made.group)
    spooled.spool.mkdir()
    return spooled


def all_of(count: int, *, without: int = -1) -> list[tuple[bytes, int]]:
    return sorted((b"key-%d" % n, n) for n in range(count) if n != without)


async def test_records_become_jobs_in_a_spool_and_what_a_worker_says_of_them_a_topic(
    stream: Spooled,
) -> None:
    worker = Worker(stream.spool)
    await stream.write(40, refused=5)
    async with stream.spooling(max_records="15") as daemon:
        checked = await sluiced("check", "--connect", daemon.path)
        assert checked.code == 0, checked.err
        assert f"jobs in {stream.spool}" in " ".join(checked.out.split())
        await stream.all_done(worker, 40)
        status = await daemon.status()
        assert await daemon.stop() == 0

    assert await stream.results() == all_of(40, without=5)
    [letter] = await stream.broker.read(stream.dead)
    headers = dict(letter.headers)
    assert (letter.key, json.loads(letter.value or b"")["n"]) == (b"key-5", 5)
    assert headers["__connect.errors.exception.message"] == b"not this one"
    assert status["jobs"]["working"] == 0
    submitted = {event["job"] for event in daemon.events("job_submitted")}
    assert submitted == worker.jobs.keys()
    assert sum(map(len, worker.jobs.values())) == 40, "each was asked for once"


async def test_a_daemon_that_dies_over_a_submission_finds_its_job_and_submits_none_again(
    stream: Spooled,
) -> None:
    if not stream.broker.commit_metadata:
        pytest.skip(f"{stream.broker.name} keeps no metadata with offsets")
    worker = Worker(stream.spool)
    await stream.write(12)
    daemon = stream.spooling(max_records="12", max_age="1h")
    await daemon.start(DIES="1")
    assert await daemon.ended() == -signal.SIGKILL
    [job] = stream.spool.iterdir()
    found = await stream.broker.committed(stream.group, stream.topic)
    assert not any(job.name in metadata for _, metadata in found.values()), "nobody was told"

    async with daemon:
        await until(lambda: daemon.events("job_adopted"), "the job is found")
        await stream.all_done(worker, 12)
        assert await daemon.stop() == 0
    assert [*worker.jobs] == [job.name]
    assert await stream.results() == all_of(12)


async def test_its_jobs_are_listed_and_cancelled_and_what_they_have_not_done_goes_again(
    stream: Spooled,
) -> None:
    if not stream.broker.commit_metadata:
        pytest.skip(f"{stream.broker.name} keeps no metadata with offsets")
    worker = Worker(stream.spool)
    await stream.write(12)
    async with stream.spooling(max_records="12", max_age="1h") as daemon:
        with anyio.fail_after(60):
            while (listed := await sluiced("jobs", "list", daemon.path)).lines[-1:] != ["1 job"]:
                await anyio.sleep(0.1)
        [job] = stream.spool.iterdir()
        assert job.name in listed.out
        worker.begin()
        shown = await sluiced("jobs", "show", daemon.path, job.name)
        assert f"{stream.topic}/" in shown.out
        config = daemon.path.read_text()
        daemon.path.write_text(config.replace('poll = "200ms"', 'poll = "100ms"'))
        daemon.signal(signal.SIGHUP)
        await until(lambda: daemon.events("reloaded"), "a reload")
        cancelled = await sluiced("jobs", "cancel", daemon.path, job.name, "--yes")
        assert cancelled.code == 0, cancelled.err
        assert (job / "cancelled").exists()
        await stream.all_done(worker, 12)
        assert await daemon.stop() == 0
        assert "no jobs" in (await sluiced("jobs", "list", daemon.path)).out

    assert [event["changed"] for event in daemon.events("reloaded")] == [["sink.poll"]]
    assert [len(requests) for requests in worker.jobs.values()] == [12, 6]
    assert await stream.results() == all_of(12)

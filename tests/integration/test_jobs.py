"""Prompts in one topic, answers in another: real daemon, real brokers, stand-ins for the APIs."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from brokers.base import Broker, Message
from brokers.kafka import Kafka
from harness.cli import Ended, sluiced
from harness.daemon import JOBS, Daemon, until
from harness.stream import Stream, later, make_stream
from providers.anthropic import Anthropic
from sluiced.tools.demo.openai_api import OpenAI, told
from sluiced.tools.demo.provider import Pace, served

pytestmark = pytest.mark.anyio


class Answered:
    """What stands in the topic of results, by where the prompt stood."""

    def __init__(self, records: Any) -> None:
        self.records = records
        self.by_place: dict[tuple[int, int], list[Any]] = {}
        for record in records:
            headers = dict(record.headers)
            place = (int(headers["sluiced.partition"]), int(headers["sluiced.offset"]))
            self.by_place.setdefault(place, []).append(record)

    def counts(self) -> Counter[int]:
        return Counter(map(len, self.by_place.values()))


class Prompts(Stream):
    """A topic of prompts, one of answers, and an API between them."""

    async def write(self, count: int) -> None:
        def prompt(n: int) -> bytes:
            message = {"role": "user", "content": f"number {n}"}
            return json.dumps({"model": "m", "max_tokens": 9, "messages": [message]}).encode()

        await self.broker.produce(
            self.topic,
            (Message(prompt(n), b"key-%d" % n, partition=n % 4) for n in range(count)),
        )

    async def answers(self) -> Answered:
        return Answered(await self.broker.read(f"{self.topic}.answers"))

    @asynccontextmanager
    async def served(self, api: Any, **values: str) -> AsyncIterator[Daemon]:
        kind = "openai-batch" if isinstance(api, OpenAI) else "anthropic-batch"
        async with served(api) as url:
            fields = {
                "config": JOBS,
                "bootstrap": self.broker.bootstrap,
                "group": self.group,
                "topic": self.topic,
                "dead": self.dead,
                "type": kind,
                "url": url,
                "key": '{ env = "LLM_KEY" }',
                "results": "",
                "retry": "max_item_attempts = 3",
            }
            daemon = Daemon(self.directory, **fields | values)
            yield daemon
            if daemon.process.returncode is None:
                await daemon.kill()


# Where every window is to be a full one, however slowly records come.
FULL = {"max_age": "1h"}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_KEY", "sk-0123456789")


@pytest.fixture
async def prompts(broker: Broker, tmp_path: Path) -> Prompts:
    made = await make_stream(broker, tmp_path)
    await broker.create_topic(f"{made.topic}.answers")
    return Prompts(broker, tmp_path, made.topic, made.group)


async def all_done(prompts: Prompts, count: int) -> None:
    """Returns once the checkpoints of so many prompts are committed."""
    with anyio.fail_after(60):
        while sum((await prompts.checkpoints()).values()) < count:
            await anyio.sleep(0.1)


@pytest.mark.parametrize("api", [OpenAI, Anthropic])
async def test_a_topic_of_prompts_becomes_a_topic_of_answers(prompts: Prompts, api: Any) -> None:
    provider = api(Pace(working=0.5))
    await prompts.write(40)
    async with prompts.served(provider, max_records="15") as daemon:
        await daemon.start()
        await all_done(prompts, 40)
        assert await daemon.stop() == 0
    found = await prompts.answers()

    assert found.counts() == {1: 40}
    for (partition, offset), [record] in found.by_place.items():
        number = offset * 4 + partition
        assert record.key == b"key-%d" % number
        assert f"heard: number {number}" in record.value.decode()
        headers = dict(record.headers)
        assert headers["sluiced.topic"] == prompts.topic.encode()
        assert headers["sluiced.model"] == b"m"
        assert headers["sluiced.output_tokens"] == b"9"
        assert headers["sluiced.job"].decode() in provider.jobs
    assert "sk-0123456789" not in daemon.log


TEMPLATE = """
[sink.prompt]
model = "m"
max_tokens = 9
messages = [{ role = "user", content = "Of $value/name, {$key}" }]

[prices.m]
input = 1
output = 1000
"""


async def previewed(daemon: Daemon) -> Ended:
    """A broker that has never had a group has to make itself ready for the first one."""
    with anyio.fail_after(60):
        while (shown := await sluiced("preview", daemon.path)).code:
            assert "coordinator" in shown.err
    return shown


@pytest.mark.parametrize("api", [OpenAI, Anthropic])
async def test_small_records_become_prompts_as_preview_shows_them(
    prompts: Prompts, api: Any
) -> None:
    provider = api(Pace(working=0.2))
    names = ['"Ulm"\n', "Genève", "東京"]
    values = [json.dumps({"name": name}, ensure_ascii=False) for name in names]
    values.append('{"title":"Atlantis"}')
    async with prompts.served(provider, max_records="4", results=TEMPLATE) as daemon:
        at = await prompts.broker.produce(
            prompts.topic, (Message(v.encode(), b"k", partition=0) for v in values)
        )
        shown = await previewed(daemon)
        assert not provider.jobs, "nothing is sent"
        await daemon.start()
        await daemon.ready()
        await all_done(prompts, 4)
        _, metrics = await daemon.get("/metrics")
        assert await daemon.stop() == 0

    # What is shown is what was sent.
    requests = [line for line in shown.lines if '"custom_id"' in line]
    asked = [json.loads(line.rstrip(",")) for line in requests]
    [job] = provider.jobs.values()
    assert asked == job.requests
    bodies = [each.get("body") or each.get("params") for each in asked]
    said = [f"Of {name}, {{k}}" for name in names]
    assert [body["messages"][0]["content"] for body in bodies] == said
    if api is OpenAI:
        [sent] = [file.content for file in provider.files.values() if file.purpose == "batch"]
        assert sent.decode().splitlines() == requests

    # What it costs is estimated before, and counted after.
    assert "# about 35 tokens in, at most 27 out; costs about 0.027035\n" in shown.out
    assert f"{prompts.topic}/0/{at[3].offset} would be dead-lettered as invalid" in shown.out
    [submitted] = daemon.events("job_submitted")
    assert (submitted["output_tokens"], submitted["cost"]) == (27, "0.027035")
    [taken_in] = daemon.events("job_taken_in")
    assert taken_in["output_tokens"] == 27
    label = 'basis="reported",direction="output",model="m",pipeline="pages"'
    assert f"sluiced_tokens_total{{{label}}} 27.0" in metrics
    [letter] = await prompts.broker.read(prompts.dead)
    assert dict(letter.headers)["__connect.errors.exception.message"] == (
        b"the value has nothing at /name, and sink.prompt needs it"
    )
    assert letter.value == values[3].encode()


async def test_a_killed_daemon_finds_its_jobs_and_submits_none_again(prompts: Prompts) -> None:
    if not prompts.broker.commit_metadata:
        pytest.skip(f"{prompts.broker.name} keeps no metadata with offsets")
    provider = OpenAI(Pace(working=3600.0))
    await prompts.write(40)
    async with prompts.served(provider, max_records="10", **FULL) as daemon:
        for _ in range(3):
            await daemon.start()
            await daemon.ready()
            await until(lambda: len(provider.jobs) == 4, "four jobs")
            await daemon.kill()
        found = await prompts.broker.committed(prompts.group, prompts.topic)
        written = re.compile(r"sluiced1:0\+10=[0-9a-f]{32}@batch_[0-9a-f]{24}")
        # What one version leaves to the next: see tests/unit/test_plan.py.
        assert all(written.fullmatch(metadata) for _, metadata in found.values())
        for job in provider.jobs.values():
            job.pace.working = 0.0
        await daemon.start()
        await all_done(prompts, 40)
        assert await daemon.stop() == 0

    assert len(provider.jobs) == 4
    assert (await prompts.answers()).counts() == {1: 40}


async def test_outside_of_the_active_times_jobs_are_taken_in_and_none_is_submitted(
    prompts: Prompts,
) -> None:
    provider, hours = OpenAI(Pace(working=3600.0)), "00:00-24:00 UTC"
    config = JOBS.replace("[window]", f'[window]\nactive = "{hours}"')
    await prompts.write(40)
    async with prompts.served(provider, max_records="20", **FULL, config=config) as daemon:

        async def reload(old: str, new: str, event: str, times: int) -> None:
            daemon.path.write_text(daemon.path.read_text().replace(old, new))
            daemon.signal(signal.SIGHUP)
            await until(lambda: len(daemon.events(event)) == times, event)

        await daemon.start()
        await until(lambda: len(daemon.events("job_submitted")) == 2, "two jobs")
        active = later()
        await reload(hours, active, "release_ends", 1)
        await prompts.write(20)
        waiting = f"waiting until {active[:5]} UTC"
        assert await daemon.get("/readyz") == (200, f"{waiting}; jobs that are looked after: 2\n")
        status = await daemon.status()
        assert (status["state"], status["schedule"]["open"]) == ("waiting", False)
        assert f"{status['state']} {status['reason']}".startswith(waiting)

        for job in provider.jobs.values():
            job.pace.working = 0.0
        await all_done(prompts, 40)
        with anyio.fail_after(60):
            while await daemon.get("/readyz") != (200, f"{waiting}\n"):
                await anyio.sleep(0.02)
        with anyio.fail_after(60):  # until the log's ends are looked up: there is something to do
            while not any(part["lag"] for part in (await daemon.status())["partitions"]):
                await anyio.sleep(0.1)
        positions = [part["position"] for part in (await daemon.status())["partitions"]]
        assert (len(provider.jobs), positions) == (2, [10] * 4), "what came stays in Kafka"

        provider.pace.working = 0.2
        await reload(active, hours, "release_begins", 1)
        await all_done(prompts, 60)
        assert await daemon.stop() == 0
    assert (await prompts.answers()).counts() == {1: 60}


async def test_however_a_submission_dies_there_is_one_job_and_no_file_without_one(
    prompts: Prompts,
) -> None:
    if not prompts.broker.commit_metadata:
        pytest.skip(f"{prompts.broker.name} keeps no metadata with offsets")
    provider = OpenAI()
    await prompts.write(12)
    tries = ("POST", "/v1/batches")
    async with prompts.served(provider, max_records="12", **FULL) as daemon:
        for attempt in (1, 2):
            provider.faults["create stalled"] = 1
            await daemon.start()
            await until(lambda n=attempt: provider.requests.count(tries) == n, "an upload")
            assert len(provider.files) == 1
            assert provider.jobs == {}
            await daemon.kill()
        provider.faults["create lost"] = 1
        await daemon.start()
        await all_done(prompts, 12)
        assert [event["job"] for event in daemon.events("job_adopted")] == [*provider.jobs]
        assert await daemon.stop() == 0

    assert len(provider.jobs) == 1
    assert [file.purpose for file in provider.files.values()] == ["batch", "batch_output"]
    assert (await prompts.answers()).counts() == {1: 12}


async def test_a_daemon_that_was_frozen_between_file_and_job_makes_none_when_another_has(
    prompts: Prompts,
) -> None:
    if not prompts.broker.commit_metadata:
        pytest.skip(f"{prompts.broker.name} keeps no metadata with offsets")
    provider = OpenAI(Pace(working=0.5))
    await prompts.write(1)
    async with prompts.served(provider, max_records="1", **FULL) as frozen:
        text = frozen.path.read_text().replace(str(frozen.port), "PORT")

        async def freeze(verb: str) -> None:
            if provider.requests.count(("POST", "/v1/files")) == 1 and verb == "upload":
                frozen.signal(signal.SIGSTOP)

        provider.answered = freeze
        await frozen.start()
        await until(lambda: len(provider.files) == 1, "an upload")
        async with Daemon(prompts.directory, text) as heir:
            await until(lambda: len(provider.jobs) == 1, "a job of the heir's", 60)
            frozen.signal(signal.SIGCONT)
            await until(lambda: frozen.events("revoked"), "the frozen one knows", 60)
            await all_done(prompts, 1)
            assert await frozen.stop() == 0
            assert await heir.stop() == 0

    assert len(provider.jobs) == 1
    assert [file.purpose for file in provider.files.values()] == ["batch", "batch_output"]
    assert (await prompts.answers()).counts() == {1: 1}
    assert await prompts.broker.read(prompts.dead) == []


async def test_a_cancelled_job_halts_the_daemon_where_that_is_wanted_until_it_is_told_to_go_on(
    prompts: Prompts,
) -> None:
    if not prompts.broker.commit_metadata:
        pytest.skip(f"{prompts.broker.name} keeps no metadata with offsets")
    provider = OpenAI(Pace(working=3600.0))
    await prompts.write(12)
    halting = 'on_cancel = "halt"'
    async with prompts.served(provider, max_records="12", **FULL, sink=halting) as daemon:
        await daemon.start()
        await until(lambda: len(daemon.events("job_submitted")) == 1, "a job")
        # The id is in the checkpoint a moment later.
        with anyio.fail_after(60):
            while (await sluiced("jobs", "list", daemon.path)).lines[-1:] != ["1 job"]:
                await anyio.sleep(0.1)
        told = await sluiced("jobs", "cancel", daemon.path, next(iter(provider.jobs)), "--yes")
        assert "the daemon halts" in told.out
        await until(lambda: len(daemon.events("pipeline_halted")) == 1, "a halt")
        assert len(provider.jobs) == 1
        text = daemon.path.read_text()
        daemon.path.write_text(text.replace('"halt"', '"dead-letter"', 1))
        daemon.process.send_signal(signal.SIGHUP)
        await all_done(prompts, 12)
        assert await daemon.stop() == 0

    assert len(provider.jobs) == 1
    letters = await prompts.broker.read(prompts.dead)
    assert {dict(letter.headers)["sluiced.reason"] for letter in letters} == {b"cancelled"}
    assert len(letters) == 12


async def test_what_is_refused_is_buried_whole_and_a_part_of_the_answer_is_chosen(
    prompts: Prompts,
) -> None:
    def answer(name: str, body: Any) -> Any:
        if body["messages"][0]["content"] == "number 5":
            return 400, {"error": {"message": "not this one", "type": "x", "code": None}}
        return told(name, body)

    provider = OpenAI()
    provider.answer = answer
    await prompts.write(12)
    chosen = 'value = "/choices/0/message/content"'
    async with prompts.served(provider, max_records="12", **FULL, results=chosen) as daemon:
        await daemon.start()
        await all_done(prompts, 12)
        assert await daemon.stop() == 0

    [letter] = await prompts.broker.read(prompts.dead)
    headers = dict(letter.headers)
    assert letter.key == b"key-5"
    assert b"number 5" in letter.value
    assert headers["sluiced.status"] == b"400"
    assert headers["__connect.errors.exception.message"] == b"not this one"
    found = await prompts.answers()
    assert found.counts() == {1: 11}
    assert {r.value for r in found.records} == {
        b"heard: number %d" % n for n in range(12) if n != 5
    }


async def test_jobs_are_listed_shown_and_cancelled_while_the_daemon_runs(prompts: Prompts) -> None:
    if not prompts.broker.commit_metadata:
        pytest.skip(f"{prompts.broker.name} keeps no metadata with offsets")
    provider = OpenAI(Pace(working=3600.0))
    await prompts.write(20)
    async with prompts.served(provider, max_records="10", **FULL) as daemon:
        await daemon.start()
        await daemon.ready()
        await until(lambda: len(daemon.events("job_submitted")) == 2, "two jobs")
        with anyio.fail_after(60):  # the ids are in the checkpoint a moment later
            while (listed := await sluiced("jobs", "list", daemon.path)).lines[-1:] != ["2 jobs"]:
                await anyio.sleep(0.1)
        assert listed.code == 0
        first, *_ = provider.jobs
        assert first in listed.out
        assert "in_progress" in listed.out
        shown = await sluiced("jobs", "show", daemon.path, first)
        assert f"{prompts.topic}/" in shown.out
        config = daemon.path.read_text()
        assert "about 110 tokens in, at most 90 out" in shown.out
        unknown = await sluiced("jobs", "cancel", daemon.path, "batch_x")
        assert unknown.code == 1
        assert f"group {prompts.group} has no job batch_x" in unknown.err
        assert "Nothing waits" in (await sluiced("preview", daemon.path)).out
        asked = await sluiced("jobs", "cancel", daemon.path, first)
        assert asked.lines[-1] == "Nothing was cancelled; --yes cancels it."
        assert "goes into a next job at once" in asked.out
        assert provider.jobs[first].cancelled_at is None
        cancelled = await sluiced("jobs", "cancel", daemon.path, first, "--yes")
        assert provider.jobs[first].cancelled_at is not None
        assert "cancel" in cancelled.lines[1]
        as_json = await sluiced("jobs", "list", daemon.path, "--json")
        assert {each["job"] for each in json.loads(as_json.out)["jobs"]} <= provider.jobs.keys()
        alone = await sluiced("jobs", "show", daemon.path, [*provider.jobs][1], "--json")
        assert json.loads(alone.out)["jobs"][0]["total"] == 10
        nowhere = prompts.directory / "nowhere.toml"
        nowhere.write_text(re.sub(r"base_url = .*", 'base_url = "http://127.0.0.1:1/v1"', config))
        unreachable = await sluiced("jobs", "list", nowhere)
        assert unreachable.code == 0
        assert "no connection to http://127.0.0.1:1" in unreachable.out
        lost = await sluiced("jobs", "cancel", nowhere, [*provider.jobs][1], "--yes")
        assert (lost.code, "cannot be looked at" in lost.err) == (1, True)
        for job in provider.jobs.values():
            job.pace.working = 0.0
        provider.pace.working = 0.0
        await all_done(prompts, 20)
        assert await daemon.stop() == 0
        assert "no jobs" in (await sluiced("jobs", "list", daemon.path)).out

    assert (await prompts.answers()).counts() == {1: 20}


async def test_an_answer_that_its_topic_does_not_take_halts_and_says_which_cap_to_raise(
    kafka: Kafka, tmp_path: Path
) -> None:
    made = await make_stream(kafka, tmp_path)
    await kafka.create_topic(f"{made.topic}.answers", config={"max.message.bytes": "2000"})
    prompts, provider = Prompts(kafka, tmp_path, made.topic, made.group), OpenAI()
    provider.answer = lambda name, body: told(name, body | {"model": "m" * 9000})
    await prompts.write(1)
    async with prompts.served(provider, max_records="1", **FULL) as daemon:
        await daemon.start()
        await until(lambda: daemon.events("pipeline_halted"), "a halt")
        assert "Raise its max.message.bytes" in daemon.events("pipeline_halted")[0]["reason"]
        assert sum((await prompts.checkpoints()).values()) == 0
        await daemon.kill()

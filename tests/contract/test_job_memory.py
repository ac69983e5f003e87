"""Neither the requests nor the results of a job live in memory: a real upload, and a real download
that is taken in to its end.

SLUICED_RESULT_MB=200 makes the files as large as they may be at OpenAI; they are smaller otherwise,
so that the suite stays quick.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from fakes import FakeDeadLetters, FakeRecord, Log, wall
from job_fakes import FakeOriginals
from sluiced.batch import Batch, Run
from sluiced.burial import Burial, DeadLetterSettings, Halt
from sluiced.intake import Intake, RecordSettings
from sluiced.jobs import Harvester
from sluiced.jobs.harvest import Harvest
from sluiced.metrics import Metrics
from sluiced.plan import Work
from sluiced.ports import JobAnswer, Submitted
from sluiced.record import TopicPartition
from sluiced.sinks.custom_ids import CustomIds
from sluiced.sinks.job_settings import AnthropicBatchSettings, OpenAIBatchSettings
from sluiced.sinks.openai_batch import OpenAIBatch
from sluiced.sinks.settings import Line
from sluiced.units import decode

pytestmark = pytest.mark.anyio

TP = TopicPartition("prompts", 0)
MEGABYTES = int(os.environ.get("SLUICED_RESULT_MB", "24"))
TEXT = 4000  # bytes of an answer
BUFFERS = 8 * 1024**2  # of aiohttp, and a page of answers
ENTRY = 400  # bytes that are kept of each record: that it was seen, and its key


class Results:
    """The topic of results, which only counts."""

    def __init__(self) -> None:
        self.answers = self.bytes = 0

    async def write(self, answers: Sequence[JobAnswer]) -> None:
        self.answers += len(answers)
        self.bytes += sum(len(answer.result.body) for answer in answers)


async def content(request: web.Request) -> web.StreamResponse:
    """A line for each record, in no order, made as it is sent."""
    ids, records = request.app[IDS], request.app[LOG].records[TP]
    response = web.StreamResponse()
    await response.prepare(request)
    for record in Random(1).sample(records, len(records)):
        answer = {"model": "m", "choices": [{"message": {"content": "x" * TEXT}}]}
        line = {"custom_id": ids.of(record), "response": {"status_code": 200, "body": answer}}
        await response.write(msgspec.json.encode(line) + b"\n")
    return response


async def job(request: web.Request) -> web.Response:
    return web.json_response({"id": "batch_1", "status": "completed", "output_file_id": "file_1"})


async def swallowed(request: web.Request) -> web.Response:
    """A file, or a job in one request."""
    request.app[TAKEN].append(sum([len(piece) async for piece in request.content.iter_any()]))
    return web.json_response({"id": "made_1"})


async def no_jobs(request: web.Request) -> web.Response:
    return web.json_response({"data": []})


IDS = web.AppKey("ids", CustomIds)
LOG = web.AppKey("log", Log)
TAKEN = web.AppKey("taken", list[int])


@asynccontextmanager
async def opened(app: web.Application, kind: str = "openai") -> AsyncIterator[Any]:
    """A sink for the API that this is."""
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    table: dict[str, Any] = {
        "type": f"{kind}-batch",
        "api_key": {"env": "API_KEY"},
        "base_url": f"http://127.0.0.1:{port}/v1",
    }
    shape: type[Any] = OpenAIBatchSettings if kind == "openai" else AnthropicBatchSettings
    made = msgspec.convert(table, shape, dec_hook=decode).build(Line("pages", [TP.topic]))
    await made.open()
    try:
        yield made
    finally:
        await made.close()
        await runner.cleanup()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "sk-secret")


@pytest.fixture
async def sink() -> AsyncIterator[tuple[OpenAIBatch, Log]]:
    log = Log(TP)
    for n in range(MEGABYTES * 1024**2 // TEXT):
        log.append(b"{}", tp=TP, key=b"k%d" % n)
    app = web.Application()
    app[LOG], app[IDS] = log, CustomIds("pages", [TP.topic])
    app.router.add_get("/v1/batches/batch_1", job)
    app.router.add_get("/v1/files/file_1/content", content)
    async with opened(app) as made:
        yield made, log


async def test_the_results_of_a_job_pass_through_and_do_not_stay_in_memory(
    sink: tuple[OpenAIBatch, Log],
) -> None:
    api, log = sink
    count, results = log.ends[TP], Results()
    metrics = Metrics("pages", CollectorRegistry())
    burial = Burial(DeadLetterSettings(topic="dead"), FakeDeadLetters(), Halt(), metrics)
    intake = Intake(RecordSettings())
    harvester = Harvester(api, FakeOriginals(log), results, burial, intake, metrics, wall)
    work = Work("0" * 32, 1, False, {TP: (0, count - 1)}, ("batch_1",))
    tracemalloc.start()
    try:
        harvest = Harvest(await harvester.held(work), 1)
        await harvester.take_in("batch_1", harvest, work)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    print(f"{results.bytes / 1e6:.0f} MB of {count} results, with {peak / 1e6:.1f} MB at most")
    assert results.answers == count
    assert harvest.left == {}
    assert results.bytes > MEGABYTES * 1024**2
    assert peak < BUFFERS + count * ENTRY


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_the_requests_of_a_job_are_made_while_they_are_sent(kind: str) -> None:
    app = web.Application()
    taken = app[TAKEN] = []
    for path in ("/v1/files", "/v1/batches", "/v1/messages/batches"):
        app.router.add_post(path, swallowed)
    app.router.add_get("/v1/batches", no_jobs)
    value = msgspec.json.encode({"model": "m", "max_tokens": 5, "messages": ["x" * TEXT]})
    size = min(MEGABYTES, 180) * 1024**2  # OpenAI takes no more than 200 MB
    count = size // TEXT
    records = [FakeRecord(TP.topic, 0, n, value) for n in range(count)]
    batch = Batch.of("pages", [Run(TP, 1, records)], "records")
    async with opened(app, kind) as made:
        tracemalloc.start()
        try:
            assert await made.submit(batch, "name-1") == Submitted("made_1")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    print(f"{max(taken) / 1e6:.0f} MB in {count} requests, with {peak / 1e6:.1f} MB at most")
    assert max(taken) > size
    assert peak < BUFFERS

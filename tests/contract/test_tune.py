"""`sluiced tune` and real HTTP: what each answer is taken for, and what goes out. Nothing here
depends on how fast anything is; which setting is found best is tested on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web

from contract.api import Api, answering, api, records
from fakes import FakeRecord
from sluiced.config import Config
from sluiced.errors import SluicedError
from sluiced.tools.tune.allowed import Allowed, Each
from sluiced.tools.tune.load import Load
from sluiced.tools.tune.sweep import BudgetSpentError
from sluiced.tools.tune.trial import Budget, Trial
from sluiced.units import decode
from sluiced.window import WindowSettings

pytestmark = pytest.mark.anyio

MEMORY = 64 * 1024**2


def config(url: str, **sink: Any) -> Config:
    table = {
        "name": "pages",
        "kafka": {"bootstrap_servers": ["127.0.0.1:1"], "group_id": "g", "topics": ["pages"]},
        "sink": {"type": "http", "url": url, "idempotency_header": "Idempotency-Key", **sink},
        "dead_letter": {"topic": "pages.dead"},
    }
    return msgspec.convert(table, Config, strict=True, dec_hook=decode)


@asynccontextmanager
async def trying(
    served: Api, *, budget: Budget | None = None, memory: int = MEMORY, **sink: Any
) -> AsyncIterator[Trial]:
    loaded = config(served.url, **sink)
    load = Load(loaded, records(4 * loaded.sink.max_records))
    built = loaded.sink.build(loaded.line)
    each = Each.of(loaded.limits, next(load.batches(1, 1)))
    trial = Trial(
        built,
        load,
        budget or Budget(400, 60.0),
        Allowed(loaded.limits, each, longest=0.05),
        memory=memory,
        stop=anyio.Event(),
        tick=lambda used, what: None,
    )
    await built.open()
    try:
        yield trial
    finally:
        await built.close()


async def test_records_that_are_taken_are_measured_and_no_batch_id_comes_twice() -> None:
    async with api(answering()) as served, trying(served) as trial:
        points = [await trial.measure(10, 1), await trial.measure(100, 2)]
    assert [p.records for p in points] == [p.size * len(p.latencies) for p in points]
    assert all(p.sound and not p.errors and p.cpu > 0 and p.rate > 0 for p in points)
    keys = [request.headers["Idempotency-Key"] for request in served.requests]
    assert len(set(keys)) == len(keys) == sum(len(p.latencies) for p in points)
    sizes = [len(msgspec.json.decode(body)) for body in served.bodies]
    assert set(sizes) == {10, 100}


async def test_a_size_that_is_too_large_is_asked_once() -> None:
    async with api(answering(413)) as served, trying(served) as trial:
        point = await trial.measure(100, 1)
    assert (point.stopped, point.errors) == ("too large", {"too large 413": 1})
    assert len(served.requests) == 1


async def test_a_size_that_gets_no_answer_in_time_is_asked_once() -> None:
    over = anyio.Event()

    async def never(request: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    async with api(never) as served, trying(served, timeout="300ms") as trial:
        point = await trial.measure(100, 1)
        over.set()
    assert (point.stopped, point.errors) == ("timeout", {"timeout": 1})
    assert len(served.requests) == 1


async def test_a_server_that_fails_three_times_is_left() -> None:
    async with api(answering(500)) as served, trying(served) as trial:
        point = await trial.measure(100, 1)
    assert (point.stopped, point.errors) == ("failed", {"status 500": 3})
    assert len(served.requests) == 3


async def test_a_size_that_does_not_fit_into_the_memory_is_never_sent() -> None:
    async with api(answering()) as served, trying(served, memory=200_000) as trial:
        assert (await trial.measure(100, 1)).stopped is None
        sent = len(served.requests)
        point = await trial.measure(1000, 1)
    assert point.stopped == "memory"
    assert point.memory > 200_000
    assert len(served.requests) == sent


async def test_the_budget_of_requests_is_kept_to() -> None:
    async with api(answering()) as served, trying(served, budget=Budget(10, 60.0)) as trial:
        for size in (1, 2, 3):
            await trial.measure(size, 1)
        with pytest.raises(BudgetSpentError):
            await trial.measure(4, 1)
    assert len(served.requests) == 10


async def test_with_no_minutes_left_nothing_is_sent() -> None:
    async with api(answering()) as served, trying(served, budget=Budget(100, 0.0)) as trial:
        with pytest.raises(BudgetSpentError):
            await trial.measure(1, 1)
    assert served.requests == []


async def test_credentials_that_are_refused_end_it_at_once() -> None:
    async with api(answering(401)) as served, trying(served) as trial:
        with pytest.raises(SluicedError, match="the sink takes nothing"):
            await trial.measure(1, 1)
    assert len(served.requests) == 1


async def test_a_throttled_setting_is_left_and_the_wait_that_was_asked_for_kept() -> None:
    """30 s are asked for, and 0.05 s is as long as it is ready to wait."""
    moments: list[float] = []

    async def throttled(request: web.Request) -> web.Response:
        moments.append(asyncio.get_running_loop().time())
        return web.Response(status=429, headers={"Retry-After": "30"})

    async with api(throttled) as served, trying(served) as trial:
        points = [await trial.measure(size, 1) for size in (1, 10)]
    assert [p.errors for p in points] == [{"throttled 429": 1}] * 2
    assert [p.stopped for p in points] == ["throttled"] * 2
    assert moments[1] - moments[0] >= 0.05


async def test_what_is_refused_counts_as_an_error_and_not_as_throughput() -> None:
    async with api(answering(422)) as served, trying(served) as trial:
        point = await trial.measure(10, 1)
    assert point.errors == {"refused 422": len(point.latencies)}
    assert (point.records, point.rate, point.sound) == (0, 0.0, False)


async def test_with_a_window_for_each_partition_a_request_holds_records_of_one() -> None:
    apart = [FakeRecord(partition=n % 2, offset=n // 2) for n in range(60)]
    loaded = msgspec.structs.replace(
        config("http://127.0.0.1:1/bulk"),
        window=WindowSettings(span="partition"),
    )
    load = Load(loaded, apart)
    assert load.largest == 30
    partitions = [{r.partition for r in batch.records} for batch in load.batches(20, 4)]
    assert partitions == [{0}, {1}, {0}, {1}]


async def test_without_records_there_is_nothing_to_tune_with() -> None:
    with pytest.raises(SluicedError, match="no records to tune with"):
        Load(config("http://127.0.0.1:1/bulk"), [])


async def test_a_run_that_is_stopped_measures_nothing_more() -> None:
    async with api(answering()) as served, trying(served) as trial:
        trial._stop.set()
        with pytest.raises(BudgetSpentError):
            await trial.measure(1, 1)
    assert served.requests == []

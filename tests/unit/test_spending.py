"""What jobs cost: counted when they are submitted and when they are answered, by model."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import anyio
import msgspec
import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from trio.testing import MockClock

from fakes import P0, FakeRecord, Log, until
from job_fakes import NEVER, FakeJobSink, JobRig
from sluiced.gate import LimitSettings
from sluiced.metrics import Metrics
from sluiced.outcome import DELIVERED, Refused
from sluiced.ports import JobResult
from sluiced.prices import Prices, PriceSettings, Usage
from sluiced.record import Record
from sluiced.spending import PAGE, REMEMBERED, Spending
from sluiced.tools.costs import as_text
from sluiced.units import Duration, decode
from sluiced.window import WindowSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def prices(**models: Any) -> Prices:
    return Prices(msgspec.convert(models, dict[str, PriceSettings], dec_hook=decode))


PRICES = prices(m={"input": 1, "output": 10})


class Counting(FakeJobSink):
    """Each request takes 7 tokens and gives 30."""

    model = "m-2026-01-02"

    async def results(self, job: str) -> AsyncIterator[JobResult]:
        async for each in super().results(job):
            if each.verdict is DELIVERED:
                yield replace(each, model=self.model, input_tokens=7, output_tokens=30)
            else:
                yield each


def expected(records: Sequence[Record]) -> list[Usage]:
    return [Usage("m", len(records), 10 * len(records), 100 * len(records))]


def rig(count: int, size: int = 10, **others: Any) -> JobRig:
    log = Log(P0)
    for n in range(count):
        log.append(b"{}", tp=P0, key=b"k%d" % n)
    window = WindowSettings(max_records=size, max_age=Duration(2.0))
    made = JobRig(Counting(), log, window=window, **others)
    made.jobs._book.spending = Spending(PRICES, made.metrics, "m", expected)
    return made


async def done(r: JobRig, count: int = 10) -> None:
    async with r.running():
        await until(lambda: r.committed == count)


class Till:
    """Spending, without jobs."""

    def __init__(self, table: Prices = PRICES, model: str = "m", **others: Any) -> None:
        self.registry = CollectorRegistry()
        self.spending = Spending(table, Metrics("pages", self.registry), model, **others)

    @property
    def page(self) -> str:
        return generate_latest(self.registry).decode()


def tokens(r: JobRig | Till, basis: str, model: str = "m") -> tuple[float, float]:
    labels = {"pipeline": "pages", "model": model, "basis": basis}
    taken, given = (
        r.registry.get_sample_value("sluiced_tokens_total", {**labels, "direction": direction})
        for direction in ("input", "output")
    )
    return taken or 0.0, given or 0.0


async def test_a_job_is_counted_when_it_is_submitted_and_when_it_is_answered() -> None:
    r = rig(10)
    with structlog.testing.capture_logs() as logs:
        await done(r)

    assert tokens(r, "estimated") == (100, 1000)
    assert tokens(r, "reported") == (70, 300)
    assert r.count("cost_total", model="m", basis="estimated") == pytest.approx(0.0101)
    assert r.count("cost_total", model="m", basis="reported") == pytest.approx(0.00307)
    said = {each["event"]: each for each in logs}
    expected = {"input_tokens": 100, "output_tokens": 1000, "cost": "0.0101"}
    assert said["job_submitted"].items() >= expected.items()
    reported = {"input_tokens": 70, "output_tokens": 300, "cost": "0.00307"}
    assert said["job_taken_in"].items() >= reported.items()
    assert r.status.report()["recent_batches"][0]["cost"] == "0.00307"


async def test_what_was_refused_has_cost_nothing() -> None:
    r = rig(10)
    r.api.judge = lambda where: NEVER if where[1] == 3 else DELIVERED
    await done(r)
    assert tokens(r, "reported") == (63, 270)


async def test_answers_are_added_up_over_all_pages_of_them() -> None:
    r = rig(1100, size=1100)
    await done(r, 1100)
    assert r.count("jobs_total", outcome="submitted") == 1
    assert tokens(r, "reported") == (7700, 33_000)


async def test_answers_that_are_read_twice_are_counted_once() -> None:
    r = rig(10)
    r.api.breaks = 1
    await done(r)
    assert tokens(r, "reported") == (70, 300)


async def test_a_job_that_is_adopted_was_submitted_too() -> None:
    r = rig(10)
    r.api.script = ["lost"]
    await done(r)
    assert r.count("jobs_total", outcome="adopted") == 1
    assert tokens(r, "estimated") == (100, 1000)


async def submissions(r: JobRig, count: int) -> list[tuple[float, int]]:
    """When, and of how many records."""
    async with r.running():
        await until(lambda: r.committed == count, 3600.0)
    return [(at, len(batch)) for at, batch, _ in r.api.submissions]


async def test_a_budget_of_tokens_counts_what_requests_are_likely_to_take() -> None:
    r = rig(20, limits=LimitSettings(tokens_per_minute=1100, burst=1.0))
    (first, some), (second, others) = await submissions(r, 20)
    assert (some, others) == (10, 10), "a window of ten takes all of it: 110 tokens for each"
    assert second - first >= 30


async def test_a_batch_that_is_likely_to_take_more_than_a_budget_is_cut() -> None:
    r = rig(10, limits=LimitSettings(tokens_per_minute=660, burst=1.0))
    assert [records for _, records in await submissions(r, 10)] == [5, 5]


async def test_what_records_say_that_they_take_goes_before_any_estimate() -> None:
    limits = LimitSettings(tokens_per_minute=660, tokens="/takes", burst=1.0)
    r = rig(10, limits=limits)  # nothing is said there, so that every four bytes are a token
    assert [records for _, records in await submissions(r, 10)] == [10]


async def test_what_is_left_of_a_batch_without_the_records_to_blame_is_counted_anew() -> None:
    r = rig(10, limits=LimitSettings(tokens_per_minute=10_000, burst=1.0))
    r.api.script = [Refused("400", "line 4: no", named=(3,))]
    with structlog.testing.capture_logs() as logs:
        await done(r)
    [submitted] = [each for each in logs if each["event"] == "job_submitted"]
    assert (submitted["input_tokens"], submitted["output_tokens"]) == (90, 900)
    assert tokens(r, "estimated") == (90, 900)


def test_no_model_is_counted_by_a_name_that_the_configuration_does_not_have() -> None:
    till = Till()
    till.spending.used([Usage("made-up-by-a-record", 1, 5, 6), Usage("m", 1, 1, 1)])
    assert tokens(till, "reported", "other") == (5, 6)
    assert tokens(till, "reported") == (1, 1)
    assert "made-up" not in till.page


def test_the_configured_model_is_counted_by_name_without_a_price_too() -> None:
    till = Till(prices(), "n")
    till.spending.used([Usage("n-2026-01-02", 1, 5, 6)])
    assert tokens(till, "reported", "n") == (5, 6)


async def test_an_estimate_lets_others_have_their_turn() -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    records = [FakeRecord(offset=n) for n in range(2 * PAGE + 1)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turn)
        found = await Till(expects=expected).spending.estimate(records)
        tasks.cancel_scope.cancel()
    assert found == [Usage("m", 2001, 20_010, 200_100)]
    assert turns >= 1


def test_an_answer_that_does_not_name_its_model_is_of_the_configured_one() -> None:
    assert Till().spending.used([Usage("", 1, 1_000_000, 0)])["cost"] == "1.00"


def test_a_model_without_a_price_is_told_of_once() -> None:
    spending = Till().spending
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            said = spending.used([Usage("x" * 200, 1, 5, 6)])
        for n in range(2 * REMEMBERED):
            spending.used([Usage(f"x{n}", 1, 5, 6)])
    assert "cost" not in said
    assert logs[0]["event"] == "model_without_price"
    assert logs[0]["model"] == "x" * 80
    assert len(logs) == REMEMBERED


def test_the_name_that_a_record_gives_its_model_is_not_kept_however_long() -> None:
    spending = Till().spending
    tracemalloc.start()
    try:
        with structlog.testing.capture_logs():
            for n in range(REMEMBERED):
                spending.expected([Usage(f"{n}" + "x" * 10**6, 1, 5, 6)])
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 10**6


def test_without_a_table_of_prices_tokens_are_counted_and_nothing_is_said_of_money() -> None:
    till = Till(prices(), "")
    with structlog.testing.capture_logs() as logs:
        said = till.spending.used([Usage("m", 1, 5, 6)])
    assert said == {"input_tokens": 5, "output_tokens": 6}
    assert tokens(till, "reported", "other") == (5, 6)
    assert "sluiced_cost_total{" not in till.page
    assert logs == []


@pytest.mark.parametrize(
    ("usages", "text"),
    [
        ([Usage("m", 2, 3000, 400)], "about 3,000 tokens in, at most 400 out; costs about 0.007"),
        (
            [Usage("m", 2, 3000, 0, 2)],
            "about 3,000 tokens in; what comes out of 2 is not bounded; costs about 0.003",
        ),
        (
            [Usage("m", 1, 1000), Usage("b", 1, 5), Usage("", 1, 1)],
            "about 1,006 tokens in, at most 0 out; costs about 0.001 without b, none",
        ),
        ([Usage("b", 1, 5, 5)], "about 5 tokens in, at most 5 out"),
    ],
)
def test_what_is_estimated_is_told_in_a_line(usages: list[Usage], text: str) -> None:
    assert as_text(usages, PRICES) == text

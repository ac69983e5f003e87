"""`sluiced tune` against servers whose best setting is known by construction, on virtual time: what
is recommended depends on the server and the limits alone, and not on what else the machine does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from random import Random
from typing import Any

import anyio
import msgspec
import pytest
from trio.testing import MockClock

from fakes import FakeRecord
from loads.models import Model
from sluiced.batch import Batch
from sluiced.config import Config
from sluiced.feedback import Allowance, Feedback
from sluiced.outcome import DELIVERED, Again, Answered, Outcome, TooLarge
from sluiced.ports import Identifies
from sluiced.record import Record
from sluiced.sliding import PERIODS
from sluiced.tools.tune import Options, Tuned, report
from sluiced.tools.tune.advice import advise
from sluiced.tools.tune.allowed import Allowed, Each
from sluiced.tools.tune.load import Load
from sluiced.tools.tune.point import Point
from sluiced.tools.tune.sweep import Sweep
from sluiced.tools.tune.trial import Budget, Trial
from sluiced.units import decode

pytestmark = pytest.mark.anyio

MEMORY = 64 * 1024**2
MINUTES = 5.0


@pytest.fixture
def anyio_backend() -> tuple[str, Mapping[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Server:
    """A sink that is a model. `after` is what it asks to wait for with a 429, `feedback` what it
    says of its limits."""

    identifies: Identifies = "batch"

    def __init__(self, model: Model, *, timeout: float = 30.0) -> None:
        self.model = model
        self.after: float | None = None
        self.feedback: Feedback | None = None
        self.timeout = timeout
        self.sent: list[tuple[float, Batch]] = []
        self._desks = anyio.CapacityLimiter(model.workers)
        self._inside = 0
        self._dice = Random(7)

    async def send(self, batch: Batch) -> Outcome:
        self.sent.append((anyio.current_time(), batch))
        with anyio.move_on_after(self.timeout):
            return await self._answer(batch)
        return Again("timeout", "no answer in time")

    async def _answer(self, batch: Batch) -> Outcome:
        await anyio.sleep(self.model.network / 2)
        verdict = self.model.verdict(len(batch), self._inside, self._dice)
        if verdict == "too large":
            return TooLarge("413")
        if verdict == "slow":
            return Again("throttled", "too many", "429", after=self.after)
        self._inside += 1
        try:
            async with self._desks:
                await anyio.sleep(self.model.seconds(len(batch), self._inside, self._dice))
        finally:
            self._inside -= 1
        await anyio.sleep(self.model.network / 2)
        return Answered([DELIVERED] * len(batch), feedback=self.feedback)

    def objection(self, record: Record) -> str | None:
        return None

    def worst(self, what: str, period: float) -> int:
        """The most that came within any such time."""
        amounts = {"requests": lambda b: 1, "records": len, "bytes": lambda b: b.size}
        times = [(at, amounts[what](batch)) for at, batch in self.sent]
        return max(sum(n for at, n in times if since <= at < since + period) for since, _ in times)


def config(**blocks: Any) -> Config:
    table = {
        "name": "pages",
        "kafka": {"bootstrap_servers": ["127.0.0.1:1"], "group_id": "g", "topics": ["pages"]},
        "sink": {
            "type": "http",
            "url": "http://127.0.0.1:1/bulk",
            "idempotency_header": "Idempotency-Key",
        },
        "dead_letter": {"topic": "pages.dead"},
        **blocks,
    }
    return msgspec.convert(table, Config, strict=True, dec_hook=decode)


async def tuned(
    server: Server,
    *,
    largest: int = 1000,
    most: int = 8,
    options: Options | None = None,
    **blocks: Any,
) -> Tuned:
    """As `tune` does it, with records and a server of ours."""
    options = options or Options(requests=500, minutes=MINUTES, at_once=most)
    loaded = config(**blocks)
    records = [FakeRecord(offset=n, value=b'{"n":%05d}' % n) for n in range(4 * largest)]
    load = Load(loaded, records)
    each = Each.of(loaded.limits, next(load.batches(load.largest, 1)))
    allowed = Allowed(loaded.limits, each, longest=float(loaded.retry.max_delay))
    budget = Budget(options.requests, options.minutes * 60)
    trial = Trial(
        server,
        load,
        budget,
        allowed,
        memory=MEMORY,
        stop=anyio.Event(),
        tick=lambda used, what: None,
    )
    most_records = int(min(largest, allowed.largest))
    sweep = Sweep(trial.measure, most_records, most, lambda size: allowed.ceiling(size).rate)
    await sweep.run()
    advice = advise(loaded, sweep.points, most)
    seconds = budget.seconds - budget.seconds_left
    return Tuned(
        loaded, options, {}, sweep.points, advice, sweep.cut_short, False, allowed.held, seconds
    )


def chosen(found: Tuned) -> Point:
    assert found.advice is not None
    return found.advice.point


MODELS = {
    "one worker": Model(),
    "eight workers": Model(workers=8),
    "three workers": Model(workers=3),
    "slow": Model(workers=8, per_request=0.2, per_record=0.002),
    "nothing but records": Model(workers=4, per_request=0.005, per_record=0.002),
    "nothing but requests": Model(workers=4, per_request=0.5, per_record=0.0001),
    "413 above 300 records": Model(workers=4, records=300),
    "413 above 37 records": Model(workers=2, records=37),
    "413 above 1 record": Model(workers=2, records=1),
    "a cliff at 400 records": Model(workers=4, cliff=400),
    "429 above five requests": Model(workers=16, concurrent=5),
    "thrashing above five": Model(workers=12, knee=5),
    "a far network": Model(workers=32, per_request=0.001, per_record=0.00002, network=0.2),
    "a spread of a tenth": Model(workers=4, noise=0.1),
}


@pytest.mark.parametrize("name", MODELS)
async def test_the_recommendation_is_within_15_percent_of_the_best(name: str) -> None:
    model = MODELS[name]
    server = Server(model)
    found = await tuned(server)
    point = chosen(found)
    best = model.best(8, 1000)
    assert model.goodput(point.concurrency, point.size) >= 0.85 * best, found.advice
    assert not found.cut_short
    assert len(server.sent) <= 500
    assert {p.limit for p in found.points} == {""}


@pytest.mark.parametrize("most", [1, 3, 16])
async def test_no_more_at_once_than_is_allowed(most: int) -> None:
    found = await tuned(Server(Model(workers=32)), most=most)
    assert max(p.concurrency for p in found.points) == most
    assert chosen(found).concurrency == most
    assert f"more than {most} at once are not tried" in found.advice.reason  # type: ignore[union-attr]


LIMITS: dict[str, dict[str, Any]] = {
    "requests": {"requests_per_minute": 120},
    "requests a second": {"requests_per_second": 5},
    "records": {"records_per_minute": 6000},
    "bytes": {"bytes_per_minute": "60KB"},
    "tokens": {"tokens_per_minute": 12000},
    "two": {"requests_per_minute": 600, "records_per_hour": 100_000},
}


def most_allowed(limits: Mapping[str, Any], model: Model, largest: int) -> float:
    """The best that the model and the limits make possible, in records a second. A value has 11
    bytes, which is taken for 3 tokens, or 2.75 of many."""
    each = {"records": 1.0, "bytes": 11.0, "tokens": 11 / 4}

    def rate(slots: int, size: int) -> float:
        found = model.goodput(slots, size)
        for name, limit in limits.items():
            what, _, unit = name.partition("_per_")
            limit = 60_000 if limit == "60KB" else limit
            pace = limit / PERIODS[unit]
            found = min(found, pace * size if what == "requests" else pace / each[what])
        return found

    return max(rate(slots, size) for slots in (1, 2, 4, 8) for size in range(1, largest + 1, 7))


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("model", ["one worker", "413 above 300 records", "slow"])
async def test_under_a_limit_the_recommendation_is_within_15_percent_of_what_it_lets_through(
    name: str, model: str
) -> None:
    limits, served = LIMITS[name], MODELS[model]
    server = Server(served)
    found = await tuned(server, limits=limits)
    point = chosen(found)
    best = most_allowed(limits, served, min(1000, int(min(served.records, 1000))))
    assert point.rate >= 0.85 * best, found.advice
    assert point.rate <= 1.05 * best, "what is told is no more than can be had"
    for key, limit in limits.items():
        what, _, unit = key.partition("_per_")
        if what != "tokens" and unit != "hour":
            most = 60_000 if limit == "60KB" else limit
            assert server.worst(what, PERIODS[unit]) <= most


async def test_that_a_limit_and_not_the_api_bounds_the_throughput_is_said() -> None:
    found = await tuned(Server(Model(workers=8)), limits={"records_per_minute": 6000})
    point, advice = chosen(found), found.advice
    assert advice is not None
    assert (point.limit, round(point.rate)) == ("records_per_minute", 100)
    assert {p.concurrency for p in found.points} == {1}, "more at once can bring nothing"
    assert len(found.points) <= 6, "nor can what lies between two sizes"
    assert "limits.records_per_minute = 6000, not the API, is what bounds it" in advice.reason
    assert any("Without that limit this setting could do" in r for r in advice.remarks)
    text = "\n".join(report.as_text(found, 80))
    assert "<- records/min" in text
    assert "limits.records_per_minute = 6000 has held requests back for" in text


async def test_without_limits_none_is_spoken_of() -> None:
    found = await tuned(Server(Model(workers=8)))
    text = "\n".join(report.as_text(found, 80))
    assert "limits.max_in_flight" in text
    assert "held requests back" not in text
    assert "not the API" not in text


async def test_what_limits_do_not_let_through_in_the_minutes_is_not_tried_and_told() -> None:
    """600 records an hour are ten a minute: 100 in one request would take ten minutes."""
    server = Server(Model())
    found = await tuned(server, limits={"records_per_hour": 600})
    assert max(len(batch) for _, batch in server.sent) < 100
    [point] = [p for p in found.points if p.size == 100]
    assert (point.stopped, point.limit, round(point.needed)) == ("minutes", "records_per_hour", 600)
    text = " ".join(" ".join(report.as_text(found, 80)).split())
    assert "100 1 minutes" in text
    assert "limits.records_per_hour = 600 takes 10 min to let one through" in text
    assert anyio.current_time() - server.sent[0][0] <= MINUTES * 60
    assert chosen(found).size < 100


async def test_where_not_one_request_fits_into_the_minutes_it_ends_at_once() -> None:
    server = Server(Model())
    began = anyio.current_time()
    found = await tuned(server, limits={"requests_per_day": 10})
    assert (found.cut_short, found.points, server.sent) == (True, [], [])
    assert anyio.current_time() == began


async def test_the_minutes_are_kept_to_under_a_limit() -> None:
    server = Server(Model())
    began = anyio.current_time()
    found = await tuned(server, limits={"requests_per_minute": 1})
    assert anyio.current_time() - began <= MINUTES * 60
    assert found.cut_short
    assert 4 <= len(server.sent) <= 5
    assert found.advice is not None, "what was measured is enough to say something"


async def test_a_wait_that_the_api_asks_for_is_kept() -> None:
    server = Server(Model(concurrent=0))
    server.after = 20.0
    found = await tuned(server)
    moments = [at for at, _ in server.sent]
    assert len(moments) == 4, "each size once"
    assert all(b - a >= 20 for a, b in pairwise(moments))
    assert {p.stopped for p in found.points} == {"throttled"}
    assert found.held["server"] >= 60


async def test_no_wait_is_longer_than_the_longest_that_the_daemon_would_wait() -> None:
    server = Server(Model(concurrent=0))
    server.after = 3600.0
    await tuned(server, retry={"max_delay": "10s"})
    moments = [at for at, _ in server.sent]
    assert len(moments) == 4, "each size once"
    assert all(10 <= b - a <= 12 for a, b in pairwise(moments))


async def test_what_the_api_says_of_its_own_limits_holds_requests_back_and_is_said() -> None:
    """After each answer none is left for two seconds."""
    server = Server(Model(per_request=0.01, network=0.0))
    server.feedback = Feedback((Allowance("requests", 0.0, reset=2.0),))
    found = await tuned(server, most=1)
    moments = [at for at, _ in server.sent]
    assert all(b - a >= 2 for a, b in pairwise(moments))
    assert chosen(found).limit == "server"
    assert found.advice is not None
    assert "the API bounds it by limits of its own" in found.advice.reason


async def test_a_size_that_gets_no_answer_in_time_is_left_and_none_larger_tried() -> None:
    server = Server(Model(per_request=0.05, per_record=0.02), timeout=3.0)
    found = await tuned(server)
    late = [p for p in found.points if p.stopped == "timeout"]
    assert min(p.size for p in late) > (3.0 - 0.05) / 0.02 - 1
    assert max(len(batch) for _, batch in server.sent) == 1000
    assert all(p.errors == {"timeout": 1} for p in late), "one is enough to leave a size"


async def test_every_request_is_counted_and_none_beyond_the_budget_made() -> None:
    server = Server(Model(workers=8))
    found = await tuned(server, options=Options(requests=50, minutes=MINUTES))
    assert 40 < len(server.sent) <= 50
    assert found.cut_short
    assert Counter(batch.id for _, batch in server.sent).most_common(1)[0][1] == 1


@pytest.mark.parametrize("edge", [1, 50, 999])
async def test_a_size_that_is_too_large_is_asked_once_and_bounds_what_is_recommended(
    edge: int,
) -> None:
    server = Server(Model(records=edge))
    found = await tuned(server)
    over = [len(batch) for _, batch in server.sent if len(batch) > edge]
    assert len(over) == len(set(over))
    assert max(over) == min(n for n in (10, 100, 1000) if n > edge)
    assert found.advice is not None
    sound = max(p.size for p in found.points if p.sound)
    assert found.advice.values["sink.max_records"] == sound <= edge
    assert all(p.errors == {"too large 413": 1} for p in found.points if p.stopped)

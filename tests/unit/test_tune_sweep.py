"""Which settings `sluiced tune` tries, against servers that are a formula: no noise, no clock."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluiced.tools.tune.point import Point
from sluiced.tools.tune.sweep import BudgetSpentError, Sweep, between, knee, promised

pytestmark = pytest.mark.anyio


class Server:
    """`request` and `record` are seconds that each costs; above `edge` records it answers 413,
    above `cliff` each record costs ten times as much; `workers` requests are served at once."""

    def __init__(
        self,
        request: float = 0.01,
        record: float = 0.0001,
        edge: float = inf,
        cliff: float = inf,
        workers: int = 1,
    ) -> None:
        self.request, self.record, self.edge, self.cliff = request, record, edge, cliff
        self.workers = workers
        self.asked: list[tuple[int, int]] = []

    def seconds(self, size: int) -> float:
        return self.request + self.record * size * (10 if size > self.cliff else 1)

    def rate(self, size: int, concurrency: int) -> float:
        served = min(concurrency, self.workers)
        return 0.0 if size > self.edge else served * size / self.seconds(size)

    def best(self, largest: int) -> float:
        return max(self.rate(size, 8) for size in range(1, largest + 1))

    async def measure(self, size: int, concurrency: int) -> Point:
        self.asked.append((size, concurrency))
        if size > self.edge:
            return Point(size, concurrency, latencies=(0.001,), stopped="too large")
        waits = max(1.0, concurrency / self.workers)
        rate = self.rate(size, concurrency)
        return Point(
            size, concurrency, size, size / rate, latencies=(self.seconds(size) * waits,) * 4
        )


async def swept(server: Server, largest: int = 1000) -> Point:
    sweep = Sweep(server.measure, largest)
    await sweep.run()
    found = knee(sweep.points)
    assert found is not None
    assert not sweep.cut_short
    return found


@given(
    request=st.floats(0.001, 1),
    record=st.floats(0.00001, 0.01),
    edge=st.integers(1, 3000),
    workers=st.integers(1, 10),
)
async def test_what_is_recommended_is_within_15_percent_of_the_best_there_is(
    request: float, record: float, edge: int, workers: int
) -> None:
    server = Server(request, record, edge=edge, workers=workers)
    found = await swept(server, 2000)
    assert server.rate(found.size, found.concurrency) >= 0.85 * server.best(2000)
    assert len(server.asked) <= 30
    assert len(server.asked) - len(set(server.asked)) <= 1, "only where more at once ends"


@pytest.mark.parametrize("cliff", [40, 120, 777, 999])
async def test_a_cliff_is_found_from_below(cliff: int) -> None:
    server = Server(request=0.05, record=0.0002, cliff=cliff, workers=2)
    found = await swept(server)
    assert found.size <= cliff
    assert server.rate(found.size, found.concurrency) >= 0.85 * server.best(1000)


async def test_nothing_larger_is_tried_once_a_request_was_too_large() -> None:
    server = Server(edge=50)
    await swept(server, 100_000)
    assert max(size for size, _ in server.asked) == 100


async def test_where_one_record_is_too_large_nothing_else_is_tried() -> None:
    server = Server(edge=0)
    await Sweep(server.measure, 1000).run()
    assert server.asked == [(1, 1)]


async def test_with_more_at_once_the_sizes_are_looked_at_again() -> None:
    """Each request costs the more the more there are, so that larger ones are better then."""

    async def measure(size: int, concurrency: int) -> Point:
        seconds = 0.001 * concurrency**2 + 0.001 * size
        return Point(size, concurrency, size * concurrency, seconds, latencies=(seconds,))

    sweep = Sweep(measure, 1000)
    await sweep.run()
    alone, found = knee(sweep.at(1)), knee(sweep.points)
    assert alone is not None
    assert found is not None
    assert found.concurrency > 1
    assert found.size > alone.size


async def test_no_more_at_once_than_is_faster() -> None:
    server = Server(workers=3)
    found = await swept(server)
    assert found.concurrency == 4
    assert max(level for _, level in server.asked) == 8
    alone = Server(workers=1)
    assert (await swept(alone)).concurrency == 1
    assert max(level for _, level in alone.asked) == 2, "one look that it is not faster is enough"


async def test_one_bad_moment_does_not_end_the_look_at_more_at_once() -> None:
    server = Server(workers=8)

    async def measure(size: int, concurrency: int) -> Point:
        point = await server.measure(size, concurrency)
        bad = concurrency == 4 and server.asked.count((size, 4)) == 1
        return replace(point, seconds=point.seconds * 3) if bad else point

    sweep = Sweep(measure, 1000)
    await sweep.run()
    found = knee(sweep.points)
    assert found is not None
    assert found.concurrency == 8


async def test_where_requests_cost_little_the_smaller_size_is_taken() -> None:
    found = await swept(Server(request=0.001, record=0.001), 10_000)
    assert found.size <= 40, "forty are as fast as ten thousand, and wait for less"


async def test_the_end_of_the_budget_leaves_what_was_measured() -> None:
    server = Server()

    async def measure(size: int, concurrency: int) -> Point:
        if len(server.asked) == 3:
            raise BudgetSpentError
        return await server.measure(size, concurrency)

    sweep = Sweep(measure, 1000)
    await sweep.run()
    assert sweep.cut_short
    assert [p.size for p in sweep.points] == [1, 10, 100]


@pytest.mark.parametrize(("slow", "tried"), [(0.004, False), (0.0015, True)])
async def test_sizes_beyond_one_that_is_hopelessly_slow_are_not_tried(
    slow: float, tried: bool
) -> None:
    asked: list[int] = []

    async def measure(size: int, concurrency: int) -> Point:
        asked.append(size)
        seconds = 0.01 if size < 100 else slow * size
        return Point(size, concurrency, size, seconds, latencies=(seconds,))

    await Sweep(measure, 1000).run()
    assert (1000 in asked) is tried


def test_what_a_larger_request_promises_follows_from_two_that_were_seen() -> None:
    below, best = (
        Point(size, 1, size, 0.1 + 0.01 * size, latencies=(0.1 + 0.01 * size,)) for size in (10, 20)
    )
    assert promised(below, best, 40) == pytest.approx(40 / 0.5)
    assert between(10, 1000) == 100

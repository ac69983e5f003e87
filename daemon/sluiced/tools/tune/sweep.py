"""Which sizes are tried, how many at once, and in which order. Knows no sink and no clock.

A cost of each request and a cost of each record make the throughput rise with the size, up to an
edge beyond which the API refuses, or slows down. So sizes grow tenfold; then two that were measured
tell what to expect of the next one, and a gap in which that is not kept is halved until the edge is
found.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from math import inf, sqrt

from .point import Point

SLACK = 0.05  # this part of the throughput is given up for smaller requests, and fewer at once
EDGE = 1.06  # sizes that differ by a smaller factor are not told apart
MOST = 8  # at once, unless the configuration has a bound of its own
HALVINGS = 12  # of gaps between sizes, at most
TOO_MUCH = ("too large", "timeout", "memory", "minutes")  # larger ones would be all the more
HOPELESS = 0.5  # of the best throughput: larger sizes are not tried below it

Measure = Callable[[int, int], Awaitable[Point]]
Ceiling = Callable[[int], float]  # records a second that limits let through at a size


class BudgetSpentError(Exception):
    """There are no requests or minutes left to measure anything more."""


def fastest(points: Iterable[Point]) -> Point | None:
    """The one with the highest throughput among those that can be recommended."""
    return max((p for p in points if p.sound), key=lambda p: p.rate, default=None)


def knee(points: Sequence[Point]) -> Point | None:
    """The gentlest setting that is nearly the fastest: as few at once as possible, since that
    keeps more of the order, and then as few records."""
    best = fastest(points)
    if best is None:
        return None
    near = (p for p in points if p.sound and p.rate >= (1 - SLACK) * best.rate)
    return min(near, key=lambda p: (p.concurrency, p.size))


class Sweep:
    """`points` in the order in which they were measured; `cut_short` if the budget ended it.

    Requests of `largest` records at most, and `most` at once. Beyond the `ceiling` nothing is
    looked for.
    """

    def __init__(
        self, measure: Measure, largest: int, most: int = MOST, ceiling: Ceiling = lambda size: inf
    ) -> None:
        self._measure = measure
        self._largest = largest
        self._most = most
        self._ceiling = ceiling
        self.points: list[Point] = []
        self.cut_short = False

    async def run(self) -> None:
        """Raises what `measure` raises, but for the end of the budget."""
        try:
            await self._grow()
            await self._refine()
            await self._find_knee()
            await self._raise_concurrency()
        except BudgetSpentError:
            self.cut_short = True

    def at(self, concurrency: int) -> list[Point]:
        """By size, those measured with so many at once."""
        found = (p for p in self.points if p.concurrency == concurrency)
        return sorted(found, key=lambda p: p.size)

    async def _try(self, size: int, concurrency: int) -> Point:
        known = (p for p in self.at(concurrency) if p.size == size)
        if (point := next(known, None)) is None:
            point = await self._measure(size, concurrency)
            self.points.append(point)
        return point

    async def _again(self, point: Point) -> Point:
        """The better one of two measurements, which takes the place of the first."""
        second = await self._measure(point.size, point.concurrency)
        better = max(point, second, key=lambda p: p.rate if p.sound else 0.0)
        self.points[self.points.index(point)] = better
        return better

    async def _grow(self) -> None:
        """1, 10, 100 and so on, up to the largest, or to where the API has enough."""
        size = 1
        while True:
            point = await self._try(size, 1)
            best = fastest(self.points)
            if point.stopped in TOO_MUCH or size == self._largest:
                return
            if best is not None and point.rate < HOPELESS * best.rate:
                return
            size = min(size * 10, self._largest)

    async def _refine(self) -> None:
        """Halves the gap that promises most, for as long as one promises more than was seen."""
        for _ in range(HALVINGS):
            points = self.at(1)
            best = fastest(points)
            wide = [g for g in _gaps(points) if g[2] > max(g[1] + 1, EDGE * g[1])]
            if best is None or not wide:
                return
            promise, low, high = max((min(p, self._ceiling(h)), low, h) for p, low, h in wide)
            if promise <= (1 + SLACK) * best.rate:
                return
            await self._try(between(low, high), 1)

    async def _find_knee(self) -> None:
        """Looks twice whether a smaller size would do as well."""
        for _ in range(2):
            points = self.at(1)
            found = knee(points)
            below = max((p.size for p in points if found and p.size < found.size), default=None)
            if found is None or below is None or found.size / below <= 1.5:
                return
            await self._try(between(below, found.size), 1)

    async def _raise_concurrency(self) -> None:
        """More at once for as long as it is faster; then the sizes beside, with so many."""
        found = knee(self.at(1))
        if found is None or found.rate >= (1 - SLACK) * self._ceiling(found.size):
            return
        last = found
        for level in levels(self._most):
            point = await self._try(found.size, level)
            if point.sound and point.rate < (1 + SLACK) * last.rate:
                point = await self._again(point)  # it may have been a bad moment
            if not point.sound or point.rate < (1 + SLACK) * last.rate:
                if not point.sound or point.rate < (1 - SLACK) * last.rate:
                    last = await self._between(last, level)
                break
            last = point
        if last.concurrency > 1:
            await self._climb(last)

    async def _between(self, fine: Point, many: int) -> Point:
        """The most at once that are faster than fewer, where `many` fail or are slower."""
        while many - fine.concurrency > 1:
            level = (fine.concurrency + many) // 2
            point = await self._try(fine.size, level)
            if point.sound and point.rate >= (1 + SLACK) * fine.rate:
                fine = point
            else:
                many = level
        return fine

    async def _climb(self, start: Point) -> None:
        """From size to size that was sound with one at a time, for as long as it gets faster."""
        sizes = [p.size for p in self.at(1) if p.sound]
        for step in (1, -1):
            best, index = start, sizes.index(start.size) + step
            while 0 <= index < len(sizes):
                point = await self._try(sizes[index], start.concurrency)
                if not point.sound or point.rate < (1 + SLACK) * best.rate:
                    break
                best, index = point, index + step
            if best is not start:
                return


def levels(most: int) -> Iterator[int]:
    """How many at once, after one: twice as many each time, and in the end `most`."""
    level = 2
    while level < most:
        yield level
        level *= 2
    if most > 1:
        yield most


def _gaps(points: Sequence[Point]) -> Iterator[tuple[float, int, int]]:
    """What lies between two sizes, as (the throughput that may be found there, low, high)."""
    below: Point | None = None
    for low, high in pairwise(points):
        if not low.sound:
            continue
        if below is not None:
            yield promised(below, low, high.size), low.size, high.size
        elif not high.sound:  # at the best, only requests cost anything
            yield low.rate * high.size / low.size, low.size, high.size
        below = low


def between(low: int, high: int) -> int:
    """The size as many times larger than `low` as `high` is larger than it, and none of them."""
    return min(max(round(sqrt(low * high)), low + 1), high - 1)


def promised(below: Point, best: Point, size: int) -> float:
    """The throughput at a larger size if each request and each record go on costing the same."""
    first, second = below.percentile(0.5), best.percentile(0.5)
    each = max(0.0, (second - first) / (best.size - below.size))
    seconds = second + each * (size - best.size)
    return size / seconds if seconds else float("inf")

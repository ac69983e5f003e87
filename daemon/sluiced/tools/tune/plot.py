"""What was measured against the size of a request, drawn as SVG: a line for each number at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, inf, log10

from . import report
from .point import Point

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 300, 80, 50, 30, 34
COLOURS = 6  # classes c0 to c5, which the page gives colours to; more lines than that share them
MARK = 4.5  # half of what a mark is across
CLOSE = 48.0  # labels of an axis that are nearer to each other run into one another


@dataclass(frozen=True, slots=True)
class Plot:
    """A value of each point against its size. `all` are shown, or those alone that delivered."""

    title: str
    value: Callable[[Point], float]
    shown: Callable[[float], str]
    all: bool = False


PLOTS = (
    Plot("Throughput, records a second", lambda p: p.rate, report.rate, all=True),
    Plot("Latency, median", lambda p: p.percentile(0.5), report.seconds),
    Plot("Latency, 95 %", lambda p: p.percentile(0.95), report.seconds),
    Plot("Latency, 99 %", lambda p: p.percentile(0.99), report.seconds),
    Plot("Memory that records and bodies take", lambda p: float(p.memory), report.size),
    Plot("Peak memory of the whole process", lambda p: float(p.peak), report.size),
)


class _Axes:
    """Where a size and a value are on the drawing: the size is logarithmic, the value from 0 on."""

    def __init__(self, sizes: Sequence[int], most: float) -> None:
        self.low, self.high = min(sizes), max(sizes)
        self.top = _round_up(most or 1.0)

    def x(self, size: int) -> float:
        if self.low == self.high:
            return (LEFT + WIDTH - RIGHT) / 2
        part = log10(size / self.low) / log10(self.high / self.low)
        return LEFT + (WIDTH - LEFT - RIGHT) * part

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * min(value, self.top) / self.top


def drawn(plot: Plot, measured: Sequence[Point], chosen: Point | None) -> Iterator[str]:
    """The lines of an SVG; none where there is nothing to be seen."""
    points = [p for p in report.ordered(measured) if p.latencies and (plot.all or p.records)]
    if not any(map(plot.value, points)):
        return
    axes = _Axes([p.size for p in points], max(map(plot.value, points)))
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(plot.title)}">'
    yield from _grid(plot, axes)
    if plot is PLOTS[0]:
        yield from _ceiling(points, axes)
    if chosen is not None:
        x = axes.x(chosen.size)
        yield f'<line class="knee" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        anchor = "end" if x > WIDTH - 150 else "start" if x < LEFT + 60 else "middle"
        label = f"recommended: {chosen.size:,}"
        yield f'<text class="knee-label" x="{x:.1f}" y="{TOP - 10}" text-anchor="{anchor}">'
        yield f"{label}</text>"
    levels = sorted({p.concurrency for p in points})
    for number, level in enumerate(levels):
        own = [p for p in points if p.concurrency == level]
        yield f'<g class="c{number % COLOURS}">'
        yield from _line(plot, axes, own, chosen)
        x, y = LEFT + min(95, 500 // len(levels)) * number, HEIGHT - 8
        if len(levels) <= COLOURS:
            yield f'<rect x="{x}" y="{y - 9}" width="14" height="9"/>'
            yield f'<text x="{x + 20}" y="{y}">{level} at once</text>'
        yield "</g>"
    yield "</svg>"


def _grid(plot: Plot, axes: _Axes) -> Iterator[str]:
    for quarter in range(5):
        value = axes.top * quarter / 4
        y = axes.y(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
        yield f"{escape(plot.shown(value) if value else '0')}</text>"
    for size in _marks(axes):
        x = axes.x(size)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" '
        yield f'y2="{HEIGHT - BOTTOM + 5}"/>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{size:,}</text>'
    yield f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">records a request</text>'


def _marks(axes: _Axes) -> list[int]:
    """Sizes that are named below: the ends, and powers of ten that have room beside them."""
    found = [axes.low] if axes.low == axes.high else [axes.low, axes.high]
    for power in range(ceil(log10(axes.high)) + 1):
        size = 10**power
        if axes.low < size < axes.high:
            found += [size] * all(abs(axes.x(size) - axes.x(x)) > CLOSE for x in found)
    return found


def _ceiling(points: Sequence[Point], axes: _Axes) -> Iterator[str]:
    """What limits let through at most, as far as it is on the drawing."""
    limits = sorted({(p.size, p.ceiling) for p in points if p.ceiling < inf})
    inside = [(size, rate) for size, rate in limits if rate <= axes.top]
    if inside:
        places = " ".join(f"{axes.x(size):.1f},{axes.y(rate):.1f}" for size, rate in inside)
        yield f'<polyline class="limit" points="{places}"/>'
        x, y = axes.x(inside[0][0]), axes.y(inside[0][1]) + 18
        side = "end" if x > WIDTH / 2 else "start"
        yield f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{side}">what [limits] let through</text>'


def _line(plot: Plot, axes: _Axes, points: Sequence[Point], chosen: Point | None) -> Iterator[str]:
    places = [(axes.x(p.size), axes.y(plot.value(p)), p) for p in points]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y, p in places if p.sound)
    yield f'<polyline points="{joined}"/>'
    for x, y, p in places:
        said = f"{p.size:,} records, {p.concurrency} at once: {plot.shown(plot.value(p))}"
        said += f", {p.stopped}" if p.stopped else ""
        if p.sound:
            ring = ' class="chosen"' if p is chosen else ""
            radius = MARK + 2 if p is chosen else MARK - 1
            yield f'<circle{ring} cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
            yield f"<title>{escape(said)}</title></circle>"
        else:
            cross = f"M{x - MARK:.1f} {y - MARK:.1f}l9 9m0-9l-9 9"
            yield f'<path d="{cross}"><title>{escape(said)}</title></path>'


def _round_up(value: float) -> float:
    """To two digits, of which the second is even: what an axis ends at."""
    unit = 10.0 ** floor(log10(value)) / 5
    return ceil(value / unit) * unit

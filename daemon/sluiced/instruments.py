"""Counters and histograms: plain numbers, turned into Prometheus families when scraped.

prometheus_client's own take one observation at a time, under a lock, and add a `_created` series
whose value differs from run to run. Here a batch is one addition, what `/status` totals is the very
number that `/metrics` shows, and the same history gives the same text.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import product
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

Key: TypeAlias = tuple[str, ...]  # label values, without the pipeline


class Counter:
    """Sums by label values."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name, self._help, self._labels = f"sluiced_{name}", text, labels
        self._values: dict[Key, float] = {}

    def start(self, *values: Iterable[str]) -> Counter:
        """Shows every combination of these label values from now on, at 0 where it is new."""
        for key in product(*values):
            self._values.setdefault(key, 0)
        return self

    def add(self, amount: float, *key: str) -> None:
        self._values[key] = self._values.get(key, 0) + amount

    def total(self) -> float:
        return sum(self._values.values())

    def collect(self, pipeline: str) -> Metric:
        family = CounterMetricFamily(self._name, self._help, labels=["pipeline", *self._labels])
        for key in sorted(self._values):
            family.add_metric([pipeline, *key], self._values[key])
        return family


class Histogram:
    """Cumulative bucket counts and a sum, by label values."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> None:
        self._name, self._help, self._labels = f"sluiced_{name}", text, labels
        self._bounds = bounds
        self._names = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._counts: dict[Key, list[int]] = {}
        self._sums: dict[Key, float] = {}

    def start(self, *values: Iterable[str]) -> Histogram:
        for key in product(*values):
            self._counts.setdefault(key, [0] * len(self._names))
            self._sums.setdefault(key, 0.0)
        return self

    def observe(self, value: float, *key: str) -> None:
        counts = self._counts[key]
        for index in range(bisect_left(self._bounds, value), len(counts)):
            counts[index] += 1
        self._sums[key] += value

    def observe_delays(self, timestamps_ms: Sequence[int], now_ms: float) -> None:
        """Many delays at once: one sort, then a bisection for each bound.

        A delay is at most `bound` where the timestamp is at least `now - bound`, so the delays
        themselves are never computed one by one.
        """
        times, now = sorted(timestamps_ms), int(now_ms)  # integers, so that the sum stays exact
        first, ahead = bisect_left(times, 0), bisect_right(times, now)
        counts = self._counts[()]
        for index, bound in enumerate(self._bounds):
            counts[index] += len(times) - max(first, bisect_left(times, now - bound * 1000))
        counts[-1] += len(times) - first
        past = times[first:ahead]
        self._sums[()] += (len(past) * now - sum(past)) / 1000

    def collect(self, pipeline: str) -> Metric:
        family = HistogramMetricFamily(self._name, self._help, labels=["pipeline", *self._labels])
        for key in sorted(self._counts):
            buckets = list(zip(self._names, self._counts[key], strict=True))
            family.add_metric([pipeline, *key], buckets, self._sums[key])
        return family

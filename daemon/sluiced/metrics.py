"""The instruments, kept as plain numbers and turned into Prometheus families when scraped.

prometheus_client's own Counter and Histogram take one observation at a time, under a lock, and
add a `_created` series whose value differs from run to run. Here a batch is one addition, what
`/status` totals is the very number that `/metrics` shows, and the same history gives the same text.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, TypeAlias, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from . import __version__
from .batch import ClosedBy
from .outcome import RetryReason
from .ports import CommitOutcome, Reason
from .record import TopicPartition

BatchOutcome = Literal["delivered", "partial", "rejected"]
RequestOutcome = Literal["ok", "refused", "error", "timeout"]
SkipReason = Literal["tombstone", "collapsed", "filtered"]
Recovered = Literal["exact", "changed", "split"]
JobOutcome = Literal["submitted", "adopted", "not_found", "undecided", "ended", "failed"]
JobState = Literal["working", "ended", "waiting"]
JobRecords = Literal["done", "refused", "again", "missing", "doubled", "unknown"]
Direction = Literal["input", "output"]
Basis = Literal["estimated", "reported"]
Redriven = Literal["sent", "left", "failed", "given_up"]
State = Literal["starting", "running", "waiting", "outage", "halted", "draining"]
_Key: TypeAlias = tuple[str, ...]  # label values, without the pipeline

RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5)
BYTES = tuple(1024.0 * 4**n for n in range(10))  # 1 KiB to 256 MiB
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
PLAN_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 10, 60)
DELAY_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 21600, 86400)


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is true at this moment; asked for once a scrape, so that nothing has to be kept current.

    `checkpoints` (committed offsets), `log_starts` (the oldest offsets that the broker still has),
    `visible` (seconds since 1970) and `lags` (records) name the partitions that are assigned now: a
    revoked one disappears from the page by not being named.
    """

    state: State = "starting"
    buffered_records: int = 0
    buffered_bytes: int = 0
    memory_used_bytes: int = 0
    memory_limit_bytes: int = 0
    in_flight_batches: int = 0
    oldest_unflushed_seconds: float = 0.0
    stopped_partitions: int = 0
    checkpoint_age_seconds: float = 0.0
    sink_up: bool = True
    active: bool = True
    catch_up_seconds: float = 0.0
    oldest_job_seconds: float = 0.0
    job_unseen_seconds: float = 0.0
    jobs: Mapping[JobState, int] = field(default_factory=dict)
    checkpoints: Mapping[TopicPartition, int] = field(default_factory=dict)
    log_starts: Mapping[TopicPartition, int] = field(default_factory=dict)
    visible: Mapping[TopicPartition, float] = field(default_factory=dict)
    lags: Mapping[TopicPartition, int] = field(default_factory=dict)


_GAUGES = {
    "buffered_records": "Records waiting in open windows.",
    "buffered_bytes": "Bytes that they occupy.",
    "memory_limit_bytes": "The budget for records buffered and in flight.",
    "memory_used_bytes": "What they and the bodies made of them take up.",
    "in_flight_batches": "Batches at the sink.",
    "oldest_unflushed_seconds": "How long the oldest unsettled record has been held.",
    "stopped_partitions": "Partitions that cannot be read on, because their log is damaged.",
    "checkpoint_age_seconds": "Time since a commit last moved a checkpoint, or the start.",
    "sink_up": "0 during an outage of the sink.",
    "active": "0 outside of the times at which records may be released.",
    "catch_up_seconds": "Until all that waits in Kafka is done, as things go; NaN for never.",
    "oldest_job_seconds": "Age of the oldest job at work at the API; 0 if there is none.",
    "job_unseen_seconds": "Time since the API last said of a job at work how it is, the longest.",
}


class Metrics:
    """All instruments of one pipeline, registered with `registry`.

    Methods take the counts of a whole batch and are never called per record. A value that is
    known beforehand starts at 0, so that an alert sees its first increase.
    """

    def __init__(self, pipeline: str, registry: CollectorRegistry) -> None:
        self._pipeline = pipeline
        self._gauges: Callable[[], Gauges] = Gauges
        self._reloaded = True

        self._consumed = _Counter("records_consumed", "Records fetched.", "topic")
        self._delivered = _Counter(
            "records_delivered", "Records that the sink acknowledged.", "topic"
        )
        self._dead_lettered = _Counter(
            "records_dead_lettered",
            "Records acknowledged by the dead-letter topic.",
            "topic",
            "reason",
        )
        self._skipped = _Counter(
            "records_skipped", "Records passed over on purpose.", "topic", "reason"
        )
        self._batches = _Counter(
            "batches", "Windows closed and settled.", "closed_by", "outcome"
        ).start(get_args(ClosedBy), get_args(BatchOutcome))
        self._retries = _Counter(
            "retries", "Requests to be made again, by what called for it.", "reason"
        ).start(get_args(RetryReason))
        self._requests = _Counter(
            "requests", "Requests made to the sink, by HTTP status, error or timeout.", "status"
        ).start(("error", "timeout"))
        self._commits = _Counter("commits", "Commits of the checkpoint.", "outcome").start(
            get_args(CommitOutcome)
        )
        self._rebalances = _Counter("rebalances", "Rebalances of the consumer group.").start()
        self._limit_wait = _Counter(
            "rate_limit_wait_seconds", "Seconds for which a limit held requests back.", "limit"
        )
        self._foreign_metadata = _Counter(
            "foreign_metadata", "Commit metadata found that is not ours."
        ).start()
        self._recovered = _Counter(
            "recovered_batches",
            "Batches of a former run: formed again exactly, changed by what the log has lost, or "
            "split because not all of their partitions are here.",
            "outcome",
        ).start(get_args(Recovered))
        self._jobs = _Counter(
            "jobs",
            "Jobs at an API: submitted, ended, and failed without being worked on; after a crash "
            "or a lost answer adopted, not found and so submitted, and undecided for a while.",
            "outcome",
        ).start(get_args(JobOutcome))
        self._job_results = _Counter(
            "job_results",
            "What jobs have said of records: done, refused, or to go again; left out, told of "
            "twice, and of none that was sent.",
            "outcome",
        ).start(get_args(JobRecords))
        self._tokens = _Counter(
            "tokens",
            "Tokens of jobs' requests that go in and come out: estimated when they are submitted, "
            "and reported by the answers.",
            "model",
            "direction",
            "basis",
        )
        self._cost = _Counter(
            "cost",
            "What these tokens cost by the table of prices, in its currency.",
            "model",
            "basis",
        )
        self._redriven = _Counter(
            "redriven",
            "Dead letters that were due: sent back to their topics, or left because they cannot "
            "be; attempts that failed; letters that died again after the last time.",
            "outcome",
        ).start(get_args(Redriven))
        self._stale_outcomes = _Counter(
            "stale_outcomes", "Outcomes and commits dropped because their epoch was over."
        ).start()

        self._batch_records = _Histogram("batch_records", "Records in a batch.", RECORDS).start()
        self._batch_bytes = _Histogram("batch_bytes", "Value bytes in a batch.", BYTES).start()
        self._request_seconds = _Histogram(
            "request_seconds", "How long a request to the sink took.", REQUEST_SECONDS, "outcome"
        ).start(get_args(RequestOutcome))
        self._plan_seconds = _Histogram(
            "plan_seconds",
            "From a window's close until its batch was durable in the checkpoint's metadata.",
            PLAN_SECONDS,
        ).start()
        self._delay = _Histogram(
            "visibility_delay_seconds",
            "From a record's timestamp until the sink acknowledged it.",
            DELAY_SECONDS,
        ).start()
        registry.register(self)

    def watch(self, gauges: Callable[[], Gauges]) -> None:
        """`gauges` is called at every scrape, in its thread; it should be cheap and not raise."""
        self._gauges = gauges

    def topics(self, names: Iterable[str]) -> None:
        """Starts the series of topics that will be consumed; they may come again."""
        names = tuple(names)
        self._consumed.start(names)
        self._delivered.start(names)
        self._dead_lettered.start(names, get_args(Reason))
        self._skipped.start(names, get_args(SkipReason))

    def limits(self, names: Iterable[str]) -> None:
        """Starts the series of rate limits; names come from the configuration."""
        self._limit_wait.start(names)

    def consumed(self, topic: str, records: int) -> None:
        self._consumed.add(records, topic)

    def delivered(self, topic: str, records: int) -> None:
        self._delivered.add(records, topic)

    def dead_lettered(self, topic: str, reason: Reason, records: int) -> None:
        self._dead_lettered.add(records, topic, reason)

    def skipped(self, topic: str, reason: SkipReason, records: int) -> None:
        self._skipped.add(records, topic, reason)

    def batch(self, closed_by: ClosedBy, outcome: BatchOutcome, records: int, size: int) -> None:
        """A closed window is settled. `size` is its value bytes."""
        self._batches.add(1, closed_by, outcome)
        self._batch_records.observe(records)
        self._batch_bytes.observe(size)

    def request(self, status: str, seconds: float) -> None:
        """One request ended. `status` is the HTTP status, or "ok", "error" or "timeout".

        Anything else counts as "error": what a server makes up must not become a label value.
        """
        if status not in ("ok", "timeout") and not (
            len(status) == 3 and status.isascii() and status.isdigit()
        ):
            status = "error"
        self._requests.add(1, status)
        self._request_seconds.observe(seconds, _outcome_of(status))

    def planned(self, seconds: float) -> None:
        """A batch has become durable, so long after it was closed."""
        self._plan_seconds.observe(seconds)

    def visible(self, timestamps_ms: Sequence[int], now_ms: float) -> None:
        """Records with these timestamps (ms since 1970) were acknowledged at `now_ms`.

        A negative timestamp means that the record has none, and is left out; one from the future
        is a clock that runs ahead, and counts as no delay at all.
        """
        self._delay.observe_delays(timestamps_ms, now_ms)

    def retry(self, reason: RetryReason) -> None:
        self._retries.add(1, reason)

    def committed(self, outcome: CommitOutcome) -> None:
        self._commits.add(1, outcome)

    def rebalanced(self) -> None:
        self._rebalances.add(1)

    def waited(self, limit: str, seconds: float) -> None:
        """Requests were held back for `seconds` by this limit."""
        self._limit_wait.add(seconds, limit)

    def foreign_metadata(self) -> None:
        """A commit's metadata was not ours, or could not be read, and counted as absent."""
        self._foreign_metadata.add(1)

    def recovered(self, outcome: Recovered, batches: int) -> None:
        """Planned batches were found in the checkpoint's metadata."""
        self._recovered.add(batches, outcome)

    def job(self, outcome: JobOutcome) -> None:
        self._jobs.add(1, outcome)

    def job_results(self, counts: Mapping[JobRecords, int]) -> None:
        """A job was taken in, and said this of so many records."""
        for outcome, count in counts.items():
            self._job_results.add(count, outcome)

    def models(self, names: Iterable[str], *, priced: bool) -> None:
        """Starts the series of models; names come from the configuration."""
        names = tuple(names)
        self._tokens.start(names, get_args(Direction), get_args(Basis))
        if priced:
            self._cost.start(names, get_args(Basis))

    def spent(self, model: str, basis: Basis, taken: int, given: int, cost: float) -> None:
        """Requests to a model have taken so many tokens and given so many, or are likely to."""
        self._tokens.add(taken, model, "input", basis)
        self._tokens.add(given, model, "output", basis)
        if cost:
            self._cost.add(cost, model, basis)

    def redriven(self, outcome: Redriven, count: int) -> None:
        """Dead letters were due; "failed" counts attempts, of which nobody knows how many were,
        and "given_up" those that have died again as often as `max_redrives` allows."""
        self._redriven.add(count, outcome)

    def stale_outcome(self) -> None:
        """An outcome or commit came after its epoch was over and was dropped."""
        self._stale_outcomes.add(1)

    def reloaded(self, ok: bool) -> None:
        """Whether the last attempt to read the configuration succeeded."""
        self._reloaded = ok

    def totals(self) -> dict[str, int]:
        """Since the start of the process, over all topics; for `/status`."""
        return {
            "consumed": int(self._consumed.total()),
            "delivered": int(self._delivered.total()),
            "dead_lettered": int(self._dead_lettered.total()),
            "skipped": int(self._skipped.total()),
            "requests": int(self._requests.total()),
        }

    def collect(self) -> Iterator[Metric]:
        """All families, in a fixed order; called by the registry."""
        for family in vars(self).values():
            if isinstance(family, _Counter | _Histogram):
                yield family.collect(self._pipeline)
        now = self._gauges()
        for name, text in _GAUGES.items():
            yield self._gauge(name, text, (), {(): getattr(now, name)})
        states: dict[_Key, float] = {(state,): state == now.state for state in get_args(State)}
        jobs: dict[_Key, float] = {(each,): now.jobs.get(each, 0) for each in get_args(JobState)}
        text = "Jobs at work, with results to be taken in, and waiting to be submitted again."
        yield self._gauge("open_jobs", text, ("state",), jobs)
        yield self._gauge("state", "1 for what the pipeline is doing now.", ("state",), states)
        by_partition: tuple[tuple[str, str, Mapping[TopicPartition, float]], ...] = (
            ("checkpoint_offset", "Committed offset.", now.checkpoints),
            ("log_start_offset", "The oldest offset that the broker still has.", now.log_starts),
            ("visible_until_seconds", "Data up to this record timestamp is visible.", now.visible),
            ("lag_records", "Records between the checkpoint and the log's end.", now.lags),
        )
        for name, text, found in by_partition:
            values: dict[_Key, float] = {(t, str(p)): value for (t, p), value in found.items()}
            yield self._gauge(name, text, ("topic", "partition"), values)
        reload = "config_last_reload_successful"
        yield self._gauge(reload, "0 if the last reload was refused.", (), {(): self._reloaded})
        yield self._gauge("build_info", "The running version.", ("version",), {(__version__,): 1})

    # The registry asks this to find a second pipeline under the same names.
    describe = collect

    def _gauge(
        self, name: str, text: str, labels: Sequence[str], values: Mapping[_Key, float]
    ) -> Metric:
        family = GaugeMetricFamily(f"sluiced_{name}", text, labels=["pipeline", *labels])
        for key in sorted(values):
            family.add_metric([self._pipeline, *key], float(values[key]))
        return family


def _outcome_of(status: str) -> RequestOutcome:
    if status == "timeout":
        return "timeout"
    if status == "error":
        return "error"
    return "ok" if status == "ok" or status.startswith("2") else "refused"


class _Counter:
    """Sums by label values."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name, self._help, self._labels = f"sluiced_{name}", text, labels
        self._values: dict[_Key, float] = {}

    def start(self, *values: Iterable[str]) -> _Counter:
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


class _Histogram:
    """Cumulative bucket counts and a sum, by label values."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> None:
        self._name, self._help, self._labels = f"sluiced_{name}", text, labels
        self._bounds = bounds
        self._names = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._counts: dict[_Key, list[int]] = {}
        self._sums: dict[_Key, float] = {}

    def start(self, *values: Iterable[str]) -> _Histogram:
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

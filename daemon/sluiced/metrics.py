"""What is counted and timed of a pipeline: the series, and the events that move them.

How numbers are kept and become text is `instruments`; what is asked for and not counted, `gauges`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from . import __version__
from .batch import ClosedBy
from .gauges import Gauges, families, gauge
from .instruments import Counter, Histogram
from .outcome import RetryReason
from .ports import CommitOutcome, Reason

BatchOutcome = Literal["delivered", "partial", "rejected"]
RequestOutcome = Literal["ok", "refused", "error", "timeout"]
SkipReason = Literal["tombstone", "collapsed", "filtered"]
Recovered = Literal["exact", "changed", "split"]
JobOutcome = Literal["submitted", "adopted", "not_found", "undecided", "ended", "failed"]
JobRecords = Literal["done", "refused", "again", "missing", "doubled", "unknown"]
Direction = Literal["input", "output"]
Basis = Literal["estimated", "reported"]
Redriven = Literal["sent", "left", "failed", "given_up"]

RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5)
BYTES = tuple(1024.0 * 4**n for n in range(10))  # 1 KiB to 256 MiB
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
PLAN_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 10, 60)
DELAY_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 21600, 86400)


class Metrics:
    """All instruments of one pipeline, registered with `registry`.

    Methods take the counts of a whole batch and are never called per record. A value that is
    known beforehand starts at 0, so that an alert sees its first increase.
    """

    def __init__(self, pipeline: str, registry: CollectorRegistry) -> None:
        self._pipeline = pipeline
        self._gauges: Callable[[], Gauges] = Gauges
        self._reloaded = True

        self._consumed = Counter("records_consumed", "Records fetched.", "topic")
        self._delivered = Counter(
            "records_delivered", "Records that the sink acknowledged.", "topic"
        )
        self._dead_lettered = Counter(
            "records_dead_lettered",
            "Records acknowledged by the dead-letter topic.",
            "topic",
            "reason",
        )
        self._skipped = Counter(
            "records_skipped", "Records passed over on purpose.", "topic", "reason"
        )
        self._batches = Counter(
            "batches", "Windows closed and settled.", "closed_by", "outcome"
        ).start(get_args(ClosedBy), get_args(BatchOutcome))
        self._retries = Counter(
            "retries", "Requests to be made again, by what called for it.", "reason"
        ).start(get_args(RetryReason))
        self._requests = Counter(
            "requests", "Requests made to the sink, by HTTP status, error or timeout.", "status"
        ).start(("error", "timeout"))
        self._commits = Counter("commits", "Commits of the checkpoint.", "outcome").start(
            get_args(CommitOutcome)
        )
        self._rebalances = Counter("rebalances", "Rebalances of the consumer group.").start()
        self._limit_wait = Counter(
            "rate_limit_wait_seconds", "Seconds for which a limit held requests back.", "limit"
        )
        self._foreign_metadata = Counter(
            "foreign_metadata", "Commit metadata found that is not ours."
        ).start()
        self._recovered = Counter(
            "recovered_batches",
            "Batches of a former run: formed again exactly, changed by what the log has lost, or "
            "split because not all of their partitions are here.",
            "outcome",
        ).start(get_args(Recovered))
        self._jobs = Counter(
            "jobs",
            "Jobs at an API: submitted, ended, and failed without being worked on; after a crash "
            "or a lost answer adopted, not found and so submitted, and undecided for a while.",
            "outcome",
        ).start(get_args(JobOutcome))
        self._job_results = Counter(
            "job_results",
            "What jobs have said of records: done, refused, or to go again; left out, told of "
            "twice, and of none that was sent.",
            "outcome",
        ).start(get_args(JobRecords))
        self._tokens = Counter(
            "tokens",
            "Tokens of jobs' requests that go in and come out: estimated when they are submitted, "
            "and reported by the answers.",
            "model",
            "direction",
            "basis",
        )
        self._cost = Counter(
            "cost",
            "What these tokens cost by the table of prices, in its currency.",
            "model",
            "basis",
        )
        self._redriven = Counter(
            "redriven",
            "Dead letters that were due: sent back to their topics, or left because they cannot "
            "be; attempts that failed; letters that died again after the last time.",
            "outcome",
        ).start(get_args(Redriven))
        self._stale_outcomes = Counter(
            "stale_outcomes", "Outcomes dropped because their epoch was over."
        ).start()

        self._batch_records = Histogram("batch_records", "Records in a batch.", RECORDS).start()
        self._batch_bytes = Histogram("batch_bytes", "Value bytes in a batch.", BYTES).start()
        self._request_seconds = Histogram(
            "request_seconds", "How long a request to the sink took.", REQUEST_SECONDS, "outcome"
        ).start(get_args(RequestOutcome))
        self._plan_seconds = Histogram(
            "plan_seconds",
            "From a window's close until its batch was durable in the checkpoint's metadata.",
            PLAN_SECONDS,
        ).start()
        self._delay = Histogram(
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
        """A commit's metadata was not ours, and counted as absent."""
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
        """An outcome came after its epoch was over and was dropped."""
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
            if isinstance(family, Counter | Histogram):
                yield family.collect(self._pipeline)
        name = self._pipeline
        yield from families(name, self._gauges())
        reload = "config_last_reload_successful"
        yield gauge(name, reload, "0 if the last reload was refused.", (), {(): self._reloaded})
        yield gauge(name, "build_info", "The running version.", ("version",), {(__version__,): 1})

    # The registry asks this to find a second pipeline under the same names.
    describe = collect


def _outcome_of(status: str) -> RequestOutcome:
    if status == "timeout":
        return "timeout"
    if status == "error":
        return "error"
    return "ok" if status == "ok" or status.startswith("2") else "refused"

"""What is true of a pipeline at this moment, as Prometheus shows it.

Apart from `metrics`: nobody tells of these, they are asked for at a scrape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from .instruments import Key
from .record import TopicPartition

JobState = Literal["working", "ended", "waiting"]
State = Literal["starting", "running", "waiting", "outage", "halted", "draining"]


@dataclass(frozen=True, slots=True)
class Gauges:
    """Asked for once a scrape, so that nothing has to be kept current.

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
    "buffered_records": "Records in open windows and closed batches, and of plans read again.",
    "buffered_bytes": "Bytes of values in open windows and closed batches.",
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


def families(pipeline: str, now: Gauges) -> Iterator[Metric]:
    """All of them, in a fixed order."""
    for name, text in _GAUGES.items():
        yield gauge(pipeline, name, text, (), {(): getattr(now, name)})
    states: dict[Key, float] = {(state,): state == now.state for state in get_args(State)}
    jobs: dict[Key, float] = {(each,): now.jobs.get(each, 0) for each in get_args(JobState)}
    text = "Jobs at work, with results to be taken in, and waiting to be submitted again."
    yield gauge(pipeline, "open_jobs", text, ("state",), jobs)
    yield gauge(pipeline, "state", "1 for what the pipeline is doing now.", ("state",), states)
    by_partition: tuple[tuple[str, str, Mapping[TopicPartition, float]], ...] = (
        ("checkpoint_offset", "Committed offset.", now.checkpoints),
        ("log_start_offset", "The oldest offset that the broker still has.", now.log_starts),
        ("visible_until_seconds", "Data up to this record timestamp is visible.", now.visible),
        ("lag_records", "Records between the checkpoint and the log's end.", now.lags),
    )
    for name, text, found in by_partition:
        values: dict[Key, float] = {(t, str(p)): value for (t, p), value in found.items()}
        yield gauge(pipeline, name, text, ("topic", "partition"), values)


def gauge(
    pipeline: str, name: str, text: str, labels: Sequence[str], values: Mapping[Key, float]
) -> Metric:
    """One family, of values by their labels."""
    family = GaugeMetricFamily(f"sluiced_{name}", text, labels=["pipeline", *labels])
    for key in sorted(values):
        family.add_metric([pipeline, *key], float(values[key]))
    return family

"""The dashboard for all pipelines: which one needs a look?"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Row
from grafana_foundation_sdk.models.dashboard import Dashboard
from panels import lines, number, page, variable

OURS = 'pipeline=~"$pipeline"'


def _rate(metric: str, by: str = "pipeline") -> str:
    return f"sum by ({by}) (rate({metric}{{{OURS}}}[$__rate_interval]))"


NOW = [
    number(
        "Pipelines",
        "Pipelines with at least one member that is being scraped. Fewer than you run: one of them "
        "is down altogether; compare with Members below.",
        "none",
        (f"count(count by (pipeline) (sluiced_build_info{{{OURS}}}))", "pipelines"),
    ),
    number(
        "Alerts",
        "Alerts of grafana/alerts.yml that are firing. Each has a heading in docs/operations.md "
        "that says what to do.",
        "none",
        ('sum(ALERTS{alertname=~"Sluiced.*", alertstate="firing"}) or vector(0)', "firing"),
        [(1, "red")],
    ),
    number(
        "Halted",
        "Members that wait for a person. /readyz of each says what for; see SluicedHalted.",
        "none",
        (f'sum(sluiced_state{{{OURS}, state="halted"}})', "halted"),
        [(1, "red")],
    ),
    number(
        "In a sink outage",
        "Members whose API is down or refuses our credentials; see SluicedSinkOutage.",
        "none",
        (f"sum(1 - sluiced_sink_up{{{OURS}}})", "in an outage"),
        [(1, "red")],
    ),
    number(
        "Lag",
        "Records waiting in Kafka for all pipelines together. Find the one to blame below.",
        "short",
        (f"sum(sluiced_lag_records{{{OURS}}})", "records"),
    ),
    number(
        "Versions",
        "Different versions that are running. More than 1 is normal during an upgrade and at no "
        "other time: finish it.",
        "none",
        (f"count(count by (version) (sluiced_build_info{{{OURS}}}))", "versions"),
        [(2, "orange")],
    ),
]

TROUBLE = [
    lines(
        "Lag",
        "By pipeline. One that only ever rises takes less than is produced: open its own dashboard "
        "and look at the request latency.",
        "short",
        (f"sum by (pipeline) (sluiced_lag_records{{{OURS}}})", "{{pipeline}}"),
    ),
    lines(
        "Visibility delay, 90 %",
        "How old the data is when it arrives. Compare with what each pipeline has promised; see "
        "SluicedNotFresh.",
        "s",
        (
            "histogram_quantile(0.9, "
            f"{_rate('sluiced_visibility_delay_seconds_bucket', 'pipeline, le')})",
            "{{pipeline}}",
        ),
    ),
    lines(
        "Oldest record held",
        "Climbs by a second each second where nothing moves. See that pipeline's /status.",
        "s",
        (f"max by (pipeline) (sluiced_oldest_unflushed_seconds{{{OURS}}})", "{{pipeline}}"),
    ),
    lines(
        "Dead letters",
        "Any of these is a record that did not arrive. See SluicedDeadLetters.",
        "cps",
        (_rate("sluiced_records_dead_lettered_total"), "{{pipeline}}"),
    ),
    lines(
        "Stopped partitions",
        "Partitions that are not read on, because the log is damaged there. Several pipelines at "
        "once: look for the broker that they have in common. See SluicedPartitionStopped.",
        "none",
        (f"sum by (pipeline) (sluiced_stopped_partitions{{{OURS}}})", "{{pipeline}}"),
    ),
    lines(
        "Retries",
        "Several pipelines at once: look for what their APIs have in common, the network first.",
        "cps",
        (_rate("sluiced_retries_total"), "{{pipeline}}"),
    ),
    lines(
        "Rebalances",
        "Several groups at once: the brokers are restarting or out of reach. One group: see "
        "SluicedRebalanceStorm.",
        "short",
        (
            f"sum by (pipeline) (increase(sluiced_rebalances_total{{{OURS}}}[$__rate_interval]))",
            "{{pipeline}}",
        ),
    ),
]

LOAD = [
    lines(
        "Delivered records",
        "Where the load is. A pipeline at zero with a lag is stalled; see SluicedStalled.",
        "cps",
        (_rate("sluiced_records_delivered_total"), "{{pipeline}}"),
        stacked=True,
    ),
    lines(
        "Requests",
        "To all APIs. Records divided by requests is how full the loads are; where that falls, "
        "windows close by age.",
        "reqps",
        (_rate("sluiced_requests_total"), "{{pipeline}}"),
        stacked=True,
    ),
    lines(
        "Members",
        "Processes by pipeline. A step down without a reason: SluicedDown.",
        "none",
        (f"count by (pipeline) (sluiced_build_info{{{OURS}}})", "{{pipeline}}"),
    ),
    lines(
        "Memory for records, part of the limit",
        "At 100 % fetching has stopped until the API takes something. For long: SluicedMemoryFull.",
        "percentunit",
        (
            f"max by (pipeline) (sluiced_memory_used_bytes{{{OURS}}} "
            f"/ sluiced_memory_limit_bytes{{{OURS}}})",
            "{{pipeline}}",
        ),
    ),
    lines(
        "Resident memory",
        "Of each process. Compare with MemoryMax of its unit; see SluicedMemoryHigh.",
        "bytes",
        (
            "process_resident_memory_bytes * on (job, instance) group_left (pipeline) "
            f"(sluiced_build_info{{{OURS}}})",
            "{{pipeline}}, {{instance}}",
        ),
    ),
    lines(
        "Held back by limits",
        "The part of the time for which rate limits held requests back; see SluicedRateLimited.",
        "percentunit",
        (_rate("sluiced_rate_limit_wait_seconds_total"), "{{pipeline}}"),
    ),
]


def dashboard() -> Dashboard:
    made = page(
        "sluiced-fleet",
        "sluiced: all pipelines",
        "Which pipeline needs a look? Every panel says what to do where it looks wrong.",
    ).with_variable(
        variable(
            "pipeline", "Pipelines", "label_values(sluiced_build_info, pipeline)", several=True
        )
    )
    for title, panels in (("Now", NOW), ("Trouble", TROUBLE), ("Load", LOAD)):
        made.with_row(Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made.build()

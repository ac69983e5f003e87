"""The dashboard for one pipeline: from its state at this moment down to the process."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Row
from grafana_foundation_sdk.models.dashboard import Dashboard
from panels import heat, lines, number, page, variable

OURS = 'pipeline="$pipeline", instance=~"$instance"'
# process_* have no pipeline label, but each instance is one pipeline.
PROCESS = f"* on (job, instance) group_left (pipeline) (sluiced_build_info{{{OURS}}})"

TOKENS = "{{model}}, {{direction}}, {{basis}}"


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{OURS}}}[$__rate_interval]))"


def _increase(metric: str, by: str) -> str:
    return f"sum by ({by}) (increase({metric}{{{OURS}}}[$__rate_interval]))"


def _quantile(q: float, metric: str) -> str:
    buckets = f"sum by (le) (rate({metric}_bucket{{{OURS}}}[$__rate_interval]))"
    return f"histogram_quantile({q}, {buckets})"


NOW = [
    number(
        "Members",
        "Processes of this pipeline that are being scraped. Fewer than you run: look at `systemctl "
        "status` and the journal of the missing one; SluicedDown says how. More than the topic has "
        "partitions: the surplus ones stand idle.",
        "none",
        (f"count(sluiced_build_info{{{OURS}}})", "members"),
    ),
    number(
        "Halted members",
        "Members that wait for a person. Above 0: /readyz of that member says why; see "
        "SluicedHalted.",
        "none",
        (f'sum(sluiced_state{{{OURS}, state="halted"}})', "halted"),
        [(1, "red")],
    ),
    number(
        "Members in a sink outage",
        "Members whose API is down or refuses our credentials. Nothing is lost while this is above "
        "0, but nothing moves; see SluicedSinkOutage.",
        "none",
        (f"sum(1 - sluiced_sink_up{{{OURS}}})", "in an outage"),
        [(1, "red")],
    ),
    number(
        "Lag",
        "Records between the checkpoint and the end of the log, over all partitions. It may rise "
        "in a burst. If it only ever rises, the API takes less than is produced: see the request "
        "latency, then scale out.",
        "short",
        (f"sum(sluiced_lag_records{{{OURS}}})", "records"),
    ),
    number(
        "Oldest record held",
        "How long the oldest record that was fetched has waited for its verdict. Normal is "
        "window.max_age and one request. Much more: the API is slow or down, or the pipeline is "
        "halted.",
        "s",
        (f"max(sluiced_oldest_unflushed_seconds{{{OURS}}})", "held"),
        [(300, "orange"), (900, "red")],
    ),
    number(
        "Checkpoint age",
        "Since the last commit that Kafka acknowledged. It grows while there is nothing to do, "
        "too; with a lag it means that nothing gets done (SluicedStalled) or that commits fail "
        "(SluicedCommitsFailing).",
        "s",
        (f"max(sluiced_checkpoint_age_seconds{{{OURS}}})", "age"),
    ),
]

FLOW = [
    lines(
        "Records",
        "In and out, per second. The way out should follow the way in. Delivered below consumed "
        "for long: a backlog builds up in memory until fetching slows down, which is meant to "
        "happen; find out what the API does. Dead-lettered above zero: see the panel of that "
        "name.",
        "cps",
        (_rate("sluiced_records_consumed_total", "pipeline"), "consumed"),
        (_rate("sluiced_records_delivered_total", "pipeline"), "delivered"),
        (_rate("sluiced_records_dead_lettered_total", "pipeline"), "dead-lettered"),
        (_rate("sluiced_records_skipped_total", "pipeline"), "skipped"),
    ),
    lines(
        "Lag by partition",
        "Records between the checkpoint and the end of each partition's log. One partition far "
        "above the others: its key is busier than the rest, or the partition was stopped because "
        "its log is damaged (SluicedPartitionStopped). All of them rising: scale out.",
        "short",
        (f"sum by (topic, partition) (sluiced_lag_records{{{OURS}}})", "{{topic}}/{{partition}}"),
    ),
    lines(
        "Windows by what closed them",
        "Under load `records` or `bytes` should lead: full loads are the point. Mostly `age` is "
        "normal for a quiet topic; under load it means that window.max_age is too short. `drain` "
        "comes with stops only. Many of them: something restarts the daemon.",
        "cps",
        (_rate("sluiced_batches_total", "closed_by"), "{{closed_by}}"),
        stacked=True,
    ),
    lines(
        "Batches by outcome",
        "`delivered` is all of a batch, `partial` some of it, `rejected` none. A rise of the "
        "latter two: the API refuses records; the dead letters carry its own words for why.",
        "cps",
        (_rate("sluiced_batches_total", "outcome"), "{{outcome}}"),
        stacked=True,
    ),
    heat(
        "Records in a batch",
        "How full the loads are. A band at the top is window.max_records. Far below it although "
        "there is a lag: window.max_bytes or the memory closes windows early; see what closed "
        "them.",
        "short",
        "sluiced_batch_records",
        OURS,
    ),
    heat(
        "Bytes in a batch",
        "Value bytes in a batch, without what the templates add. If the largest come near "
        "sink.max_bytes, the API will answer 413 and batches will be split: lower "
        "window.max_bytes.",
        "bytes",
        "sluiced_batch_bytes",
        OURS,
    ),
]

SINK = [
    heat(
        "Request latency",
        "How long requests to the API took, answer included. A band that drifts upwards: the API "
        "is saturating; send smaller windows or talk to its owners before sink.timeout is "
        "reached. A second band at sink.timeout: attempts that got no answer.",
        "s",
        "sluiced_request_seconds",
        OURS,
    ),
    lines(
        "Requests by status",
        "What the API answered. 401 or 403: renew the credentials. 429: we are too fast; set a "
        "limit, or ask for a larger one. 4xx otherwise: it refuses records or the whole request; "
        "compare [sink.body] with its documentation. 5xx, error, timeout: the trouble is on its "
        "side or on the way.",
        "reqps",
        (_rate("sluiced_requests_total", "status"), "{{status}}"),
        stacked=True,
    ),
    lines(
        "Retries by reason",
        "Requests that have to be made again. A few come with every deployment of the API. "
        "`unknown` for long: its answers cannot be read; `last_error` of /status says what is "
        "wrong with [sink.response].",
        "cps",
        (_rate("sluiced_retries_total", "reason"), "{{reason}}"),
        stacked=True,
    ),
    lines(
        "Latency by outcome",
        "The median and the slowest hundredth of the requests. If only the slowest ones rise, look "
        "for single large batches; if the median does too, the API as a whole is slower.",
        "s",
        (_quantile(0.5, "sluiced_request_seconds"), "median"),
        (_quantile(0.99, "sluiced_request_seconds"), "99 %"),
    ),
    lines(
        "Batches in flight",
        "Requests under way. At limits.max_in_flight all the time with a growing lag: the API is "
        "the bottleneck; raise the limit if it bears more at once (and order does not matter), or "
        "scale out.",
        "none",
        (f"sum by (instance) (sluiced_in_flight_batches{{{OURS}}})", "{{instance}}"),
    ),
    lines(
        "Jobs open",
        "For an API that makes a job of a batch; 0 for any other. `working`: at the API, for up to "
        "a day. `ended`: with results that are being written, or that wait for a person where the "
        "pipeline has halted. `waiting`: what is left of them is to be submitted again.",
        "none",
        (f"sum by (state) (sluiced_open_jobs{{{OURS}}})", "{{state}}"),
        stacked=True,
    ),
    lines(
        "Oldest job, and the longest silence",
        "How long ago the oldest job at work was made: APIs promise 24 h; see SluicedJobLate. The "
        "second line is how long nothing was heard of a job; it stays below ten times sink.poll, "
        "see SluicedJobUnseen.",
        "s",
        (f"max(sluiced_oldest_job_seconds{{{OURS}}})", "oldest"),
        (f"max(sluiced_job_unseen_seconds{{{OURS}}})", "unheard of"),
    ),
    lines(
        "Jobs by outcome",
        "For an API that makes a job of a batch; empty for any other. `submitted` and `ended` "
        "should keep step, up to a day apart. `adopted`: found at the API after a crash or a lost "
        "answer, and not made twice; `not_found`: looked for then in vain, and made; `undecided`: "
        "another job had to be waited for before that could be said. `failed`: the API did not "
        "work on it; `job_failed` in the journal has its words.",
        "short",
        (_increase("sluiced_jobs_total", "outcome"), "{{outcome}}"),
        stacked=True,
    ),
    lines(
        "Results of jobs",
        "What jobs have said of their records. `refused` are dead letters; `again` and `missing` "
        "go into the next job: many of them mean that the API is overloaded, or that jobs expire; "
        "make them smaller. `doubled` and `unknown` are mistakes of the API, and are passed over.",
        "short",
        (_increase("sluiced_job_results_total", "outcome"), "{{outcome}}"),
        stacked=True,
    ),
    lines(
        "Tokens of jobs",
        "By model: what answers report, and what was estimated when their jobs were submitted, up "
        "to a day before: a token for every four bytes in, and what max_tokens allows out. "
        "`other`: models that the configuration does not name.",
        "short",
        (_increase("sluiced_tokens_total", "model, direction, basis"), TOKENS),
    ),
    lines(
        "Cost of jobs",
        "By model, in the currency of [prices]; empty without that block. `estimated` is when jobs "
        "are submitted, `reported` when they are taken in, and mostly less, since few answers are "
        "as long as they may be. A model without a price costs nothing here: "
        "`model_without_price` in the journal names it.",
        "none",
        (_increase("sluiced_cost_total", "model, basis"), "{{model}}, {{basis}}"),
    ),
    lines(
        "Held back by limits",
        "The part of the time for which a rate limit held requests back. Near 100 % with a growing "
        "lag: the limit is below what is produced; see SluicedRateLimited.",
        "percentunit",
        (_rate("sluiced_rate_limit_wait_seconds_total", "limit"), "{{limit}}"),
    ),
]

FRESHNESS = [
    heat(
        "Visibility delay",
        "From a record's timestamp until the API acknowledged it. Normal is a band at "
        "window.max_age and below. A band that climbs is a backlog, one that comes down is a "
        "backlog being worked off. See SluicedNotFresh.",
        "s",
        "sluiced_visibility_delay_seconds",
        OURS,
    ),
    lines(
        "Visibility delay, quantiles",
        "The same as numbers, to compare with what you have promised to others. Only records that "
        "were delivered count, so look at the oldest record held as well.",
        "s",
        (_quantile(0.5, "sluiced_visibility_delay_seconds"), "median"),
        (_quantile(0.9, "sluiced_visibility_delay_seconds"), "90 %"),
        (_quantile(0.99, "sluiced_visibility_delay_seconds"), "99 %"),
    ),
    lines(
        "Data up to this age is visible",
        "For each partition how old the newest record is of which it and all before it are at the "
        "sink. A line that climbs by a second each second is a partition that stands still, or "
        "that has nothing new: compare with its lag.",
        "s",
        (
            f"time() - max by (topic, partition) (sluiced_visible_until_seconds{{{OURS}}})",
            "{{topic}}/{{partition}}",
        ),
    ),
    lines(
        "Until all is done",
        "How long the backlog takes at the rates of the last minute; a gap in the line means that "
        "more comes in than goes out. Then raise limits.max_in_flight or the window, if the API "
        "takes more, or ask for a higher limit.",
        "s",
        (f"max(sluiced_catch_up_seconds{{{OURS}}})", "left"),
    ),
    lines(
        "Hours of release",
        "1 while window.active lets records out, or where it is not set. At 0 records wait in "
        "Kafka on purpose: a lag that grows is no trouble then, and the alerts know.",
        "none",
        (f"min(sluiced_active{{{OURS}}})", "open"),
    ),
    lines(
        "Oldest record held and checkpoint age",
        "Both climb by a second each second while nothing moves. Together with a lag: find out why "
        "with /status; `reason` and `last_error` name it.",
        "s",
        (
            f"max by (instance) (sluiced_oldest_unflushed_seconds{{{OURS}}})",
            "oldest record, {{instance}}",
        ),
        (
            f"max by (instance) (sluiced_checkpoint_age_seconds{{{OURS}}})",
            "checkpoint, {{instance}}",
        ),
    ),
    lines(
        "Dead letters by reason",
        "`rejected`: the API refused the record; read a few letters, their headers hold its "
        "reason. `invalid`: the producer sent what is not of record.format. `too_large`: the "
        "record alone exceeds sink.max_bytes. `exhausted`: retries were given up; consider "
        'retry.give_up_after = "never".',
        "short",
        (_increase("sluiced_records_dead_lettered_total", "reason"), "{{reason}}"),
        stacked=True,
    ),
    lines(
        "Dead letters sent back",
        "What [dead_letter] retry_after does. `sent` back into their topics; `left` because they "
        "cannot be sent, and the journal says why (`redrive_left`); `given_up`: died once more "
        "after the last time. Both wait for a person: see SluicedRedriveGivenUp. `failed` are "
        "attempts, made again by themselves: see SluicedRedriveFailing.",
        "short",
        (_increase("sluiced_redriven_total", "outcome"), "{{outcome}}"),
        stacked=True,
    ),
    lines(
        "Skipped by reason",
        "Passed over on purpose: tombstones (record.on_tombstone) and older versions of an id "
        "within a window (window.collapse). A surprise here is a surprise about the producer.",
        "short",
        (_increase("sluiced_records_skipped_total", "reason"), "{{reason}}"),
        stacked=True,
    ),
    lines(
        "State of the members",
        "How many members are running, waiting, in an outage, halted, starting or draining. "
        "`starting` for more than some minutes: the group does not settle, or there are more "
        "members than partitions.",
        "none",
        (f"sum by (state) (sluiced_state{{{OURS}}})", "{{state}}"),
        stacked=True,
    ),
]

KAFKA = [
    lines(
        "Commits by outcome",
        "`failed` and `unknown` come with rebalances and broker restarts, and are made again. For "
        "longer: the group's coordinator is in trouble; see SluicedCommitsFailing.",
        "cps",
        (_rate("sluiced_commits_total", "outcome"), "{{outcome}}"),
        stacked=True,
    ),
    heat(
        "Time to make a batch durable",
        "From a window's close until the batch stood in the checkpoint's metadata; it is not sent "
        "before. Normal are a few ms. A band that climbs is a slow coordinator, and adds to the "
        "delay of every batch: look at the brokers' load and at __consumer_offsets. Empty where "
        "the API does not know batches by their ids.",
        "s",
        "sluiced_plan_seconds",
        OURS,
    ),
    lines(
        "Batches of a former run",
        "Found in the checkpoint after a start or a rebalance. `exact`: sent again as they were, "
        "as it should be. `changed`: the log has lost or compacted records of them, or [record] "
        "was changed; they have a new id, and an API that knows batches may get them twice. "
        "`split`: their partitions are with several members now; the same holds.",
        "short",
        (_increase("sluiced_recovered_batches_total", "outcome"), "{{outcome}}"),
        stacked=True,
    ),
    lines(
        "Stopped partitions",
        "Partitions that are not read on, because the log is damaged there. Above 0: the others go "
        "on, but retention runs for these; see SluicedPartitionStopped.",
        "none",
        (f"sum by (instance) (sluiced_stopped_partitions{{{OURS}}})", "{{instance}}"),
    ),
    lines(
        "Rebalances",
        "Each member that comes or goes is one for every other. Without a deployment there should "
        "be none; see SluicedRebalanceStorm.",
        "short",
        (_increase("sluiced_rebalances_total", "instance"), "{{instance}}"),
    ),
    lines(
        "Dropped as stale",
        "Outcomes and commits of an assignment that was over, and commit metadata that was not "
        "ours. The first come with rebalances and cost a repetition. The second more than once: "
        "another program commits for this group.",
        "short",
        (_increase("sluiced_stale_outcomes_total", "pipeline"), "outcomes"),
        (_increase("sluiced_foreign_metadata_total", "pipeline"), "metadata"),
    ),
    lines(
        "Distance to the start of the log",
        "Records between the oldest one that the broker keeps and the checkpoint. Where it falls "
        "towards zero with a lag, retention catches up with us: lengthen the topic's retention "
        "now; see SluicedRangeAtRisk.",
        "short",
        (
            f"min by (topic, partition) (sluiced_checkpoint_offset{{{OURS}}} "
            f"- sluiced_log_start_offset{{{OURS}}})",
            "{{topic}}/{{partition}}",
        ),
    ),
]

PROCESS_PANELS = [
    lines(
        "Memory for records",
        "What records buffered and in flight take up, against their budget. At the limit: fetching "
        "has stopped until the API takes something, which is how back-pressure works. At the limit "
        "all the time: see SluicedMemoryFull.",
        "bytes",
        (f"sum by (instance) (sluiced_memory_used_bytes{{{OURS}}})", "used, {{instance}}"),
        (f"sum by (instance) (sluiced_buffered_bytes{{{OURS}}})", "in windows, {{instance}}"),
        (f"max by (pipeline) (sluiced_memory_limit_bytes{{{OURS}}})", "limit"),
    ),
    lines(
        "Records in open windows",
        "What has been fetched and waits for its window to close. At most window.max_records for "
        "each window. At the top without any request: the pipeline is halted or the gate is shut.",
        "short",
        (f"sum by (instance) (sluiced_buffered_records{{{OURS}}})", "{{instance}}"),
    ),
    lines(
        "Resident memory",
        "Of the whole process. Up to [limits] memory and 150 MB is expected. Above it for long: "
        "see SluicedMemoryHigh.",
        "bytes",
        (f"process_resident_memory_bytes {PROCESS}", "{{instance}}"),
    ),
    lines(
        "CPU",
        "Cores in use; a member cannot use more than one. Near 1 with a growing lag: scale out to "
        'more members; format = "text" costs less than "json".',
        "none",
        (f"rate(process_cpu_seconds_total[$__rate_interval]) {PROCESS}", "{{instance}}"),
    ),
    lines(
        "Restarts",
        "Starts of the process. Without a deployment there should be none. Look at the journal: "
        "the watchdog writes a stack, the kernel an OOM line, a fatal error its reason.",
        "short",
        (f"changes(process_start_time_seconds[$__rate_interval]) {PROCESS}", "{{instance}}"),
    ),
    lines(
        "Last reload",
        "1 when the newest configuration is in use, 0 when it was refused and the old one stays. "
        "See SluicedReloadFailed.",
        "none",
        (f"min by (instance) (sluiced_config_last_reload_successful{{{OURS}}})", "{{instance}}"),
    ),
]


def dashboard() -> Dashboard:
    made = (
        page(
            "sluiced-pipeline",
            "sluiced: one pipeline",
            "What one pipeline does, and why. Every panel says what to do where it looks wrong.",
        )
        .with_variable(
            variable(
                "pipeline", "Pipeline", "label_values(sluiced_build_info, pipeline)", several=False
            )
        )
        .with_variable(
            variable(
                "instance",
                "Member",
                'label_values(sluiced_build_info{pipeline="$pipeline"}, instance)',
                several=True,
            )
        )
    )
    for title, panels in (
        ("Now", NOW),
        ("Flow", FLOW),
        ("Sink", SINK),
        ("Freshness and refusals", FRESHNESS),
        ("Kafka", KAFKA),
        ("Process", PROCESS_PANELS),
    ):
        made.with_row(Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made.build()

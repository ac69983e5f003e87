"""What is around the line, as rows of panels: freshness and refusals, Kafka, the process."""

from __future__ import annotations

from panels import heat, lines
from queries import OURS, PROCESS, increase, quantile, rate

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
        (quantile(0.5, "sluiced_visibility_delay_seconds"), "median"),
        (quantile(0.9, "sluiced_visibility_delay_seconds"), "90 %"),
        (quantile(0.99, "sluiced_visibility_delay_seconds"), "99 %"),
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
        (increase("sluiced_records_dead_lettered_total", "reason"), "{{reason}}"),
        stacked=True,
    ),
    lines(
        "Dead letters sent back",
        "What [dead_letter] retry_after does. `sent` back into their topics; `left` because they "
        "cannot be sent, and the journal says why (`redrive_left`); `given_up`: died once more "
        "after the last time. Both wait for a person: see SluicedRedriveGivenUp. `failed` are "
        "attempts, made again by themselves: see SluicedRedriveFailing.",
        "short",
        (increase("sluiced_redriven_total", "outcome"), "{{outcome}}"),
        stacked=True,
    ),
    lines(
        "Skipped by reason",
        "Passed over on purpose: tombstones (record.on_tombstone) and older versions of an id "
        "within a window (window.collapse). A surprise here is a surprise about the producer.",
        "short",
        (increase("sluiced_records_skipped_total", "reason"), "{{reason}}"),
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
        (rate("sluiced_commits_total", "outcome"), "{{outcome}}"),
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
        (increase("sluiced_recovered_batches_total", "outcome"), "{{outcome}}"),
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
        (increase("sluiced_rebalances_total", "instance"), "{{instance}}"),
    ),
    lines(
        "Dropped as stale",
        "Outcomes of an assignment that was over, and commit metadata that was not "
        "ours. The first come with rebalances and cost a repetition. The second more than once: "
        "another program commits for this group.",
        "short",
        (increase("sluiced_stale_outcomes_total", "pipeline"), "outcomes"),
        (increase("sluiced_foreign_metadata_total", "pipeline"), "metadata"),
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
        (f"sum by (instance) (sluiced_buffered_bytes{{{OURS}}})", "values that wait, {{instance}}"),
        (f"max by (pipeline) (sluiced_memory_limit_bytes{{{OURS}}})", "limit"),
    ),
    lines(
        "Records that wait",
        "What has been fetched and waits for its window to close or, closed, for the API; after a "
        "restart also what is read again of a plan. At the top without any request: the pipeline "
        "is halted or the gate is shut.",
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

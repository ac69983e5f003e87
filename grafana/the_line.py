"""What a record goes through, as rows of panels: the state now, the flow, the sink."""

from __future__ import annotations

from panels import heat, lines, number
from queries import OURS, TOKENS, increase, quantile, rate

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
        (rate("sluiced_records_consumed_total", "pipeline"), "consumed"),
        (rate("sluiced_records_delivered_total", "pipeline"), "delivered"),
        (rate("sluiced_records_dead_lettered_total", "pipeline"), "dead-lettered"),
        (rate("sluiced_records_skipped_total", "pipeline"), "skipped"),
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
        (rate("sluiced_batches_total", "closed_by"), "{{closed_by}}"),
        stacked=True,
    ),
    lines(
        "Batches by outcome",
        "`delivered` is all of a batch, `partial` some of it, `rejected` none. A rise of the "
        "latter two: the API refuses records; the dead letters carry its own words for why.",
        "cps",
        (rate("sluiced_batches_total", "outcome"), "{{outcome}}"),
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
        (rate("sluiced_requests_total", "status"), "{{status}}"),
        stacked=True,
    ),
    lines(
        "Retries by reason",
        "Requests that have to be made again. A few come with every deployment of the API. "
        "`unknown` for long: its answers cannot be read; `last_error` of /status says what is "
        "wrong with [sink.response].",
        "cps",
        (rate("sluiced_retries_total", "reason"), "{{reason}}"),
        stacked=True,
    ),
    lines(
        "Latency by outcome",
        "The median and the slowest hundredth of the requests. If only the slowest ones rise, look "
        "for single large batches; if the median does too, the API as a whole is slower.",
        "s",
        (quantile(0.5, "sluiced_request_seconds"), "median"),
        (quantile(0.99, "sluiced_request_seconds"), "99 %"),
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
        (increase("sluiced_jobs_total", "outcome"), "{{outcome}}"),
        stacked=True,
    ),
    lines(
        "Results of jobs",
        "What jobs have said of their records. `refused` are dead letters; `again` and `missing` "
        "go into the next job: many of them mean that the API is overloaded, or that jobs expire; "
        "make them smaller. `doubled` and `unknown` are mistakes of the API, and are passed over.",
        "short",
        (increase("sluiced_job_results_total", "outcome"), "{{outcome}}"),
        stacked=True,
    ),
    lines(
        "Tokens of jobs",
        "By model: what answers report, and what was estimated when their jobs were submitted, up "
        "to a day before: a token for every four bytes in, and what max_tokens allows out. "
        "`other`: models that the configuration does not name.",
        "short",
        (increase("sluiced_tokens_total", "model, direction, basis"), TOKENS),
    ),
    lines(
        "Cost of jobs",
        "By model, in the currency of [prices]; empty without that block. `estimated` is when jobs "
        "are submitted, `reported` when they are taken in, and mostly less, since few answers are "
        "as long as they may be. A model without a price costs nothing here: "
        "`model_without_price` in the journal names it.",
        "none",
        (increase("sluiced_cost_total", "model, basis"), "{{model}}, {{basis}}"),
    ),
    lines(
        "Held back by limits",
        "The part of the time for which a rate limit held requests back. Near 100 % with a growing "
        "lag: the limit is below what is produced; see SluicedRateLimited.",
        "percentunit",
        (rate("sluiced_rate_limit_wait_seconds_total", "limit"), "{{limit}}"),
    ),
]

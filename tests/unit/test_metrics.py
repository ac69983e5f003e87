from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from harness.tools import require
from sluiced import __version__
from sluiced.gauges import Gauges, State
from sluiced.metrics import DELAY_SECONDS, Metrics
from sluiced.record import TopicPartition

SNAPSHOT = Path(__file__).with_name("metrics.prom")


class Page:
    """Metrics on a registry of their own, read the way Prometheus reads them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics("pages", self.registry)

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """Values by label values, sorted by label name and without the pipeline."""
        return {
            tuple(v for k, v in sorted(s.labels.items()) if k != "pipeline"): s.value
            for family in text_string_to_metric_families(self.text())
            for s in family.samples
            if s.name == f"sluiced_{name}"
        }


@pytest.fixture
def page() -> Page:
    return Page()


def test_every_series_carries_the_pipeline(page: Page) -> None:
    page.metrics.topics(["a"])
    page.metrics.watch(lambda: Gauges(lags={TopicPartition("a", 0): 1}))
    lines = [line for line in page.text().splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if 'pipeline="pages"' not in line] == []


def test_the_names_and_labels_are_those_that_dashboards_rely_on(page: Page) -> None:
    partition = TopicPartition("a", 0)
    page.metrics.topics(["a"])
    page.metrics.limits(["requests_per_minute"])
    page.metrics.models(["m"], priced=True)
    each = {partition: 1}
    page.metrics.watch(lambda: Gauges(checkpoints=each, log_starts=each, visible=each, lags=each))
    shown = {
        (family.type, s.name.removeprefix("sluiced_"), *sorted(set(s.labels) - {"pipeline"}))
        for family in text_string_to_metric_families(page.text())
        for s in family.samples
    }
    assert shown == {
        ("counter", "records_consumed_total", "topic"),
        ("counter", "records_delivered_total", "topic"),
        ("counter", "records_dead_lettered_total", "reason", "topic"),
        ("counter", "records_skipped_total", "reason", "topic"),
        ("counter", "batches_total", "closed_by", "outcome"),
        ("counter", "retries_total", "reason"),
        ("counter", "requests_total", "status"),
        ("counter", "commits_total", "outcome"),
        ("counter", "rebalances_total"),
        ("counter", "rate_limit_wait_seconds_total", "limit"),
        ("counter", "foreign_metadata_total"),
        ("counter", "recovered_batches_total", "outcome"),
        ("counter", "jobs_total", "outcome"),
        ("counter", "job_results_total", "outcome"),
        ("counter", "tokens_total", "basis", "direction", "model"),
        ("counter", "cost_total", "basis", "model"),
        ("counter", "redriven_total", "outcome"),
        ("counter", "stale_outcomes_total"),
        *(
            ("histogram", f"{name}_{suffix}", *(["le"] if suffix == "bucket" else []))
            for name in ("batch_records", "batch_bytes", "plan_seconds", "visibility_delay_seconds")
            for suffix in ("bucket", "count", "sum")
        ),
        ("histogram", "request_seconds_bucket", "le", "outcome"),
        ("histogram", "request_seconds_count", "outcome"),
        ("histogram", "request_seconds_sum", "outcome"),
        ("gauge", "buffered_records"),
        ("gauge", "buffered_bytes"),
        ("gauge", "memory_limit_bytes"),
        ("gauge", "memory_used_bytes"),
        ("gauge", "in_flight_batches"),
        ("gauge", "oldest_unflushed_seconds"),
        ("gauge", "stopped_partitions"),
        ("gauge", "checkpoint_age_seconds"),
        ("gauge", "sink_up"),
        ("gauge", "active"),
        ("gauge", "catch_up_seconds"),
        ("gauge", "oldest_job_seconds"),
        ("gauge", "job_unseen_seconds"),
        ("gauge", "open_jobs", "state"),
        ("gauge", "state", "state"),
        ("gauge", "checkpoint_offset", "partition", "topic"),
        ("gauge", "log_start_offset", "partition", "topic"),
        ("gauge", "visible_until_seconds", "partition", "topic"),
        ("gauge", "lag_records", "partition", "topic"),
        ("gauge", "config_last_reload_successful"),
        ("gauge", "build_info", "version"),
    }


def test_what_can_be_named_beforehand_starts_at_zero(page: Page) -> None:
    page.metrics.topics(["a"])
    page.metrics.limits(["requests_per_minute"])
    closed = ("records", "bytes", "age", "align", "drain", "plan")
    assert page.samples("batches_total") == {
        (c, o): 0 for c in closed for o in ("delivered", "partial", "rejected")
    }
    reasons = ("status", "throttled", "timeout", "connection", "unknown")
    assert page.samples("retries_total") == {(r,): 0 for r in reasons}
    assert page.samples("commits_total") == {("ok",): 0, ("failed",): 0, ("unknown",): 0}
    assert page.samples("requests_total") == {("error",): 0, ("timeout",): 0}
    assert page.samples("rebalances_total") == {(): 0}
    assert page.samples("records_consumed_total") == {("a",): 0}
    assert page.samples("records_delivered_total") == {("a",): 0}
    fates = ("invalid", "rejected", "too_large", "exhausted", "cancelled")
    assert page.samples("records_dead_lettered_total") == {(f, "a"): 0 for f in fates}
    skips = ("tombstone", "collapsed", "filtered")
    assert page.samples("records_skipped_total") == {(s, "a"): 0 for s in skips}
    assert page.samples("rate_limit_wait_seconds_total") == {("requests_per_minute",): 0}


def test_naming_a_topic_again_keeps_its_counts(page: Page) -> None:
    page.metrics.topics(["a"])
    page.metrics.consumed("a", 5)
    page.metrics.topics(iter(["a", "b"]))
    assert page.samples("records_consumed_total") == {("a",): 5, ("b",): 0}
    assert page.samples("records_delivered_total") == {("a",): 0, ("b",): 0}


def test_the_totals_are_the_sums_of_what_the_page_shows(page: Page) -> None:
    m = page.metrics
    m.consumed("a", 10)
    m.consumed("b", 5)
    m.delivered("a", 7)
    m.dead_lettered("a", "rejected", 2)
    m.dead_lettered("b", "invalid", 1)
    m.skipped("b", "tombstone", 4)
    m.request("200", 0.1)
    m.request("timeout", 30)
    assert m.totals() == {
        "consumed": 15,
        "delivered": 7,
        "dead_lettered": 3,
        "skipped": 4,
        "requests": 2,
    }
    assert sum(page.samples("records_consumed_total").values()) == 15


def test_a_settled_batch_is_counted_with_its_records_and_bytes(page: Page) -> None:
    page.metrics.batch("age", "partial", records=500, size=5000)
    assert page.samples("batches_total")["age", "partial"] == 1
    assert page.samples("batch_records_sum") == {(): 500}
    records = page.samples("batch_records_bucket")
    assert (records[("200.0",)], records[("500.0",)], records[("+Inf",)]) == (0, 1, 1)
    sizes = page.samples("batch_bytes_bucket")
    assert (sizes[("4096.0",)], sizes[("16384.0",)]) == (0, 1)


def test_a_request_is_counted_by_status_and_timed_by_outcome(page: Page) -> None:
    for status in ("200", "201", "429", "error", "timeout"):
        page.metrics.request(status, 0.2)
    counts = {("200",): 1, ("201",): 1, ("429",): 1, ("error",): 1, ("timeout",): 1}
    assert page.samples("requests_total") == counts
    assert page.samples("request_seconds_count") == {
        ("ok",): 2,
        ("refused",): 1,
        ("error",): 1,
        ("timeout",): 1,
    }


@pytest.mark.parametrize("invented", ["", "20", "2000", "٢٠٠", "no such status", "x" * 5000])
def test_a_status_that_is_none_does_not_become_a_label(page: Page, invented: str) -> None:
    page.metrics.request(invented, 0.1)
    assert page.samples("requests_total") == {("error",): 1, ("timeout",): 0}


def test_a_limit_adds_up_how_long_it_held_requests_back(page: Page) -> None:
    page.metrics.waited("requests_per_minute", 0.5)
    page.metrics.waited("requests_per_minute", 1.25)
    waited = page.samples("rate_limit_wait_seconds_total")
    assert waited == {("requests_per_minute",): 1.75}


def test_single_events_are_counted_where_they_belong(page: Page) -> None:
    page.metrics.retry("throttled")
    page.metrics.committed("unknown")
    page.metrics.rebalanced()
    page.metrics.foreign_metadata()
    page.metrics.stale_outcome()
    assert page.samples("retries_total")[("throttled",)] == 1
    assert page.samples("commits_total")[("unknown",)] == 1
    for name in ("rebalances_total", "foreign_metadata_total", "stale_outcomes_total"):
        assert page.samples(name) == {(): 1}


def test_delays_are_counted_per_record_of_a_batch(page: Page) -> None:
    now = 1_700_000_000_000
    page.metrics.visible([now - 100, now - 101, now - 3_600_000, now - 90_000_000], now)
    buckets = page.samples("visibility_delay_seconds_bucket")
    assert buckets[("0.1",)] == 1
    assert buckets[("0.25",)] == 2
    assert buckets[("3600.0",)] == 3
    assert buckets[("86400.0",)] == 3
    assert buckets[("+Inf",)] == 4
    assert page.samples("visibility_delay_seconds_sum")[()] == pytest.approx(93600.201)


def test_a_record_without_a_timestamp_has_no_delay(page: Page) -> None:
    page.metrics.visible([-1, -1], 1000)
    page.metrics.visible([], 1000)
    page.metrics.visible([-1, 900], 1000)
    assert page.samples("visibility_delay_seconds_count") == {(): 1}
    assert page.samples("visibility_delay_seconds_sum") == {(): 0.1}


def test_a_timestamp_from_the_future_counts_as_no_delay(page: Page) -> None:
    page.metrics.visible([5000], 1000)
    assert page.samples("visibility_delay_seconds_bucket")[("0.1",)] == 1
    assert page.samples("visibility_delay_seconds_sum") == {(): 0}


@given(st.lists(st.integers(-1, 10**9)), st.integers(0, 10**9))
def test_counting_a_batch_at_once_equals_counting_its_records(times: list[int], now: int) -> None:
    page = Page()
    page.metrics.visible(times, now)
    delays = [max(0, now - t) for t in times if t >= 0]
    buckets = page.samples("visibility_delay_seconds_bucket")
    for bound in (*DELAY_SECONDS, math.inf):
        name = "+Inf" if bound == math.inf else str(float(bound))
        assert buckets[(name,)] == sum(d <= bound * 1000 for d in delays)
    total = page.samples("visibility_delay_seconds_sum")[()]
    assert total == pytest.approx(sum(delays) / 1000)


def test_gauges_are_asked_for_at_each_scrape(page: Page) -> None:
    held = 3
    page.metrics.watch(lambda: Gauges(buffered_records=held, sink_up=False))
    assert page.samples("buffered_records") == {(): 3}
    held = 4
    assert page.samples("buffered_records") == {(): 4}
    assert page.samples("sink_up") == {(): 0}


def test_a_revoked_partition_leaves_the_page(page: Page) -> None:
    ours = {TopicPartition("a", 0): 10, TopicPartition("a", 1): 20}
    page.metrics.watch(lambda: Gauges(checkpoints=ours, lags=ours))
    assert page.samples("lag_records") == {("0", "a"): 10, ("1", "a"): 20}
    del ours[TopicPartition("a", 1)]
    assert page.samples("lag_records") == {("0", "a"): 10}
    assert page.samples("checkpoint_offset") == {("0", "a"): 10}


def test_exactly_one_state_is_the_one_that_the_pipeline_is_in(page: Page) -> None:
    page.metrics.watch(lambda: Gauges(state="halted"))
    states = page.samples("state")
    assert states[("halted",)] == 1
    assert sum(states.values()) == 1
    assert set(states) == {(state,) for state in get_args(State)}


def test_a_refused_reload_shows_until_one_succeeds(page: Page) -> None:
    assert page.samples("config_last_reload_successful") == {(): 1}
    page.metrics.reloaded(False)
    assert page.samples("config_last_reload_successful") == {(): 0}
    page.metrics.reloaded(True)
    assert page.samples("config_last_reload_successful") == {(): 1}


def test_the_version_is_told(page: Page) -> None:
    assert page.samples("build_info") == {(__version__,): 1}


def test_the_same_history_gives_the_same_text_in_whatever_order_labels_came() -> None:
    first, second = Page(), Page()
    for page, topics in ((first, ["a", "b"]), (second, ["b", "a"])):
        page.metrics.topics(topics)
        for topic in topics:
            page.metrics.consumed(topic, 1)
        parts = {TopicPartition(t, 0): 1 for t in topics}
        page.metrics.watch(lambda parts=parts: Gauges(lags=parts))
    assert first.text() == second.text()
    assert openmetrics(first.registry) == openmetrics(second.registry)


def test_the_whole_page_of_a_fixed_history_is_as_it_was(page: Page, tmp_path: Path) -> None:
    a_fixed_history(page.metrics)
    text = page.text().replace(__version__, "0.0.0")
    changed = tmp_path / SNAPSHOT.name
    changed.write_text(text)
    assert text == SNAPSHOT.read_text(), f"if this is meant: cp {changed} {SNAPSHOT}"


def test_promtool_finds_nothing_to_say_about_the_page(page: Page) -> None:
    require("promtool", found=shutil.which("promtool") is not None)
    a_fixed_history(page.metrics)
    command = ["promtool", "check", "metrics"]
    said = subprocess.run(command, input=page.text(), capture_output=True, text=True)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def a_fixed_history(metrics: Metrics) -> None:
    """Something of everything."""
    now = 1_700_000_000_000
    metrics.topics(["orders", "pages"])
    metrics.limits(["requests_per_minute"])
    metrics.models(["gpt-4.1-mini", "other"], priced=True)
    metrics.spent("gpt-4.1-mini", "estimated", 1200, 4000, 0.0034)
    metrics.spent("gpt-4.1-mini", "reported", 1100, 900, 0.00094)
    metrics.spent("other", "reported", 7, 0, 0)
    metrics.rebalanced()
    metrics.consumed("pages", 1000)
    metrics.skipped("pages", "tombstone", 3)
    metrics.request("200", 0.2)
    metrics.request("429", 0.01)
    metrics.request("timeout", 30.0)
    metrics.retry("throttled")
    metrics.retry("timeout")
    metrics.waited("requests_per_minute", 1.5)
    metrics.batch("records", "delivered", 500, 200_000)
    metrics.batch("age", "partial", 400, 100_000)
    metrics.delivered("pages", 898)
    metrics.dead_lettered("pages", "rejected", 2)
    metrics.visible([now - 700, now - 90_000, -1], now)
    metrics.committed("ok")
    metrics.committed("unknown")
    metrics.foreign_metadata()
    metrics.stale_outcome()
    metrics.reloaded(False)
    tp = TopicPartition("pages", 0)
    metrics.watch(
        lambda: Gauges(
            state="outage",
            buffered_records=97,
            buffered_bytes=40_000,
            memory_used_bytes=120_000,
            memory_limit_bytes=192 * 1024**2,
            in_flight_batches=1,
            oldest_unflushed_seconds=4.5,
            checkpoint_age_seconds=3.25,
            sink_up=False,
            checkpoints={tp: 903},
            log_starts={tp: 100},
            lags={tp: 5097},
        )
    )


def test_one_registry_cannot_hold_two_pipelines(page: Page) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Metrics("other", page.registry)


def test_a_scrape_may_ask_for_some_names_only(page: Page) -> None:
    page.metrics.rebalanced()
    only = page.registry.restricted_registry(["sluiced_rebalances_total"])
    lines = generate_latest(only).decode().splitlines()
    assert [x for x in lines if x[0] != "#"] == ['sluiced_rebalances_total{pipeline="pages"} 1.0']

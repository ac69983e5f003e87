"""What the panels of one pipeline ask Prometheus: everything of the pipeline and members chosen."""

from __future__ import annotations

OURS = 'pipeline="$pipeline", instance=~"$instance"'
# process_* have no pipeline label, but each instance is one pipeline.
PROCESS = f"* on (job, instance) group_left (pipeline) (sluiced_build_info{{{OURS}}})"

TOKENS = "{{model}}, {{direction}}, {{basis}}"


def rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{OURS}}}[$__rate_interval]))"


def increase(metric: str, by: str) -> str:
    return f"sum by ({by}) (increase({metric}{{{OURS}}}[$__rate_interval]))"


def quantile(q: float, metric: str) -> str:
    buckets = f"sum by (le) (rate({metric}_bucket{{{OURS}}}[$__rate_interval]))"
    return f"histogram_quantile({q}, {buckets})"

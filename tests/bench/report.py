"""The tables, in Markdown, with the targets beside the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .latency import Latency
from .postgres import Speed
from .rounds import Standing
from .stalled import ALLOWANCE, BUDGET, Stall

RATE_AT_LEAST = 0.85
RSS_BELOW = 150 * 1000**2


def standings(found: Mapping[str, Standing | None], cpu_at_most: Mapping[str, float]) -> str:
    """`cpu_at_most` names, for who has a target, the CPU ratio that it may have."""
    rows = [_row(name, s, cpu_at_most.get(name)) for name, s in found.items()]
    head = ["", "records/s", "ratio", "CPU µs/record", "ratio", "peak RSS MB", "requests"]
    return table([*head, "lost", "duplicated", "targets"], rows)


def _row(name: str, standing: Standing | None, cpu_at_most: float | None) -> list[str]:
    if standing is None:
        return [name, *["-"] * 8, "did not finish"]
    s = standing
    return [
        name,
        f"{s.rate:,.0f}",
        f"{s.rate_ratio:.2f}",
        f"{s.cpu:.2f}",
        f"{s.cpu_ratio:.2f}",
        f"{s.rss / 1e6:.0f}",
        str(s.requests),
        str(s.lost),
        str(s.duplicated),
        "" if cpu_at_most is None else "; ".join(_verdicts(s, cpu_at_most)),
    ]


def _verdicts(s: Standing, cpu_at_most: float) -> list[str]:
    return [
        _verdict(s.rate_ratio >= RATE_AT_LEAST, f"throughput ≥ {RATE_AT_LEAST}"),
        _verdict(s.cpu_ratio <= cpu_at_most, f"CPU ≤ {cpu_at_most}"),
        _verdict(s.rss < RSS_BELOW, f"RSS < {RSS_BELOW / 1e6:.0f} MB"),
        _verdict(not s.lost and not s.duplicated, "none lost or duplicated"),
    ]


def stalls(found: Sequence[Stall | str]) -> str:
    limit = BUDGET + ALLOWANCE
    rows = [
        ["-"] * 4 + [s]
        if isinstance(s, str)
        else [
            f"{s.waiting / 1e9:.1f} GB of {s.record_bytes:,} B",
            str(s.attempts),
            f"{s.rss / 1e6:.0f}",
            f"{limit / 1e6:.0f}",
            _verdict(s.rss < limit and s.flat, "RSS" if s.flat else "RSS, still growing"),
        ]
        for s in found
    ]
    return table(["sink stalled", "attempts", "peak RSS MB", "limit MB", "target"], rows)


def databases(inserts: Sequence[Speed], upserts: Sequence[Speed]) -> str:
    """Both in one table; ratios are to the first."""
    rows = [
        [
            one.name,
            *(f"{one.rate:,.0f}", f"{one.rate / inserts[0].rate:.2f}", f"{one.cpu:.1f}"),
            *(f"{other.rate:,.0f}", f"{other.rate / upserts[0].rate:.2f}", f"{other.cpu:.1f}"),
        ]
        for one, other in zip(inserts, upserts, strict=True)
    ]
    head = ["into PostgreSQL", *["rows/s", "ratio", "CPU µs/row"] * 2]
    return table([f"{head[0]}: inserts, then upserts", *head[1:]], rows)


def latencies(found: Sequence[Latency]) -> str:
    """The one without a plan comes first, then the one with a target, then the others."""
    rows = [
        [
            f.name,
            f"{f.p50:.1f}",
            f"{f.p99:.1f}",
            f"{f.within:.1%}" if place else "-",
            f"{f.commits:.2f}",
            _verdict(f.within >= 0.99, "99 % of plans within 5 ms") if place == 1 else "",
        ]
        for place, f in enumerate(found)
    ]
    head = ["full window to request", "p50 ms", "p99 ms", "plans in 5 ms", "commits a batch"]
    return table([*head, "target"], rows)


def _verdict(met: bool, target: str) -> str:
    return f"{target}: {'met' if met else 'MISSED'}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be; all but the first and last are figures, set to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    last = len(head) - 1

    def line(cells: Sequence[str]) -> str:
        set_ = [
            c.ljust(w) if i in (0, last) else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(set_)} |"

    rule = ["-" * w if i in (0, last) else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])

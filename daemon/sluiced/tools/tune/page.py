"""The report as one page of HTML that needs nothing from anywhere: no script, no network."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from ... import __version__
from ...errors import SluicedError
from ..text import count
from . import report
from .plot import PLOTS, drawn
from .tune import Tuned

_STYLE = """
:root { color-scheme: light dark;
  --ground: #f4f6f8; --panel: #ffffff; --ink: #14202b; --quiet: #4a5966; --line: #c3ccd4;
  --mark: #e3f1fc; --knee: #7a3fc8;
  --c0: #0b66b0; --c1: #14703a; --c2: #a85400; --c3: #b3261e; --c4: #7a3fc8; --c5: #00707a }
@media (prefers-color-scheme: dark) { :root {
  --ground: #0f161c; --panel: #18222b; --ink: #eef3f7; --quiet: #a9b8c4; --line: #3b4954;
  --mark: #1d4767; --knee: #c9a6ff;
  --c0: #5bb3f5; --c1: #63d18f; --c2: #f0b45a; --c3: #ff9088; --c4: #c9a6ff; --c5: #4fd0dc } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 820px; margin: 0 auto; padding: 1.5em 1em;
  color: var(--ink); background: var(--ground); font-variant-numeric: tabular-nums }
h1 { font-size: 1.5em; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.1em; margin: 1.6em 0 .4em }
p { margin: .6em 0; overflow-wrap: anywhere } .quiet { color: var(--quiet) }
.panel, pre { background: var(--panel); border: 1px solid var(--line); border-radius: .5em }
.panel { padding: .5em; overflow-x: auto }
pre { padding: .8em 1em; overflow-x: auto; margin: .6em 0 }
table { border-collapse: collapse; font-size: 14px; width: 100%; white-space: nowrap }
th, td { padding: 2px 8px; text-align: right } th { border-bottom: 1px solid var(--line) }
th:last-child, td:last-child { text-align: left }
tr.chosen { background: var(--mark); font-weight: 600 }
svg { display: block; width: 100%; min-width: 600px; height: auto }
svg text { font: 13px system-ui, sans-serif; fill: var(--quiet) }
.grid { stroke: var(--line) } .limit { fill: none; stroke: var(--quiet); stroke-dasharray: 2 4 }
.knee { stroke: var(--knee); stroke-dasharray: 6 4 }
svg .knee-label { fill: var(--knee); font-weight: 600 }
g polyline, g path { fill: none; stroke: var(--own); stroke-width: 2 }
g circle, g rect { fill: var(--own) }
circle.chosen { stroke: var(--ink); stroke-width: 2 }
.c0 { --own: var(--c0) } .c1 { --own: var(--c1) } .c2 { --own: var(--c2) }
.c3 { --own: var(--c3) } .c4 { --own: var(--c4) } .c5 { --own: var(--c5) }
@media print { body { background: none } svg, tr { break-inside: avoid } }
"""


def save(path: Path, tuned: Tuned) -> None:
    """Raises SluicedError where the file cannot be written."""
    try:
        path.write_text(page(tuned, datetime.now(UTC)), encoding="utf-8")
    except OSError as error:
        raise SluicedError(
            f"--report {path} cannot be written: {error.strerror}", "Name another file."
        ) from None


def page(tuned: Tuned, now: datetime) -> str:
    """The whole document."""
    title = escape(f"sluiced tune: {tuned.config.name}")
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        f'<p class="quiet">{escape(tuned.config.sink.summary)}, {now:%Y-%m-%d %H:%M} UTC, '
        f"sluiced {__version__}; {_spent(tuned)}</p>",
        *_advice(tuned),
        *(f"<p>{escape(text)}</p>" for text in report.held(tuned)),
        *_plots(tuned),
        *_table(tuned),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _spent(tuned: Tuned) -> str:
    requests = sum(len(p.latencies) for p in tuned.points)
    options = tuned.options
    return (
        f"{count(requests, 'request')} of {options.requests:,} in "
        f"{report.duration(tuned.seconds)} of {options.minutes:g} min"
    )


def _advice(tuned: Tuned) -> Iterator[str]:
    if (why := report.unfinished(tuned)) is not None:
        yield f"<p>{escape(why)}</p>"
    if tuned.advice is None:
        yield f"<p>{report.NOTHING}</p>"
        return
    yield f"<p><strong>{escape(tuned.advice.reason)}</strong></p>"
    values = (f"{key} = {report.shown(value)}" for key, value in tuned.advice.values.items())
    yield f"<pre>{escape(chr(10).join(values))}</pre>"
    yield from (f"<p>{escape(remark)}</p>" for remark in tuned.advice.remarks)


def _plots(tuned: Tuned) -> Iterator[str]:
    chosen = None if tuned.advice is None else tuned.advice.point
    for plot in PLOTS:
        if lines := list(drawn(plot, tuned.points, chosen)):
            yield f'<h2>{escape(plot.title)}</h2><div class="panel">'
            yield from lines
            yield "</div>"


def _table(tuned: Tuned) -> Iterator[str]:
    yield '<h2>All that was measured</h2><div class="panel"><table><tr>'
    names = [*report.HEADER[:-1], "MEMORY", report.HEADER[-1]]
    yield "".join(f"<th>{escape(name.lower())}</th>" for name in names)
    yield "</tr>"
    for point in report.ordered(tuned.points):
        chosen = tuned.advice is not None and point is tuned.advice.point
        row = '<tr class="chosen">' if chosen else "<tr>"
        *most, bound = report.row(point, tuned.advice)
        cells = [*most, report.size(point.memory), bound]
        yield row + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table></div>"
    yield (
        '<p class="quiet">peak: of the whole process; memory: what records and bodies take with '
        "two windows more, as [limits] memory counts it</p>"
    )
    if errors := report.errors(tuned.points):
        listed = "\n".join(line.strip() for line in errors)
        yield f"<h2>Answers other than a delivery</h2><pre>{escape(listed)}</pre>"

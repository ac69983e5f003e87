"""What the demo shows: bars on a terminal, plain lines elsewhere, and one screen at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .audit import Findings
from .bulk_api import Counts

LINE_EVERY = 2.0  # seconds between two lines where there is no terminal to draw on


@dataclass(frozen=True, slots=True)
class Figures:
    """How far things are, in records, and in requests that reached the bulk API."""

    total: int
    produced: int
    delivered: int
    dead_lettered: int
    requests: int


class Display:
    """Shows figures while the demo runs. `say` is for what happens once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._next_line = 0.0

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def update(self, figures: Figures) -> None:
        if self._console.is_terminal:
            self._live.update(_bars(figures))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY
            self.say(
                f"  produced {figures.produced:,}  delivered {figures.delivered:,}  "
                f"dead-lettered {figures.dead_lettered}  requests {figures.requests}"
            )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._live.stop()


def _bars(figures: Figures) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", width=14)
    table.add_column(width=40)
    table.add_column(justify="right", width=8)
    for name, done in (("produced", figures.produced), ("delivered", figures.delivered)):
        table.add_row(name, ProgressBar(figures.total, done), f"{done:,}")
    table.add_row("dead-lettered", "", f"{figures.dead_lettered:,}")
    table.add_row("requests", "", f"{figures.requests:,}")
    return table


def report(console: Console, findings: Findings, counts: Counts, seconds: float) -> None:
    """The one screen at the end."""
    good = not findings.wrong
    buried = sum(findings.buried.values())
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(findings.buried.items()))
    again = f" ({findings.repeated} of them came twice after the crash)" * bool(findings.repeated)
    lines = {
        "": f"{findings.produced:,} records in {counts.requests} requests",
        "requests": f"{counts.applied} applied, {counts.replayed} answered from their idempotency "
        f"key, {counts.throttled} told to wait (429), {counts.refused} refused",
        "delivered": f"{findings.delivered:,}",
        "dead letters": f"{buried} ({reasons or 'none'}){again}",
        "duplicates": f"{findings.duplicates}",
        "sent again": f"{counts.existing} records after the crash; the API had them already",
        "visible after": f"p50 {findings.delay_p50:.2f} s, p99 {findings.delay_p99:.2f} s "
        "from the record's timestamp, the crash included",
        "time": f"{seconds:.1f} s",
        "audit": "holds: each record is in exactly one place" if good else "FAILED",
    }
    console.print()
    for name, line in lines.items():
        colour = "bold" if not name else ("bold green" if good else "bold red") * (name == "audit")
        label = f"{name:>14}  " if name else "  "
        console.print(Text.assemble((label, "dim"), (line, colour)), soft_wrap=True)
    for mistake in findings.wrong:
        console.print(Text(f"{'':16}{mistake}", "red"), soft_wrap=True)

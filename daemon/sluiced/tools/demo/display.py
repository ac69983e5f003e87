"""What the demo shows: bars on a terminal, plain lines elsewhere, and one screen at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .audit import Findings
from .bulk_api import Counts

LINE_EVERY = 2.0  # seconds between two lines where there is no terminal to draw on


class Shown(Protocol):
    """How far things are: as one line of text, and as bars. It is `complete` when every record is
    somewhere."""

    @property
    def complete(self) -> bool: ...

    def line(self) -> str: ...

    def bars(self) -> Table: ...


@dataclass(frozen=True, slots=True)
class Figures:
    """How far things are, in records, and in requests that reached the bulk API."""

    total: int
    produced: int
    delivered: int
    dead_lettered: int
    requests: int

    @property
    def complete(self) -> bool:
        return self.delivered + self.dead_lettered >= self.total

    def line(self) -> str:
        return (
            f"  produced {self.produced:,}  delivered {self.delivered:,}  "
            f"dead-lettered {self.dead_lettered}  requests {self.requests}"
        )

    def bars(self) -> Table:
        return bars(
            self.total,
            {"produced": self.produced, "delivered": self.delivered},
            {"dead-lettered": self.dead_lettered, "requests": self.requests},
        )


class Display:
    """Shows figures while the demo runs. `say` is for what happens once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._next_line = 0.0

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def update(self, figures: Shown) -> None:
        if self._console.is_terminal:
            self._live.update(figures.bars())
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY
            self.say(figures.line())

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


def bars(total: int, part: Mapping[str, int], plain: Mapping[str, int]) -> Table:
    """Bars for what is part of the total, and figures below."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", width=14)
    table.add_column(width=40)
    table.add_column(justify="right", width=8)
    for name, done in part.items():
        table.add_row(name, ProgressBar(total, done), f"{done:,}")
    for name, count in plain.items():
        table.add_row(name, "", f"{count:,}")
    return table


def screen(
    console: Console, title: str, lines: Mapping[str, str], holds: str, wrong: Sequence[str]
) -> None:
    """The one screen at the end: what was found, and the verdict of the audit."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", min_width=14, no_wrap=True)
    table.add_column(overflow="fold")
    for name, line in lines.items():
        table.add_row(Text(name, "dim"), line)
    verdict = Text("FAILED", "bold red") if wrong else Text(f"holds: {holds}", "bold green")
    table.add_row(Text("audit", "dim"), verdict)
    for mistake in wrong:
        table.add_row("", Text(mistake, "red"))
    console.print()
    console.print(Text(f"  {title}", "bold"))
    console.print(table)


def report(console: Console, findings: Findings, counts: Counts, seconds: float) -> None:
    """The one screen at the end."""
    buried = sum(findings.buried.values())
    again = f" ({findings.repeated} of them came twice after the crash)" * bool(findings.repeated)
    lines = {
        "requests": f"{counts.applied} applied, {counts.replayed} answered from their idempotency "
        f"key, {counts.throttled} told to wait (429), {counts.refused} refused",
        "delivered": f"{findings.delivered:,}",
        "dead letters": f"{buried} ({reasons(findings.buried)}){again}",
        "duplicates": f"{findings.duplicates}",
        "sent again": f"{counts.existing} records after the crash; the API had them already",
        "visible after": f"p50 {findings.delay_p50:.2f} s, p99 {findings.delay_p99:.2f} s "
        "from the record's timestamp, the crash included",
        "time": f"{seconds:.1f} s",
    }
    title = f"{findings.produced:,} records in {counts.requests} requests"
    screen(console, title, lines, "each record is in exactly one place", findings.wrong)


def reasons(buried: Mapping[str, int]) -> str:
    """The dead letters by their reasons."""
    return ", ".join(f"{n} {reason}" for reason, n in sorted(buried.items())) or "none"

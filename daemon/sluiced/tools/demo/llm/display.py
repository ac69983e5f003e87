"""What the demo shows while it runs, and the one screen at its end."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ..display import bars, reasons, screen
from .audit import Findings


@dataclass(frozen=True, slots=True)
class Figures:
    """How far things are: prompts, and jobs at the provider."""

    total: int
    produced: int
    answered: int
    dead_lettered: int
    jobs: int
    at_work: int

    @property
    def complete(self) -> bool:
        return self.answered + self.dead_lettered >= self.total

    def line(self) -> str:
        return (
            f"  produced {self.produced:,}  answered {self.answered:,}  "
            f"dead-lettered {self.dead_lettered}  jobs {self.jobs} ({self.at_work} at work)"
        )

    def bars(self) -> Table:
        return bars(
            self.total,
            {"produced": self.produced, "answered": self.answered},
            {
                "dead-lettered": self.dead_lettered,
                "jobs made": self.jobs,
                "at work": self.at_work,
            },
        )


@dataclass(frozen=True, slots=True)
class Crash:
    """What stood when the daemon was killed: jobs, and how many of them in the checkpoint; and how
    many the next daemon has found by their names."""

    jobs: int
    noted: int
    adopted: int


def report(console: Console, findings: Findings, crash: Crash, seconds: float) -> None:
    """The one screen at the end."""
    f = findings
    buried = sum(f.buried.values())
    lines = {
        "example": f.example,
        "answered": f"{f.answered:,}, {_twice(f.answered_twice) or 'each once'}",
        "dead letters": f"{buried} ({reasons(f.buried)}){_twice(f.buried_twice, ', ')}",
        "jobs": f"{f.jobs}, with {f.requests:,} requests; {f.again:,} of them a further time: rate "
        "limits, server errors, and the second half of a job that expired",
        "the crash": f"{crash.jobs} jobs were at the provider: {crash.noted} found again by their "
        f"ids in the checkpoint, {crash.adopted} adopted by name",
        "tokens": f"{f.taken:,} in, {f.given:,} out, as the provider charges them",
    }
    if f.cost is not None:
        lines["cost"] = f"${f.cost:.4f}; single calls would have cost ${2 * f.cost:.4f}"
    lines["broker"] = (
        "Tansu keeps no metadata of commits, in which the jobs' ids stand; the demo keeps it in "
        "its place, as Apache Kafka does by itself"
    )
    lines["time"] = f"{seconds:.1f} s"
    title = f"{f.prompts:,} prompts in {f.jobs} jobs"
    holds = "each prompt has exactly one answer or dead letter, and no job was made twice"
    screen(console, title, lines, holds, f.wrong)


def _twice(count: int, comma: str = "") -> str:
    return f"{comma}{count:,} of them came twice after the crash" if count else ""

"""What a replay would do, and what it has done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...batch import Batch
from ...ports import DeadLetter
from ...record import TopicPartition
from ..text import count, printable, shortened, table

NAMED = 20  # refused records that are named
LISTED = 20  # partitions and batches that are listed


@dataclass(slots=True)
class Report:
    """Batches made and what became of their records. `refused` holds those that the intake
    refuses, too; `skipped` counts tombstones and what `collapse` leaves out."""

    records: Counter[TopicPartition] = field(default_factory=Counter)
    batches: list[tuple[str, int]] = field(default_factory=list)  # id and number of records
    bytes: int = 0
    skipped: int = 0
    delivered: int = 0
    refused: list[DeadLetter] = field(default_factory=list)
    stopped: bool = False

    @property
    def total(self) -> int:
        return self.records.total()

    @property
    def complete(self) -> bool:
        """Whether every record that may be delivered was."""
        return not self.refused and not self.stopped

    def add(self, batch: Batch) -> None:
        self.records.update(TopicPartition(r.topic, r.partition) for r in batch.records)
        self.batches.append((batch.id, len(batch)))
        self.bytes += batch.size


def planned(plan: Report, width: int, *, exact: bool) -> list[str]:
    """What would be sent."""
    lines = [
        f"{count(plan.total, 'record')} in {count(len(plan.batches), 'batch', 'batches')}, "
        f"{plan.bytes:,} bytes of values"
    ]
    rows = [(str(tp), f"{n:,}") for tp, n in sorted(plan.records.items())[:LISTED]]
    if rows:
        lines += ["", *table(("PARTITION", "RECORDS"), rows, width), *_more(plan.records, LISTED)]
    if exact and plan.batches:
        rows = [(id_, f"{n:,}") for id_, n in plan.batches[:LISTED]]
        lines += ["", *table(("BATCH", "RECORDS"), rows, width), *_more(plan.batches, LISTED)]
    left = _left(plan, width)
    return [*lines, *([""] if left else []), *left, ""]


def done(report: Report, plan: Report, width: int) -> list[str]:
    """What was sent."""
    lines = [
        f"{report.delivered:,} of {count(plan.total, 'record')} delivered again, in "
        f"{count(len(report.batches), 'batch', 'batches')}",
        *_left(report, width),
    ]
    if report.stopped:
        lines.append("Stopped before the end. What was delivered is not remembered: name the rest.")
    return lines


def _left(report: Report, width: int) -> list[str]:
    lines = []
    if report.skipped:
        lines.append(
            f"{count(report.skipped, 'record')} skipped: tombstones, filtered or collapsed"
        )
    if report.refused:
        lines.append(f"{count(len(report.refused), 'record')} refused:")
        lines += [shortened(_named(letter), width) for letter in report.refused[:NAMED]]
        lines += _more(report.refused, NAMED)
    return lines


def _named(letter: DeadLetter) -> str:
    r = letter.record
    words = (f"  {r.topic}/{r.partition}/{r.offset} ", letter.reason, letter.status, letter.error)
    return printable(" ".join(word for word in words if word))


def _more(listed: Sequence[object] | Counter[TopicPartition], shown: int) -> list[str]:
    return [f"  and {len(listed) - shown:,} more"] if len(listed) > shown else []

"""`sluiced dead-letters list`: how many there are, why they died, and the last of them."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from ... import moments
from ...config import Config
from ...redrive import scanning
from ...redrive.letter import Letter
from ...redrive.scanning import dead_letter_topic
from ..text import Progress, count, printable, shortened, table, width_of
from .selection import Selection

MOST_COUNTS = 10  # lines of a count; what is rarer is added up
COUNTED = ("reason", "status", "topic")
COLUMNS = ("LETTER", "AGE", "RECORD", "REASON", "ERROR")


@dataclass(slots=True)
class Found:
    """What a look at the topic has brought: counts of all that matches, and the latest of it."""

    topic: str
    limit: int
    total: int = 0
    matching: int = 0
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in COUNTED}
    )
    _latest: list[tuple[tuple[datetime, int, int], int, Letter]] = field(default_factory=list)

    def add(self, letter: Letter) -> None:
        self.matching += 1
        self.counts["reason"][letter.reason] += 1
        self.counts["status"][letter.status or "none"] += 1
        self.counts["topic"][letter.topic or "unknown"] += 1
        if self.limit:
            place = (letter.record.partition, letter.record.offset)
            rank = (letter.died or datetime.min.replace(tzinfo=UTC), *place)
            entry = (rank, self.matching, letter)
            if len(self._latest) < self.limit:
                heapq.heappush(self._latest, entry)
            else:
                heapq.heappushpop(self._latest, entry)

    @property
    def latest(self) -> list[Letter]:
        """In the order in which they died."""
        return [letter for _, _, letter in sorted(self._latest)]


async def find(config: Config, selection: Selection, limit: int) -> Found:
    """Reads the whole topic. Raises SluicedError."""
    found = Found(dead_letter_topic(config), limit)
    async with scanning.opened(config) as (reader, spans):
        progress = Progress("reading", sum(map(len, spans.values())))
        async for page in scanning.letters(reader, spans):
            found.total += len(page)
            for letter in page:
                if selection.matches(letter):
                    found.add(letter)
            progress.show(found.total)
        progress.end()
    return found


def as_text(found: Found, width: int) -> list[str]:
    """Counts first, then the table."""
    what = count(found.matching, "dead letter")
    if found.matching != found.total:
        what = f"{found.matching:,} of {count(found.total, 'dead letter')}"
    lines = [f"{what} in {found.topic}"]
    if not found.matching:
        return lines
    lines += ["", *_counts(found, width)]
    if latest := found.latest:
        rows = [_row(letter, datetime.now(UTC)) for letter in latest]
        if len(latest) < found.matching:
            lines += ["", f"The last {count(len(latest), 'letter')} (--limit N shows more):"]
        lines += ["", *table(COLUMNS, rows, width)]
    return lines


def _row(letter: Letter, now: datetime) -> tuple[str, ...]:
    age = moments.age(letter.died, now)
    reason = f"{letter.reason} {letter.status}".rstrip()
    return letter.place, age, letter.origin, reason, letter.error


def _counts(found: Found, width: int) -> list[str]:
    """The three counts side by side, each in its third of the width."""
    share = (width - 2 * 3) // 3
    blocks = [_block(f"by {name}", found.counts[name], share) for name in COUNTED]
    height = max(map(len, blocks))
    lines = []
    for n in range(height):
        cells = [block[n] if n < len(block) else "" for block in blocks]
        padded = [cell + " " * (share - width_of(cell)) for cell in cells]
        lines.append("   ".join(padded).rstrip())
    return lines


def _block(title: str, counts: Counter[str], width: int) -> list[str]:
    rows = [(printable(name), f"{number:,}") for name, number in counts.most_common(MOST_COUNTS)]
    if rest := counts.total() - sum(number for _, number in counts.most_common(MOST_COUNTS)):
        rows.append(("others", f"{rest:,}"))
    digits = max(len(number) for _, number in rows)
    return [
        title,
        *(f"{number:>{digits}}  {shortened(n, width - digits - 2)}" for n, number in rows),
    ]


def as_json(found: Found) -> str:
    """One JSON document."""
    return msgspec.json.encode(
        {
            "topic": found.topic,
            "letters": found.total,
            "matching": found.matching,
            **{f"by_{name}": dict(found.counts[name].most_common()) for name in COUNTED},
            "latest": [summary(letter) for letter in found.latest],
        }
    ).decode()


def summary(letter: Letter) -> dict[str, Any]:
    """What a letter says, without the record itself."""
    return {
        "letter": {"partition": letter.record.partition, "offset": letter.record.offset},
        "record": {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset},
        "dialect": letter.dialect,
        "died": moments.rfc3339(letter.died),
        "reason": letter.reason,
        "status": letter.status or None,
        "error": letter.error,
        "exception": letter.exception or None,
        "stage": letter.stage or None,
        "attempts": _attempts(letter),
        "batch": letter.batch or None,
        "group": letter.group or None,
        "pipeline": letter.pipeline or None,
        "redrives": letter.redrives,
        "stub": letter.stubbed,
    }


def _attempts(letter: Letter) -> int | None:
    """None for what is no number that a reader of JSON could hold."""
    text = letter.attempts
    return int(text) if text.isdecimal() and len(text) <= 18 else None

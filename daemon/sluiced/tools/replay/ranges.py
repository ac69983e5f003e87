"""Offset ranges as they are typed and as the logs name them: topic/partition/first-last."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ...errors import SluicedError
from ...kafka.scan import Span
from ...record import TopicPartition

_PART = re.compile(r"([a-zA-Z0-9._-]{1,249})/(\d{1,9})/(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)


class Part(NamedTuple):
    """Offsets of one partition, the last one included."""

    tp: TopicPartition
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.tp}/{self.first}" + (f"-{self.last}" if self.last > self.first else "")


def parse(text: str) -> list[Part]:
    """One argument: parts joined by "," or "+". Raises SluicedError."""
    return [_part(part.strip()) for part in re.split(r"[,+]", text)]


def _part(text: str) -> Part:
    match = _PART.fullmatch(text)
    if match is not None:
        first, last = int(match[3]), int(match[4] or match[3])
        if first <= last:
            return Part(TopicPartition(match[1], int(match[2])), first, last)
    raise SluicedError(
        f"{text!r} is not a range of offsets",
        "Write topic/partition/first-last or topic/partition/offset, such as pages/3/100-199; "
        'join those of one batch by ",".',
    )


def merged(parts: Iterable[Part]) -> list[tuple[TopicPartition, Span]]:
    """By partition and offset, each offset once."""
    spans: list[tuple[TopicPartition, Span]] = []
    for tp, first, last in sorted(parts):
        if spans and spans[-1][0] == tp and first <= spans[-1][1].end:
            spans[-1] = tp, Span(spans[-1][1].first, max(spans[-1][1].end, last + 1))
        else:
            spans.append((tp, Span(first, last + 1)))
    return spans

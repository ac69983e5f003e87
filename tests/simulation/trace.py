"""What happened in a run, told in order; the same seed tells the same story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import blake2b

from sluiced.batch import Batch
from sluiced.record import Range, TopicPartition


class Trace:
    """Keeps the events, and counts them by kind. They are put into words only if someone reads
    them; what they are told of is immutable."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: list[tuple[float, str, str, tuple[object, ...]]] = []
        self.counts: Counter[str] = Counter()  # others may count here as well

    def note(self, who: str, kind: str, *details: object) -> None:
        """`kind` is a short phrase out of a fixed number of them; details are for the reader."""
        self.counts[kind] += 1
        self._events.append((self._clock(), who, kind, details))

    def lines(self) -> list[str]:
        return [
            f"{time:9.3f}  {who:<7} {kind:<26} {' '.join(map(_worded, details))}".rstrip()
            for time, who, kind, details in self._events
        ]

    def digest(self) -> str:
        """The same for two runs if and only if they went the same way."""
        return blake2b("\n".join(self.lines()).encode(), digest_size=8).hexdigest()


def _worded(detail: object) -> str:
    if isinstance(detail, Batch):
        spans = " ".join(f"{tp}:{worded_ranges(ranges)}" for tp, _, ranges in detail.spans)
        return f"{detail.id[:6]} {spans}"
    if isinstance(detail, float):
        return f"{detail:.3f}"
    return str(detail)


def worded_ranges(ranges: Iterable[Range]) -> str:
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in ranges)


def worded_offsets(offsets: Iterable[tuple[TopicPartition, object]]) -> str:
    return " ".join(f"{tp}:{value}" for tp, value in sorted(offsets, key=lambda pair: pair[0]))

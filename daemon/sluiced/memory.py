"""What the line may hold, and what it does hold."""

from __future__ import annotations

from collections.abc import Callable

from .batch import Run


class Memory:
    """`limit` is the budget in bytes for records on their way through the line, and for what the
    sink holds besides: so many bytes of answers, and of bodies larger than their records, as `held`
    tells. What is occupied is not kept count of: each of the `parts` is asked.
    """

    def __init__(self, limit: int, held: Callable[[], int], *parts: Callable[[], int]) -> None:
        self.limit = limit
        self.held = held
        self._parts = parts
        self.mean = 16_384  # bytes that a record is taken to occupy, until we know better

    def occupied(self) -> int:
        """Bytes that records take up now or soon will, each with its request's body, and what the
        sink holds besides."""
        return self.held() + sum(part() for part in self._parts)

    def free(self) -> int:
        """Bytes; less than none where the last fetch was larger than expected."""
        return self.limit - self.occupied()

    def learn(self, run: Run) -> None:
        """How large records are, from those that came last."""
        mean = (run.footprint + run.size) // len(run.records)
        self.mean = max(mean, self.mean // 2, 1)

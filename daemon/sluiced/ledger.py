"""What is owed: offsets taken from the stream and not yet done. It alone knows the checkpoint.

Records are taken in order, settled in any order, and committed as a prefix.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from .batch import Span
from .record import Range, TopicPartition


@dataclass(slots=True)
class _Account:
    """One partition under one epoch. The two lists hold disjoint, ascending, inclusive ranges."""

    epoch: int
    position: int
    committed: int
    firsts: list[int] = field(default_factory=list)
    lasts: list[int] = field(default_factory=list)

    def owe(self, first: int, last: int) -> None:
        if first < self.position or last < first:
            raise ValueError(f"{first}-{last} was taken already: the position is {self.position}")
        if self.lasts and self.lasts[-1] + 1 == first:
            self.lasts[-1] = last
        else:
            self.firsts.append(first)
            self.lasts.append(last)
        self.position = last + 1

    def pay(self, first: int, last: int) -> None:
        i = bisect_right(self.firsts, first) - 1
        if i < 0 or last > self.lasts[i]:
            raise ValueError(f"{first}-{last} is settled that was not owed")
        start, end = self.firsts[i], self.lasts[i]
        rest = [(a, b) for a, b in ((start, first - 1), (last + 1, end)) if a <= b]
        self.firsts[i : i + 1] = [a for a, _ in rest]
        self.lasts[i : i + 1] = [b for _, b in rest]

    @property
    def checkpoint(self) -> int:
        return self.firsts[0] if self.firsts else self.position

    def owes(self, first: int, last: int) -> bool:
        i = bisect_right(self.firsts, last) - 1
        return i >= 0 and self.lasts[i] >= first

    def owed_within(self, first: int, last: int) -> list[Range]:
        start = max(0, bisect_right(self.firsts, first) - 1)
        found = zip(self.firsts[start:], self.lasts[start:], strict=True)
        cut = ((max(a, first), min(b, last)) for a, b in takewhile(lambda r: r[0] <= last, found))
        return [(a, b) for a, b in cut if a <= b]


class Ledger:
    """Keeps, for every assigned partition, the ranges that are owed and the way to the prefix.

    Invariant: a checkpoint is never above the first offset that is neither delivered, nor
    dead-lettered and acknowledged, nor skipped on purpose.
    """

    def __init__(self) -> None:
        self._accounts: dict[TopicPartition, _Account] = {}

    def assign(self, tp: TopicPartition, epoch: int, position: int) -> None:
        """Opens a partition at `position`, its checkpoint; whatever was owed is forgotten."""
        self._accounts[tp] = _Account(epoch, position, position)

    def revoke(self, tps: Iterable[TopicPartition]) -> None:
        for tp in tps:
            self._accounts.pop(tp, None)

    def epoch(self, tp: TopicPartition) -> int | None:
        """The epoch under which the partition is assigned; None if it is not."""
        account = self._accounts.get(tp)
        return account.epoch if account else None

    def take(self, tp: TopicPartition, epoch: int, ranges: Iterable[Range], end: int) -> bool:
        """These offsets have been handed out, and below `end` there are no others.

        False, and nothing is taken, if the epoch is over. A gap (compaction, transaction markers)
        is owed to nobody.
        """
        account = self._current(tp, epoch)
        if account is None:
            return False
        for first, last in ranges:
            account.owe(first, last)
        account.position = max(account.position, end)
        return True

    def settle(self, spans: Iterable[Span]) -> int:
        """These offsets are done. Returns how many spans were of an epoch that is over, and
        therefore dropped."""
        stale = 0
        for tp, epoch, ranges in spans:
            account = self._current(tp, epoch)
            if account is None:
                stale += 1
                continue
            for first, last in ranges:
                account.pay(first, last)
        return stale

    def checkpoint(self, tp: TopicPartition) -> int:
        """The first offset that is not done: what may be committed as far as it is known here."""
        return self._accounts[tp].checkpoint

    def owes(self, tp: TopicPartition, first: int, last: int) -> bool:
        """Whether any of these offsets is taken and not settled."""
        return self._accounts[tp].owes(first, last)

    def owed_within(self, tp: TopicPartition, first: int, last: int) -> list[Range]:
        """Those of these offsets that are taken and not settled."""
        return self._accounts[tp].owed_within(first, last)

    def committed(self, tp: TopicPartition, epoch: int, offset: int) -> None:
        """A commit of `offset` was acknowledged."""
        account = self._current(tp, epoch)
        if account is not None:
            account.committed = max(account.committed, offset)

    def position(self, tp: TopicPartition) -> int:
        """The offset after everything that was taken."""
        return self._accounts[tp].position

    def last_committed(self) -> Mapping[TopicPartition, int]:
        return {tp: a.committed for tp, a in self._accounts.items()}

    def owed(self) -> int:
        """How many offsets are taken and not settled."""
        return sum(
            last - first + 1
            for a in self._accounts.values()
            for first, last in zip(a.firsts, a.lasts, strict=True)
        )

    def _current(self, tp: TopicPartition, epoch: int) -> _Account | None:
        account = self._accounts.get(tp)
        return account if account is not None and account.epoch == epoch else None

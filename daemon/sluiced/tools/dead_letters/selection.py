"""Which dead letters are meant: the filters that all commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ... import moments
from ...redrive.letter import Letter


@dataclass(frozen=True, slots=True)
class Selection:
    """Any of the reasons, any of the statuses, any of the topics that the records came from, and
    died at `since` or later and before `until`. What is empty or None does not restrict."""

    reasons: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(
        cls,
        reasons: Sequence[str] | None = None,
        statuses: Sequence[str] | None = None,
        topics: Sequence[str] | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> Selection:
        """From what was typed. Raises SluicedError."""
        now = datetime.now(UTC)
        return cls(
            frozenset(reasons or ()),
            frozenset(statuses or ()),
            frozenset(topics or ()),
            moments.parse_optional(since, now),
            moments.parse_optional(until, now),
        )

    def __bool__(self) -> bool:
        """Whether it restricts anything."""
        return self != Selection()

    def matches(self, letter: Letter) -> bool:
        """A letter of unknown time is outside of every span of time."""
        if self.reasons and letter.reason not in self.reasons:
            return False
        if self.statuses and letter.status not in self.statuses:
            return False
        if self.topics and letter.topic not in self.topics:
            return False
        if self.since is None and self.until is None:
            return True
        if letter.died is None:
            return False
        return not (
            (self.since is not None and letter.died < self.since)
            or (self.until is not None and letter.died >= self.until)
        )

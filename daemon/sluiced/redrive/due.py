"""Which dead letters the daemon sends back by itself, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from ..config import Config
from .letter import Letter

Verdict = Literal["now", "later", "never"]

# What an API has refused it may take later. What is no JSON will never be any, and what is larger
# than the API takes does not shrink: such a record would only die again.
RETRIED = frozenset({"rejected", "exhausted"})

# Kafka forgets the offsets of a group without members a week after their last commit, and with
# them what was sent back: no letter may be sent that could have been forgotten by then.
OLDEST = timedelta(days=6)


@dataclass(frozen=True, slots=True)
class Due:
    """The rule, for one group and its topics."""

    group: str
    topics: frozenset[str]
    after: timedelta
    max_redrives: int

    @classmethod
    def of(cls, config: Config) -> Due:
        """Of a configuration that has dead_letter.retry_after."""
        kafka, settings = config.kafka, config.dead_letter
        assert settings.retry_after is not None
        after = timedelta(seconds=settings.retry_after)
        return cls(kafka.group_id, frozenset(kafka.topics), after, settings.max_redrives)

    def verdict(self, letter: Letter, now: datetime) -> Verdict:
        """Letters that are due later come due in the order of the topic, or nearly so: whoever
        reads it may wait at the first of them. A letter that is never due holds nobody up."""
        ours = letter.dialect == "sluiced" and letter.group == self.group
        if not ours or letter.topic not in self.topics or letter.source is None:
            return "never"
        if letter.reason not in RETRIED or letter.redrives >= self.max_redrives:
            return "never"
        if letter.died is None or (age := now - letter.died) > OLDEST:
            return "never"
        return "now" if age >= self.after else "later"

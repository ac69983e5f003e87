"""One limit of what may be used in a period.

It holds in *every* sliding window of that length: what was used within the last period is kept, and
nothing let through that would exceed the limit together with it. Besides, the limit is given out at
an even pace, of which a small part (`burst`) may be saved up and used at once; else all of it would
be used in a moment and the sink be idle for the rest of the period.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, TypeAlias

What: TypeAlias = Literal["requests", "records", "bytes", "tokens"]
PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}

# A part of a limit that has changed hands gives out no more than this many seconds' worth in vain.
LONGEST_PAUSE = 60.0

# A period is taken for this much longer than it is. Requests do not travel equally fast, and the
# API counts them when they arrive; and uses are noted together that lie within half of it.
MARGIN = 0.005


@dataclass(slots=True)
class Use:
    """What was used from `at` on, close enough together to count as one."""

    at: float
    amount: float


class Budget:
    """One limit. Told the time, never asks for it; what is asked for by one must be used by it
    before the next one asks.

    Starts with nothing saved up: what a former process has used, nobody knows.
    """

    def __init__(self, name: str, what: What, limit: float, burst: float, now: float) -> None:
        self.name = name
        self.what = what
        self.whole = self.limit = float(limit)  # the limit of all members, and ours of it
        self.used = 0.0
        self._burst = burst
        self.period = PERIODS[name.rpartition("_")[2]]
        self._span = self.period * (1 + MARGIN)
        self._uses: deque[Use] = deque()
        self._saved = 0.0
        self._most = 0.0  # that may be saved up
        self._at = now
        self._begins = False

    def adopt(self, whole: float, burst: float, fraction: float, now: float) -> None:
        """Another limit, or another part of it."""
        self._save(now, 0.0)
        self.whole, self._burst = float(whole), burst
        self.limit = whole * fraction

    def start_over(self) -> None:
        """Parts of a limit have changed hands, and nobody knows what others have used of theirs.

        Each may have used a burst, or a batch that it had saved for, and gone on at the even pace.
        So who begins gives as much out in vain, before the first use: then all of them together
        have used no more than the even pace allows, whenever and however often they take turns.
        """
        self._uses.clear()
        self.used = 0.0
        self._saved = min(self._saved, 0.0)  # but what is owed is owed
        self._begins = True

    def used_at(self, now: float) -> float:
        """What counts as used at this time."""
        while self._uses and self._uses[0].at + self._span <= now:
            self.used -= self._uses.popleft().amount
        return self.used

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much may be used.

        More than the limit may be used only when nothing else was for a whole period. It then
        takes as many periods to be given out as it is limits: the limit holds on the average.
        """
        self.used_at(now)
        self._save(now, amount)
        if self._begins:
            self._begin(amount)
            self._save(now, amount)
        room = self._until_room(amount, now)
        if room > 0:
            # What is used up is used up: to save meanwhile would repeat a burst in every period.
            self._most = max(1.0, amount)
            self._saved = min(self._saved, self._most)
        return max((amount - self._saved) / self._rate, room, 0.0)

    def use(self, amount: float, now: float) -> Use:
        self._saved -= amount
        self.used += amount
        newest = self._uses[-1] if self._uses else None
        if newest is None or now - newest.at > self._span * MARGIN / 2:
            newest = Use(now, 0.0)
            self._uses.append(newest)
        newest.amount += amount
        return newest

    def correct(self, use: Use, by: float) -> None:
        """It was more, or less, than was thought; unless that was over a period ago."""
        if self._uses and use.at >= self._uses[0].at:
            use.amount += by
            self.used += by
            self._saved = min(self._saved - by, self._most)

    @property
    def _rate(self) -> float:
        return self.limit / self._span

    def _begin(self, amount: float) -> None:
        self._begins = False
        self._most = self._burst_or(amount)
        self._saved -= min(self._most, self._rate * LONGEST_PAUSE)

    def _save(self, now: float, amount: float) -> None:
        """Up to the burst, or up to what somebody waits for."""
        self._saved += (now - self._at) * self._rate
        self._at = now
        if not self._begins:  # till then whatever comes makes up for the beginning
            self._saved = min(self._saved, self._most)
            self._most = self._burst_or(amount)
            self._saved = min(self._saved, self._most)

    def _burst_or(self, amount: float) -> float:
        return max(self.limit * self._burst, 1.0, amount)

    def _until_room(self, amount: float, now: float) -> float:
        excess = self.used + amount - max(self.limit, amount)
        if excess <= 0:
            return 0.0
        for use in self._uses:
            excess -= use.amount
            if excess <= 0:
                return use.at + self._span - now
        return 0.0

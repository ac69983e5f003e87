"""What goes wrong next at a provider of batch jobs, drawn from a seed."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Literal

from sluiced.tools.demo.provider import Faults, Pace

Fate = Literal["done", "refused", "throttled", "broken", "missing"]

# So often each of these happens, of a thousand: to a request, ...
_THROTTLED, _UNAVAILABLE, _LOST = 20, 20, 20
_CREATE_LOST, _POLL_UNAVAILABLE, _CUT = 150, 60, 100
_CREATE_DISOWNED = 50  # it is done, and a gateway says that it is not
_LATE, _VERY_LATE = 150, 10
# ... to a job, ...
_EXPIRED, _SLOW_END, _QUEUE_FULL, _FAILED, _DOUBLED, _UNKNOWN = 100, 150, 40, 20, 100, 100
# ... and to a line of it.
_LINE_THROTTLED, _LINE_BROKEN, _LINE_MISSING = 15, 15, 10
_UNLUCKY_AT_MOST = 2  # times that one line is told to come again; jobs that expire come on top


class Weather(Faults):
    """Takes the place of a provider's planned faults. Nothing goes wrong any more once it is calm.

    `struck` counts what did.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.calm = False
        self.struck: Counter[str] = Counter()
        self._random = Random(seed)
        self._unlucky: Counter[str] = Counter()

    def roll(self, of_a_thousand: int, what: str = "") -> bool:
        if self.calm or self._random.randrange(1000) >= of_a_thousand:
            return False
        if what:
            self.struck[what] += 1
        return True

    def strikes(self, name: str) -> bool:
        verb, _, fault = name.rpartition(" ")
        if verb == "?":  # the auditor's own requests
            return False
        share = {"throttled": _THROTTLED, "unavailable": _UNAVAILABLE, "lost": _LOST, "cut": _CUT}
        shares = {"create lost": _CREATE_LOST, "poll unavailable": _POLL_UNAVAILABLE}
        told = name if verb in ("create", "upload", "poll") else fault
        return self.roll(shares.get(name, share.get(fault, 0)), f"requests {told}")

    def disowns(self) -> bool:
        return self.roll(_CREATE_DISOWNED, "requests create done, answered with 502")

    def delay(self) -> float:
        """Seconds before a request is looked at, or before it is answered; now and then more than
        the daemon waits for all of it."""
        if self.roll(_VERY_LATE):
            return self._random.uniform(3, 7)
        return self._random.uniform(0.05, 0.8) if self.roll(_LATE) else 0.0

    def pace(self) -> Pace:
        """Of the next job."""
        if self.calm:
            return Pace(working=0.3)
        working = self._random.uniform(0.2, 3.0)
        slow = self.roll(_SLOW_END, "jobs slow to end")
        pace = Pace(self._random.uniform(0, 0.4), working, self._random.uniform(1, 5) * slow)
        if self.roll(_EXPIRED, "jobs expired in the middle"):
            pace.expires = pace.validating + self._random.uniform(0.1, 0.9) * working
        return pace

    def queue_full(self) -> bool:
        return self.roll(_QUEUE_FULL, "jobs failed, queue full")

    def failed(self, lines: int) -> bool:
        """For no reason that anybody names. One line alone would be to blame, and is not."""
        return lines > 1 and self.roll(_FAILED, "jobs failed, no line named")

    def results(self) -> set[str]:
        found = {"unordered"}
        found |= {"doubled"} if self.roll(_DOUBLED, "jobs with a result twice") else set()
        return found | ({"unknown"} if self.roll(_UNKNOWN, "jobs with a stray result") else set())

    def fate(self, custom_id: str, poison: object) -> Fate:
        """Of one line of a job."""
        if poison is not None:
            return "refused"
        if self._unlucky[custom_id] >= _UNLUCKY_AT_MOST:
            return "done"
        fates: tuple[tuple[int, Fate], ...] = (
            (_LINE_THROTTLED, "throttled"),
            (_LINE_BROKEN, "broken"),
            (_LINE_MISSING, "missing"),
        )
        for share, fate in fates:
            if self.roll(share, f"lines {fate}"):
                self._unlucky[custom_id] += 1
                return fate
        return "done"

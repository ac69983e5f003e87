"""What was measured at one setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Literal

from ...budgets import SERVER

# Why nothing larger is tried: the API said so, did not answer in time, or the memory ends; or the
# limits would not let it through within the minutes that are left.
Stopped = Literal["too large", "timeout", "memory", "throttled", "failed", "minutes"]


@dataclass(frozen=True, slots=True)
class Point:
    """`size` records a request, `concurrency` requests at once.

    `records` are those delivered in `seconds` of wall clock; `cpu` is in seconds of this process.
    `memory` is what records and bodies take at this setting with two more windows that wait, as
    the configuration counts it, and `peak` the most that the whole process had, 0 where the system
    does not tell; both in bytes.
    `errors` counts answers other than a delivery by what they were.

    `limit` is the name of the limit that bounds the throughput, "server" for the API's own
    account and "" for none; `ceiling` are the records a second that it lets through in the long
    run, and `needed` the seconds that a setting would have taken that was not tried because of it.
    """

    size: int
    concurrency: int
    records: int = 0
    seconds: float = 0.0
    latencies: Sequence[float] = ()
    cpu: float = 0.0
    memory: int = 0
    peak: int = 0
    value_bytes: int = 0  # of one request, the largest
    errors: Mapping[str, int] = field(default_factory=dict)
    stopped: Stopped | None = None
    limit: str = ""
    ceiling: float = inf
    needed: float = 0.0

    @property
    def rate(self) -> float:
        """Delivered records a second, in the long run."""
        return min(self.ceiling, self.unbounded)

    @property
    def unbounded(self) -> float:
        """The same if there were no limits of ours. Where requests had to wait for one, by Little's
        law: the waiting tells nothing of the API, nor does what had been saved up."""
        if self.limit not in ("", SERVER) and self.latencies:
            return self.records * self.concurrency / max(sum(self.latencies), 1e-9)
        return self.records / self.seconds if self.seconds else 0.0

    @property
    def load(self) -> float:
        """The part of one core that this process took."""
        return self.cpu / self.seconds if self.seconds else 0.0

    @property
    def sound(self) -> bool:
        """Whether it can be recommended."""
        return self.stopped is None and self.records > 0

    def percentile(self, part: float) -> float:
        """Seconds within which this part of the answers came; the nearest one that was seen."""
        ordered = sorted(self.latencies)
        return ordered[max(0, ceil(part * len(ordered)) - 1)] if ordered else 0.0

"""What a sink answers: one verdict for every record, or what became of the whole request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

from .batch import Batch
from .feedback import Feedback


class Fate(Enum):
    """What the API decided about one record."""

    DELIVERED = "delivered"
    RETRY = "retry"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fate of one record. `status` is the API's own word for it, `error` its explanation."""

    fate: Fate
    status: str = ""
    error: str = ""


DELIVERED = Verdict(Fate.DELIVERED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What comes with an outcome of any kind, if the API says anything about its limits."""

    feedback: Feedback | None = None


@dataclass(frozen=True, slots=True)
class Answered(_Said):
    """The API judged every record. Made by `answered`, which checks the count."""

    verdicts: Sequence[Verdict]


@dataclass(frozen=True, slots=True)
class Refused(_Said):
    """The API refused the request as a whole. `named` are the places in the batch of the records
    that it blames; mostly it does not say."""

    status: str
    error: str = ""
    named: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TooLarge(_Said):
    """The request was larger than the API takes. `sent` is False where it never left."""

    status: str = ""
    error: str = ""
    sent: bool = True


RetryReason = Literal["status", "throttled", "timeout", "connection", "unknown"]


@dataclass(frozen=True, slots=True)
class Again(_Said):
    """Nothing is known about any record, or the API wants to be asked later.

    The same batch goes again under the same id. `after` is the API's own wish in seconds.
    `outage` marks answers that say nothing about the records and that giving up must not bury:
    wrong credentials above all.
    """

    reason: RetryReason
    error: str
    status: str = ""
    after: float | None = None
    outage: bool = False

    @property
    def doubtful(self) -> bool:
        """Whether what was asked for may have been done all the same: no answer came, or one of a
        gateway that had none, or of a server that broke down over it."""
        silent = self.reason in ("timeout", "connection", "unknown")
        return silent or self.status in ("500", "502", "504")


Outcome: TypeAlias = Answered | Refused | TooLarge | Again


def answered(batch: Batch, verdicts: Sequence[Verdict]) -> Outcome:
    """One verdict for each record of the batch, in order.

    A list that is too short or too long proves nothing about any record: it becomes an unknown
    answer, and the batch goes again under the same id. There is no default verdict.
    """
    if len(verdicts) != len(batch):
        return Again(
            "unknown",
            f"the API answered for {len(verdicts)} records of {len(batch)}; "
            "check [sink.response] items against what the API sends",
        )
    return Answered(verdicts)

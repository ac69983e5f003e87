"""What an API of jobs says: an answer that was read, and what a status means for a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from ..feedback import Feedback
from ..identity import resolve
from ..outcome import Fate, Verdict
from ..ports import BrokenResultsError
from .allowances import allowances
from .response import retry_after

T = TypeVar("T")

# What is about the moment and not about the request: it goes again.
LATER = (401, 402, 403, 408, 409, 425, 429)

# What is about the account, with whatever status it comes: no record is to blame for it. Anthropic
# says it in words only.
ACCOUNT = (
    *("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"),
    *("account_deactivated", "organization_deactivated"),
)
NO_CREDIT = "credit balance is too low"


class Said:
    """An answer that was read: its status, headers, and the document in it, {} if it is none."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        told = allowances(headers, time.time())
        self.feedback = Feedback(told) if told else None
        self.document: dict[str, Any] = {}
        try:
            found = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = None
        if isinstance(found, dict):
            self.document = found

    def text(self, pointer: Sequence[str]) -> str:
        try:
            return str(resolve(self.document, tuple(pointer)) or "")
        except LookupError:
            return ""

    @property
    def after(self) -> float | None:
        """How long the API wants to be left alone: as it says, or until what is used up is back."""
        now = time.time()
        if (after := retry_after(self.headers, now)) is not None:
            return after
        used_up = [a.reset for a in allowances(self.headers, now) if a.remaining < 1 and a.reset]
        return max(used_up, default=None)

    @property
    def of_the_account(self) -> bool:
        codes = (self.text(("error", "code")), self.text(("error", "type")))
        return any(c in ACCOUNT for c in codes) or NO_CREDIT in self.text(("error", "message"))


# What stands in the place of something else counts as nothing: an API may say anything.


def an_object(found: object) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def objects(found: object) -> list[dict[str, Any]]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def count(found: object) -> int:
    """More than a float holds exactly is no count either."""
    return found if isinstance(found, int) and 0 <= found < 2**53 else 0


def read_line(decode: Callable[[bytes], T], line: bytes) -> T:
    """A line of results. Raises BrokenResultsError."""
    try:
        return decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BrokenResultsError("a line of the results cannot be read") from None


def verdict_of(status: int, error: str) -> Verdict:
    """Of one request that was answered with something else than success."""
    later = status in LATER or status >= 500
    return Verdict(Fate.RETRY if later else Fate.REJECTED, str(status), error)

"""What the statuses in an API's answers mean: by the lists of a shape, and else by their class."""

from __future__ import annotations

from typing import Any

from ..outcome import Fate
from .response_settings import ShapeSettings


class UnclearError(Exception):
    """The answer does not say what became of each record. Its text says what to look at."""


class Words:
    """The lists `delivered`, `retry` and `rejected`; see ShapeSettings."""

    def __init__(self, shape: ShapeSettings) -> None:
        fates = {
            str(status): fate
            for statuses, fate in (
                (shape.delivered, Fate.DELIVERED),
                (shape.retry, Fate.RETRY),
                (shape.rejected, Fate.REJECTED),
            )
            for status in statuses
        }
        self._exact = fates
        # The longest first: it says the most.
        starts = sorted((word for word in fates if word.endswith("*")), key=len, reverse=True)
        self._starts = [(word[:-1], fates[word]) for word in starts]

    def listed(self, status: str) -> Fate | None:
        """What the lists make of it; None where no list has it."""
        if (fate := self._exact.get(status)) is not None or not self._starts:
            return fate
        return next((fate for start, fate in self._starts if status.startswith(start)), None)

    def fate(self, found: Any, status: str) -> Fate:
        """Of a status, as the JSON value that was found and as text. Raises UnclearError for a
        number that is in no list and means nothing."""
        return self.listed(status) or _by_class(found, status)


def _by_class(found: Any, status: str) -> Fate:
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if not is_number and not (status.isascii() and status.isdigit()):
        return Fate.REJECTED
    number = float(status)
    if 400 <= number < 500:
        return Fate.REJECTED
    if 500 <= number < 600:
        return Fate.RETRY
    raise UnclearError(
        f"there is the status {status[:20]}, which is in no list; "
        "add it to sink.response delivered or retry, or to rejected"
    )

"""An HTTP answer, of whatever kind, as the outcome of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from ..batch import Batch
from ..identity import Identify, resolve, tokens_of
from ..outcome import DELIVERED, Again, Outcome, Refused, TooLarge, answered
from .http_settings import HttpSettings
from .items import ItemReader, Scrub, UnclearError, document_of, excerpt


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. The names of `headers` know no case. `problem` says why there is no body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    problem: str = ""


class ResponseReader:
    """Judges answers by `[sink.response]`. `wall` gives seconds since 1970."""

    def __init__(
        self, settings: HttpSettings, identify: Identify, scrub: Scrub, wall: Callable[[], float]
    ) -> None:
        shape = settings.response
        other = shape.on_error or shape
        self._items = ItemReader(shape, identify, scrub) if shape.per_item else None
        self._error_items = ItemReader(other, identify, scrub) if other.per_item else None
        self.by_id = shape.id is not None or other.id is not None
        self._error = None if other.error is None else tokens_of(other.error)
        # Without items the lists are about the HTTP status.
        self._delivered = () if shape.per_item else shape.delivered
        self._retry = shape.retry
        self._has_key = settings.idempotency_header is not None
        self._scrub = scrub
        self._wall = wall

    def outcome(self, batch: Batch, answer: Answer) -> Outcome:
        """Never raises: an answer that makes no sense is an unknown one."""
        status = answer.status
        if 200 <= status < 300 or status in self._delivered:
            return self._success(batch, answer)
        if 400 <= status < 600:
            return self._failure(batch, answer)
        text = f"the API answered {status}"
        if 300 <= status < 400:
            text += ", a redirect, which is not followed; write the final address into sink.url"
        return Again("unknown", text, str(status))

    def _success(self, batch: Batch, answer: Answer) -> Outcome:
        status = str(answer.status)
        if answer.problem:
            return Again("unknown", answer.problem, status)
        if self._items is None:
            return answered(batch, [DELIVERED] * len(batch))
        try:
            return answered(batch, self._items.read(batch, answer.body, ok=True))
        except UnclearError as error:
            return Again("unknown", f"the API answered {status}, but {error}", status)

    def _failure(self, batch: Batch, answer: Answer) -> Outcome:
        """4xx and 5xx: first what is no verdict on the records, then what may be one."""
        status, text = answer.status, self._explained(answer)
        after = retry_after(answer.headers, self._wall())
        if status == 413:
            return TooLarge("413", text)
        if status == 429:
            return Again("throttled", text, "429", after)
        if status in self._retry or status >= 500 or status in (408, 425):
            return Again("status", text, str(status), after)
        if status in (401, 403):
            text += "; check the credentials in sink.headers"
            return Again("status", text, str(status), after, outage=True)
        if status == 409 and self._has_key:
            # The request that first carried this key is still being worked on.
            return Again("status", text, "409", after)
        if answer.problem:
            return Again("unknown", f"{text}, but {answer.problem}", str(status), after)
        if self._error_items is not None:
            try:
                return answered(batch, self._error_items.read(batch, answer.body, ok=False))
            except UnclearError:
                pass  # then nobody knows which record is to blame, and bisecting finds it
        if self._error is None:
            text += "; set sink.response error to where its answers say why"
        return Refused(str(status), text)

    def _explained(self, answer: Answer) -> str:
        text = f"the API answered {answer.status}"
        why = self._explanation(answer.body)
        return f"{text}: {why}" if why else text

    def _explanation(self, body: bytes) -> str:
        """What `error` points to in an answer about the whole batch.

        Nothing of an answer is shown where `error` does not point: it may repeat what was sent.
        """
        if self._error is None or not body:
            return ""
        try:
            found: Any = resolve(document_of(body), self._error)
        except LookupError:
            return ""
        except UnclearError:
            # "" is the whole answer, and that may be plain text.
            found = None if self._error else body.decode(errors="replace")
        return "" if found is None else excerpt(found, self._scrub)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """How many seconds the API wants to be left alone; None if it does not say so readably.

    `retry-after-ms` is what the OpenAI and Anthropic APIs send besides Retry-After, and finer. That
    one holds seconds, by some APIs with a fraction, or an HTTP date (RFC 9110, section 10.2.3),
    which is taken relative to `now`, seconds since 1970.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None

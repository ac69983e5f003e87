"""An HTTP answer, of whatever kind, as the outcome of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from ..batch import Batch
from ..feedback import Feedback
from ..identity import Identify, text_of, tokens_of
from ..outcome import DELIVERED, Again, Fate, Outcome, Refused, TooLarge, answered
from .allowances import allowances
from .document import at, document_of
from .http_settings import HttpSettings
from .items import ItemReader, Scrub, excerpt
from .response_settings import ShapeSettings
from .words import UnclearError, Words


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. The names of `headers` know no case. `problem` says why there is no body."""

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray = b""
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
        self._word = _WholeReader(shape) if shape.by_word else None
        self._error_word = _WholeReader(other) if other.by_word else None
        self.by_id = shape.id is not None or other.id is not None
        self._error = None if other.error is None else tokens_of(other.error)
        self._usages = tuple(map(tokens_of, shape.usages))
        # Of a 2xx that says "no". Within items it points into one of them.
        own = other.error if shape.per_item or shape.error is None else shape.error
        self._own_error = None if own is None else tokens_of(own)
        # Without items and without a word the lists are about the HTTP status.
        by_http = not (shape.per_item or shape.by_word)
        self._delivered = shape.delivered if by_http else ()
        self._rejected = shape.rejected if by_http else ()
        self._retry = shape.retry
        self._has_key = settings.idempotency_header is not None
        self._scrub = scrub
        self._wall = wall

    def outcome(self, batch: Batch, answer: Answer) -> Outcome:
        """Never raises: an answer that makes no sense is an unknown one."""
        outcome, feedback = self._judged(batch, answer), self.feedback(answer)
        return outcome if feedback is None else replace(outcome, feedback=feedback)

    def feedback(self, answer: Answer) -> Feedback | None:
        """What the answer says of the API's limits and of what it has counted, if anything."""
        tokens = self._counted(answer.body) if self._usages else None
        left = allowances(answer.headers, self._wall())
        return Feedback(left, tokens) if left or tokens is not None else None

    def _counted(self, body: bytes | bytearray) -> int | None:
        """What is found of the tokens that it reports, added up; None where nothing is."""
        counts: list[int] = []
        with suppress(UnclearError):
            document = document_of(body)
            for pointer in self._usages:
                with suppress(LookupError):
                    found = at(document, pointer)
                    number = isinstance(found, int) and not isinstance(found, bool)
                    if number and 0 <= found < 2**53:  # more is no count, and no float holds it
                        counts.append(found)
        return sum(counts) if counts else None

    def _judged(self, batch: Batch, answer: Answer) -> Outcome:
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
        try:
            if self._items is not None:
                return answered(batch, self._items.read(batch, answer.body, ok=True))
            fate = Fate.DELIVERED if self._word is None else self._word.fate(answer.body)
        except UnclearError as error:
            return Again("unknown", f"the API answered {status}, but {error}", status)
        if fate is Fate.DELIVERED:
            return answered(batch, [DELIVERED] * len(batch))
        if fate is Fate.REJECTED and self._error_word is not None:
            fate = self._error_word.listed(answer.body) or fate
        if fate is Fate.RETRY:
            return Again("status", self._explained(answer), status, self._after(answer))
        return self._refusal(batch, answer, fate)

    def _failure(self, batch: Batch, answer: Answer) -> Outcome:
        """4xx and 5xx: first what is no verdict on the records, then what may be one."""
        status, text = answer.status, self._explained(answer)
        after = self._after(answer)
        if status == 413:
            return TooLarge("413", text)
        if status == 429:
            return Again("throttled", text, "429", after)
        fate = self._error_word.listed(answer.body) if self._error_word else None
        if status in self._rejected:
            fate = Fate.REJECTED
        if fate in (Fate.DELIVERED, Fate.REJECTED):
            return self._refusal(batch, answer, fate)
        if fate is Fate.RETRY or status in self._retry or status >= 500 or status in (408, 425):
            return Again("status", text, str(status), after)
        if status in (401, 403):
            text += "; check the credentials in sink.headers"
            return Again("status", text, str(status), after, outage=True)
        if status == 409 and self._has_key:
            # The request that first carried this key is still being worked on.
            return Again("status", text, "409", after)
        if answer.problem:
            return Again("unknown", f"{text}, but {answer.problem}", str(status), after)
        return self._refusal(batch, answer, Fate.REJECTED)

    def _refusal(self, batch: Batch, answer: Answer, fate: Fate) -> Outcome:
        """A "no" to the batch, unless its items say more; `fate` is of whoever is to blame."""
        # What an error says of one record, "there already", it says of no other.
        if fate is Fate.DELIVERED and len(batch) == 1:
            return answered(batch, [DELIVERED])
        if self._error_items is not None:
            try:
                return answered(batch, self._error_items.read(batch, answer.body, ok=False))
            except UnclearError:
                pass  # then nobody knows which record is to blame, and bisecting finds it
        text = self._explained(answer)
        if self._pointer(answer) is None:
            text += "; set sink.response error to where its answers say why"
        return Refused(str(answer.status), text)

    def _after(self, answer: Answer) -> float | None:
        return retry_after(answer.headers, self._wall())

    def _explained(self, answer: Answer) -> str:
        text = f"the API answered {answer.status}"
        why = self._explanation(answer.body, self._pointer(answer))
        return f"{text}: {why}" if why else text

    def _pointer(self, answer: Answer) -> tuple[str, ...] | None:
        return self._own_error if 200 <= answer.status < 300 else self._error

    def _explanation(self, body: bytes | bytearray, pointer: tuple[str, ...] | None) -> str:
        """What `error` points to in an answer about the whole batch.

        Nothing of an answer is shown where `error` does not point: it may repeat what was sent.
        """
        if pointer is None or not body:
            return ""
        try:
            found = at(document_of(body), pointer)
        except LookupError:
            return ""
        except UnclearError:
            # "" is the whole answer, and that may be plain text.
            found = None if pointer else body.decode(errors="replace")
        return "" if found is None else excerpt(found, self._scrub)


class _WholeReader:
    """Reads the word by which an answer judges the whole batch; see ShapeSettings."""

    def __init__(self, shape: ShapeSettings) -> None:
        self._status = tokens_of(shape.status or "")
        self._words = Words(shape)

    def fate(self, body: bytes | bytearray) -> Fate:
        """Raises UnclearError where there is no word, or a number that means nothing."""
        found = self._found(body)
        if (status := text_of(found)) is None:
            raise UnclearError("there is no number or word at sink.response status")
        return self._words.fate(found, status)

    def listed(self, body: bytes | bytearray) -> Fate | None:
        """What a word that is in a list means; None for all else."""
        try:
            status = text_of(self._found(body))
        except UnclearError:
            return None
        return None if status is None else self._words.listed(status)

    def _found(self, body: bytes | bytearray) -> Any:
        try:
            return at(document_of(body), self._status)
        except LookupError:
            return None
        except UnclearError:
            # "" is the whole answer, and that may be plain text.
            if self._status:
                raise
            return body.decode(errors="replace").strip() or None


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

"""What an API answers about single records, matched to the records of the batch."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..batch import Batch
from ..identity import Identify, resolve, text_of, tokens_of
from ..outcome import DELIVERED, Fate, Verdict
from .http_settings import ShapeSettings

# As much of an API's explanation as a dead letter and a log line take, in characters.
LONGEST_TEXT = 500

NOT_JUDGED = Verdict(Fate.RETRY, error="the API neither did nor judged this record")

# Takes out of a text what must not be shown.
Scrub = Callable[[str], str]

_decode = msgspec.json.Decoder().decode
_decode_lines = msgspec.json.Decoder().decode_lines
_encode = msgspec.json.Encoder().encode


class UnclearError(Exception):
    """The answer does not say what became of each record. Its text says what to look at."""


def document_of(body: bytes) -> Any:
    """The answer as JSON. Raises UnclearError."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UnclearError("the answer is not JSON") from None


def excerpt(value: Any, scrub: Scrub) -> str:
    """An API's explanation, of whatever JSON type, as one line that may be shown."""
    text = value if isinstance(value, str) else _encode(value).decode()
    # Scrubbed before it is cut, so that no half of a secret is left at the end.
    line = " ".join(scrub(text).split())[:LONGEST_TEXT]
    # It may end up on a terminal, which obeys some of what cannot be printed.
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)


class ItemReader:
    """Reads answers of one shape; see ShapeSettings."""

    def __init__(self, shape: ShapeSettings, identify: Identify, scrub: Scrub) -> None:
        self._lines = shape.format == "ndjson"
        self._items = tokens_of(shape.items or "")
        self._status = None if shape.status is None else tokens_of(shape.status)
        self._id = None if shape.id is None else tokens_of(shape.id)
        self._error = None if shape.error is None else tokens_of(shape.error)
        self._where = "the lines" if self._lines else f"sink.response items ({shape.items!r})"
        self._fates = {str(status): Fate.DELIVERED for status in shape.delivered}
        self._fates |= {str(status): Fate.RETRY for status in shape.retry}
        self._identify = identify
        self._scrub = scrub

    def read(self, batch: Batch, body: bytes, ok: bool) -> Sequence[Verdict]:
        """A verdict for each record of the batch, in its order. `ok` says that the HTTP status
        was 2xx. Raises UnclearError."""
        items = self._found(body)
        # Unnamed in a 2xx is done; unnamed in an error is nothing at all.
        unnamed = DELIVERED if ok else NOT_JUDGED
        if isinstance(items, list):
            if self._id is not None:
                return self._by_id(batch, items, unnamed)
            if len(items) != len(batch):
                raise UnclearError(
                    f"the API answered for {len(items)} records of {len(batch)}; "
                    f"compare {self._where} with what it sends"
                )
            return [self._verdict(item, unnamed) for item in items]
        if isinstance(items, Mapping):
            if not items and not ok:
                raise UnclearError("the answer names no record")
            return self._by_index(batch, items, unnamed)
        raise UnclearError(f"{self._where} is neither a list nor an object")

    def _found(self, body: bytes) -> Any:
        if self._lines:
            try:
                return _decode_lines(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise UnclearError("the answer's lines are not all JSON") from None
        try:
            return resolve(document_of(body), self._items)
        except LookupError:
            raise UnclearError(f"the answer has nothing at {self._where}") from None

    def _by_index(
        self, batch: Batch, items: Mapping[str, Any], unnamed: Verdict
    ) -> Sequence[Verdict]:
        verdicts = [unnamed] * len(batch)
        for key, item in items.items():
            index = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else -1
            # "07" would be a second name of the seventh record.
            if not 0 <= index < len(batch) or key != str(index):
                raise UnclearError(
                    f"{self._where} has a key that is no index into {len(batch)} records"
                )
            verdicts[index] = self._verdict(item, unnamed)
        return verdicts

    def _by_id(self, batch: Batch, items: Sequence[Any], unnamed: Verdict) -> Sequence[Verdict]:
        # Two records may have one id where nothing collapses them: they are answered in turn.
        waiting: defaultdict[str, deque[int]] = defaultdict(deque)
        for index, record in enumerate(batch.records):
            waiting[self._identify(record)].append(index)
        verdicts = [NOT_JUDGED] * len(batch)
        silent = len(batch)
        for item in items:
            if item is None:
                continue
            indexes = waiting.get(text_of(_at(item, self._id or ())) or "")
            if not indexes:
                raise UnclearError(
                    "the answer has an id that is not in the batch, or has it too often; "
                    "compare sink.response id with record.id and sink.body.item"
                )
            verdicts[indexes.popleft()] = self._verdict(item, unnamed)
            silent -= 1
        # A null tells that some record was not judged, though not which: one of those left.
        if silent != items.count(None):
            raise UnclearError(f"the answer leaves out the ids of {silent} records")
        return verdicts

    def _verdict(self, item: Any, unnamed: Verdict) -> Verdict:
        if item is None:
            return NOT_JUDGED
        if self._status is None:
            if (error := _at(item, self._error or ())) is None:
                return unnamed
            return Verdict(Fate.REJECTED, "", excerpt(error, self._scrub))
        found = _at(item, self._status)
        if (status := text_of(found)) is None:
            raise UnclearError("an item has no number or word at sink.response status")
        fate = self._fates.get(status) or _fate(found, status)
        if fate is Fate.DELIVERED:
            return DELIVERED
        error = None if self._error is None else _at(item, self._error)
        text = "" if error is None else excerpt(error, self._scrub)
        return Verdict(fate, excerpt(status, self._scrub), text)


def _at(document: Any, tokens: tuple[str, ...]) -> Any:
    """What a pointer points to; None for nothing, as for null."""
    try:
        return resolve(document, tokens)
    except LookupError:
        return None


def _fate(found: Any, status: str) -> Fate:
    """Of a status that is in no list. Raises UnclearError for a number that means nothing."""
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if not is_number and not (status.isascii() and status.isdigit()):
        return Fate.REJECTED
    number = float(status)
    if 400 <= number < 500:
        return Fate.REJECTED
    if 500 <= number < 600:
        return Fate.RETRY
    raise UnclearError(
        f"an item has the status {status[:20]}, which is in no list; "
        "add it to sink.response delivered or retry"
    )

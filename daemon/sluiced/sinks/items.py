"""What an API answers about single records, matched to the records of the batch."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..batch import Batch
from ..identity import Identify, text_of, tokens_of
from ..outcome import DELIVERED, Fate, Verdict
from .document import at, document_of, lines_of, opened
from .response_settings import ShapeSettings
from .words import UnclearError, Words

# As much of an API's explanation as a dead letter and a log line take, in characters.
LONGEST_TEXT = 500

# How much of it is looked at for that, and what is left out at the end of so much: it may be the
# first half of a secret, and secrets are shorter.
_LOOKED_AT, _DOUBTFUL = 65_536, 16_384

_COMPARE = "compare sink.response id with record.id and sink.body.item"

# Which of two verdicts on one record holds: what is rejected once stays so.
_GRAVITY = {Fate.DELIVERED: 0, Fate.RETRY: 1, Fate.REJECTED: 2}

NOT_JUDGED = Verdict(Fate.RETRY, error="the API neither did nor judged this record")

# Takes out of a text what must not be shown.
Scrub = Callable[[str], str]

_encode = msgspec.json.Encoder().encode


def excerpt(value: Any, scrub: Scrub) -> str:
    """An API's explanation, of whatever JSON type, as one line that may be shown."""
    # What stands unopened in an object may be no text.
    text = (value if isinstance(value, str) else _encode(value).decode(errors="replace")).lstrip()
    # Scrubbed before it is cut, so that no half of a secret is left at the end.
    clean = scrub(text[:_LOOKED_AT])
    if len(text) > _LOOKED_AT:
        clean = clean[:-_DOUBTFUL]
    line = " ".join(clean.split())[:LONGEST_TEXT]
    # It may end up on a terminal, which obeys some of what cannot be printed.
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)


class ItemReader:
    """Reads answers of one shape; see ShapeSettings."""

    def __init__(self, shape: ShapeSettings, identify: Identify, scrub: Scrub) -> None:
        self._lines = shape.format == "ndjson"
        self._items = tokens_of(shape.items or "")
        self._status = None if shape.status is None else tokens_of(shape.status)
        self._id = None if shape.id is None else tokens_of(shape.id)
        self._index = None if shape.index is None else tokens_of(shape.index)
        self._partial = shape.partial
        self._error = None if shape.error is None else tokens_of(shape.error)
        self._where = "the lines" if self._lines else f"sink.response items ({shape.items!r})"
        self._words = Words(shape)
        self._identify = identify
        self._scrub = scrub

    def read(self, batch: Batch, body: bytes | bytearray, ok: bool) -> Sequence[Verdict]:
        """A verdict for each record of the batch, in its order. `ok` says that the HTTP status
        was 2xx. Raises UnclearError."""
        items = self._found(body)
        # Unnamed in a 2xx is done; unnamed in an error is nothing at all.
        unnamed = DELIVERED if ok else NOT_JUDGED
        if isinstance(items, list):
            if self._partial and not items and not ok:
                raise UnclearError("the answer names no record")
            if self._partial and (self._id is not None or self._index is not None):
                return self._some(batch, items, unnamed)
            if self._index is not None:
                return self._by_position(batch, items, unnamed)
            if self._id is not None:
                return self._by_id(batch, items, unnamed)
            if len(items) != len(batch):
                raise UnclearError(
                    f"the API answered for {len(items)} records of {len(batch)}; "
                    f"compare {self._where} with what it sends"
                )
            return [self._verdict(item, unnamed) for item in map(opened, items)]
        if isinstance(items, Mapping):
            if not items and not ok:
                raise UnclearError("the answer names no record")
            return self._by_index(batch, items, unnamed)
        raise UnclearError(f"{self._where} is neither a list nor an object")

    def _found(self, body: bytes | bytearray) -> Any:
        if self._lines:
            return lines_of(body)
        document = document_of(body)
        try:
            found = at(document, self._items)
        except LookupError:
            found = None
            # Where only some are named, that may be none.
            if not (self._partial and isinstance(opened(document), Mapping)):
                raise UnclearError(f"the answer has nothing at {self._where}") from None
        return [] if found is None and self._partial else found

    def _by_index(
        self, batch: Batch, items: Mapping[str, Any], unnamed: Verdict
    ) -> Sequence[Verdict]:
        verdicts = [unnamed] * len(batch)
        for key, item in items.items():
            if (index := _index(key, len(batch))) is None:
                raise UnclearError(
                    f"{self._where} has a key that is no index into {len(batch)} records"
                )
            verdicts[index] = self._verdict(opened(item), unnamed)
        return verdicts

    def _by_id(self, batch: Batch, items: Sequence[Any], unnamed: Verdict) -> Sequence[Verdict]:
        # Two records may have one id where nothing collapses them: they are answered in turn.
        waiting: defaultdict[str, deque[int]] = defaultdict(deque)
        for index, record in enumerate(batch.records):
            waiting[self._identify(record)].append(index)
        verdicts = [NOT_JUDGED] * len(batch)
        silent = len(batch)
        nulls = 0
        for item in map(opened, items):
            if item is None:
                nulls += 1
                continue
            indexes = waiting.get(text_of(_at(item, self._id or ())) or "")
            if not indexes:
                raise UnclearError(
                    "the answer has an id that is not in the batch, or has it too often; "
                    + _COMPARE
                )
            verdicts[indexes.popleft()] = self._verdict(item, unnamed)
            silent -= 1
        # A null tells that some record was not judged, though not which: one of those left.
        if silent != nulls:
            raise UnclearError(f"the answer leaves out the ids of {silent} records")
        return verdicts

    def _by_position(
        self, batch: Batch, items: Sequence[Any], unnamed: Verdict
    ) -> Sequence[Verdict]:
        """Items that each tell a position, all positions exactly once."""
        verdicts: dict[int, Verdict] = {}
        for item in map(opened, items):
            index = self._position(item, len(batch))
            if index in verdicts:
                raise UnclearError(f"the answer has the position {index} twice")
            verdicts[index] = self._verdict(item, unnamed)
        if missing := len(batch) - len(verdicts):
            raise UnclearError(
                f"the answer leaves out the positions of {missing} records; if that means that "
                "they are delivered, set sink.response partial"
            )
        return [verdicts[index] for index in range(len(batch))]

    def _some(self, batch: Batch, items: Sequence[Any], unnamed: Verdict) -> Sequence[Verdict]:
        """Items about some of the records. Of several about one record the gravest counts, and an
        id that several records share is about all of them: nobody can tell which one it is."""
        verdicts = [unnamed] * len(batch)
        named: defaultdict[str, list[int]] = defaultdict(list)
        if self._id is not None:
            for index, record in enumerate(batch.records):
                named[self._identify(record)].append(index)
        seen: set[int] = set()
        for item in map(opened, items):
            verdict = self._verdict(item, unnamed)
            if self._id is None:
                indexes = [self._position(item, len(batch))]
            elif not (indexes := named.get(text_of(_at(item, self._id)) or "", [])):
                raise UnclearError(f"the answer has an id that is not in the batch; {_COMPARE}")
            for index in indexes:
                if index not in seen or _GRAVITY[verdict.fate] > _GRAVITY[verdicts[index].fate]:
                    verdicts[index] = verdict
            seen.update(indexes)
        return verdicts

    def _position(self, item: Any, count: int) -> int:
        text = text_of(_at(item, self._index or ())) or ""
        if (index := _index(text, count)) is None:
            raise UnclearError(f"an item has no index into {count} records at sink.response index")
        return index

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
        fate = self._words.fate(found, status)
        if fate is Fate.DELIVERED:
            return DELIVERED
        error = None if self._error is None else _at(item, self._error)
        text = "" if error is None else excerpt(error, self._scrub)
        return Verdict(fate, excerpt(status, self._scrub), text)


def _at(document: Any, tokens: tuple[str, ...]) -> Any:
    """What a pointer points to; None for nothing, as for null."""
    try:
        return at(document, tokens)
    except LookupError:
        return None


def _index(text: str, count: int) -> int | None:
    """The text as an index into `count` records, or None."""
    index = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    # "07" would be a second name of the seventh record.
    return index if 0 <= index < count and text == str(index) else None

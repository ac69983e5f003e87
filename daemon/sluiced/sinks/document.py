"""An API's answer as JSON, of which no more becomes objects than pointers ask for.

A small answer is taken apart at once, which is fastest. Of a large one all that lies beside a
pointer's way stays the text that it is: as objects it could be many times as large. Lists and
objects of it are opened one level at a time, and values within them are `Raw` until they are.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec
from msgspec import Raw

from ..identity import resolve
from .words import UnclearError

_LARGE = 1024**2  # bytes of an answer that is opened step by step
_PIECE = 256 * 1024  # bytes that are looked at in one go

# Bytes that a value of a level takes while it is not opened. All of them may take as much as the
# text itself, or the least.
_VALUE, _LEAST = 64, 4 * 1024**2

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NOT_JSON = "the answer is not JSON"


class _Counted:
    """Stands for any value where values are only counted."""


_ONE = _Counted()

_whole = msgspec.json.Decoder()
_closed = msgspec.json.Decoder(Raw)
_lists = msgspec.json.Decoder(list[Raw])
_objects = msgspec.json.Decoder(dict[str, Raw])


def document_of(body: bytes | bytearray) -> Any:
    """The answer, for `at` and `opened`. Raises UnclearError."""
    try:
        return (_whole if len(body) <= _LARGE else _closed).decode(body)
    except _UNREADABLE:
        raise UnclearError(_NOT_JSON) from None


def lines_of(body: bytes | bytearray) -> list[Any]:
    """The same of an answer that has a document on each line."""
    large = len(body) > _LARGE
    if large and body.count(b"\n") > _most(len(body)):
        raise UnclearError(f"the answer has more than {_most(len(body))} lines")
    try:
        return (_closed if large else _whole).decode_lines(body)
    except _UNREADABLE:
        raise UnclearError("the answer's lines are not all JSON") from None


def at(document: Any, tokens: tuple[str, ...]) -> Any:
    """What a pointer points to, opened. Raises LookupError and UnclearError."""
    for token in tokens:
        if isinstance(document, Raw):
            document = opened(document)
        is_object = isinstance(document, dict)
        document = document[token] if is_object else resolve(document, (token,))
    return opened(document) if isinstance(document, Raw) else document


def opened(value: Any) -> Any:
    """A list or an object as such, with what is in it as it is; all else as the value it is."""
    if not isinstance(value, Raw):
        return value
    text = memoryview(value)
    try:
        match bytes(text[:1]):
            case b"[":
                _count(text, list[_Counted])
                return _lists.decode(value)
            case b"{":
                _count(text, dict[str, _Counted])
                return _objects.decode(value)
        return _whole.decode(value)
    except _UNREADABLE:
        raise UnclearError(_NOT_JSON) from None


def _count(text: memoryview, level: Any) -> None:
    """Raises UnclearError where a level holds more than may be opened."""
    most = _most(len(text))
    pieces = (bytes(text[start : start + _PIECE]) for start in range(0, len(text), _PIECE))
    if sum(piece.count(b",") for piece in pieces) < most:
        return  # and mostly far fewer: the commas of all levels below are among them
    numbers = count(1)

    def look(_: type, value: Any) -> _Counted:
        if next(numbers) > most:
            raise UnclearError(f"a list or an object of the answer holds more than {most} values")
        return _ONE

    msgspec.json.Decoder(level, dec_hook=look).decode(text)


def _most(size: int) -> int:
    return max(size, _LEAST) // _VALUE

"""What JSON pointers lead to in the values of a batch, as texts that are exactly what stands there.

This is the hot path of the sink: only the members that are asked for are looked at, and the texts
of a column are decoded all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec

from ...identity import tokens_of
from ...record import Record
from .answers import UndoError

Raw: TypeAlias = msgspec.Raw

_NULL = Raw(b"null")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_members = msgspec.json.Decoder(dict[str, Raw]).decode
_items = msgspec.json.Decoder(list[Raw]).decode
_text = msgspec.json.Decoder(str).decode
_texts = msgspec.json.Decoder(list[str | None]).decode


class UnfitError(UndoError):
    """A record that no row can be made of, and why, without its contents."""


class Pointers:
    """Finds what these pointers lead to. A value is read once for all of them."""

    def __init__(self, pointers: Collection[str]) -> None:
        firsts = dict.fromkeys(tokens_of(pointer)[0] for pointer in pointers)
        self._fields = {first: f"f{n}" for n, first in enumerate(firsts)}
        self._kind = msgspec.defstruct(
            "Members",
            [(name, Raw, _NULL) for name in self._fields.values()],
            rename={name: first for first, name in self._fields.items()},
        )
        self._decode = msgspec.json.Decoder(self._kind).decode

    def read(self, records: Sequence[Record]) -> list[Any]:
        """The values, as `column` takes them. Raises UnfitError."""
        if not self._fields:
            return []
        try:
            return [self._decode(r.value) for r in records]  # type: ignore[arg-type]
        except (TypeError, *_UNREADABLE):  # a tombstone, or no object
            return [self._read(r.value) for r in records]

    def _read(self, value: bytes | None) -> Any:
        found = {} if value is None else _object(value)
        return self._kind(**{f: found[t] for t, f in self._fields.items() if t in found})

    def column(self, pointer: str, *, as_json: bool) -> Callable[[Sequence[Any]], list[str | None]]:
        """What the pointer leads to in each value; None for null and for nothing.

        A string comes without its quotes unless it is to stay JSON. Raises UnfitError.
        """
        first, *rest = tokens_of(pointer)
        take = attrgetter(self._fields[first])
        if rest:
            return lambda read: [_cell(_led(take(each), rest), as_json) for each in read]
        if as_json:
            return lambda read: [_cell(take(each), True) for each in read]
        return lambda read: _cells(list(map(take, read)))


def _cells(found: Sequence[Raw]) -> list[str | None]:
    """Most often all of a column are strings."""
    try:
        return _texts(b"[%b]" % b",".join(found))
    except _UNREADABLE:
        return [_cell(each, False) for each in found]


def _cell(found: Raw, as_json: bool) -> str | None:
    raw = bytes(found)
    if raw == b"null":
        return None
    if raw[:1] == b'"' and not as_json:
        try:
            return _text(raw)
        except _UNREADABLE:
            raise _not_unicode() from None
    return raw.decode()


def _led(found: Raw, rest: Sequence[str]) -> Raw:
    for token in rest:
        found = _object(bytes(found)).get(token, _NULL)
    return found


def _object(value: bytes) -> Mapping[str, Raw]:
    """The members of a JSON object, or the items of an array under their numbers."""
    try:
        return _members(value)
    except msgspec.ValidationError:
        pass  # it is something else
    except _UNREADABLE:
        raise _not_unicode() from None
    try:
        return {str(n): item for n, item in enumerate(_items(value))}
    except msgspec.ValidationError:
        return {}


def _not_unicode() -> UnfitError:
    # The intake has looked at everything else.
    return UnfitError("the value has text in it that is no Unicode")

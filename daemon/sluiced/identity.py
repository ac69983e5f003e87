"""The id of a record: what an API knows it by, and what `collapse` compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from .record import Record

Identify = Callable[[Record], str]

COORDINATES = "$topic-$partition-$offset"


def identity(template: str) -> Identify:
    """The function that gives a record its id, for `$topic-$partition-$offset`, `$key` or a
    JSON pointer such as "/slug".

    The function raises ValueError, with a text for the dead letter, for a record that has no id.
    Raises ValueError itself for a template of another form.
    """
    if template == COORDINATES:
        return _coordinates
    if template == "$key":
        return _key
    if template.startswith("/"):
        return _pointed(template)
    raise ValueError(f'expected "{COORDINATES}", "$key" or a JSON pointer such as "/slug"')


def resolve(document: Any, tokens: tuple[str, ...]) -> Any:
    """What a JSON pointer (RFC 6901), split into its tokens, points to. Raises LookupError."""
    for token in tokens:
        if isinstance(document, dict):
            document = document[token]
        elif isinstance(document, list) and token.isascii() and token.isdigit():
            document = document[int(token)]
        else:
            raise LookupError(token)
    return document


def tokens_of(pointer: str) -> tuple[str, ...]:
    """The tokens of a JSON pointer; "" is the whole document. Raises ValueError."""
    if pointer and not pointer.startswith("/"):
        raise ValueError('a JSON pointer is empty or starts with "/", such as "/items"')
    return tuple(t.replace("~1", "/").replace("~0", "~") for t in pointer.split("/")[1:])


def text_of(value: Any) -> str | None:
    """A JSON value as the text by which ids are compared; None for what cannot be an id."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else None


def _coordinates(record: Record) -> str:
    return f"{record.topic}-{record.partition}-{record.offset}"


def _key(record: Record) -> str:
    if record.key is None:
        raise ValueError("the record has no key, and [record] id is $key")
    try:
        return record.key.decode()
    except UnicodeDecodeError:
        raise ValueError("the record's key is not UTF-8, and [record] id is $key") from None


def _pointed(pointer: str) -> Identify:
    tokens = tokens_of(pointer)
    decode = msgspec.json.Decoder().decode

    def identify(record: Record) -> str:
        if record.value is None:
            raise ValueError(f"a tombstone has no {pointer}, and [record] id points there")
        try:
            found = text_of(resolve(decode(record.value), tokens))
        except (msgspec.DecodeError, LookupError, UnicodeDecodeError, RecursionError):
            found = None
        if not found:
            raise ValueError(f"the value has no text or number at {pointer}, the [record] id")
        return found

    return identify

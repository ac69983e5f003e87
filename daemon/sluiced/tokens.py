"""How many tokens an API will count for a request: said by the records, or estimated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from .identity import resolve, tokens_of
from .record import Record

# Bytes of a value that are taken for one token, where nothing better is known.
BYTES_PER_TOKEN = 4

# An answer moves what is learnt of this API by this part, and never beyond these factors.
_LEARNING = 0.2
_LEAST, _MOST = 1 / 16, 16.0

_decode = msgspec.json.Decoder().decode


class TokenCounter:
    """Counts tokens by a JSON pointer into the value, or one for every four bytes without it.

    A value that has no number there counts by its bytes. What is estimated from bytes is corrected
    by what the API has reported for requests before; what a record says of itself is not.
    """

    def __init__(self, pointer: str | None) -> None:
        self.pointer = pointer
        self._path = None if pointer is None else tokens_of(pointer)
        self._factor = 1.0

    def of(self, records: Sequence[Record], size: int) -> int:
        """For a request with these records, of `size` value bytes in all."""
        if self._path is None:
            return math.ceil(estimated(size) * self._factor)
        return sum(self._said(record.value or b"", self._path) for record in records)

    def learn(self, estimate: int, reported: int) -> None:
        """The API has counted `reported` tokens where `of` gave `estimate`."""
        if estimate > 0:
            factor = self._factor * (1 + _LEARNING * (reported / estimate - 1))
            self._factor = min(max(factor, _LEAST), _MOST)

    def _said(self, value: bytes, path: tuple[str, ...]) -> int:
        try:
            found: Any = resolve(_decode(value), path)
        except (msgspec.DecodeError, LookupError, UnicodeDecodeError, RecursionError):
            found = None
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 2**53:
            return estimated(len(value))
        return math.ceil(found)


def estimated(size: int) -> int:
    """Tokens in `size` bytes of which nothing more is known."""
    return -(-size // BYTES_PER_TOKEN)

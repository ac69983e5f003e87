"""Compressed bodies: ours made, and the API's undone without trust in their size."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Literal, Protocol

import cramjam

Compression = Literal["none", "gzip", "zstd"]

# The levels that the command-line tools of both use by default.
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3

PIECE = 256 * 1024  # bytes that are unpacked at once


def compress(body: bytes, how: Compression) -> bytes:
    """The body as it goes over the wire. The same body always makes the same bytes."""
    if how == "gzip":
        return gzip.compress(body, _GZIP_LEVEL, mtime=0)
    if how == "zstd":
        return bytes(cramjam.zstd.compress(body, level=_ZSTD_LEVEL))
    return body


class UnreadableError(Exception):
    """An answer's body cannot be had: too large, cut short, or in a coding not asked for."""


class Inflater(Protocol):
    """Undoes a content coding piece by piece."""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What `data` unpacks to, in pieces of at most PIECE bytes each, made one by one.

        Raises UnreadableError.
        """
        ...

    def finish(self) -> None:
        """Raises UnreadableError if the end of the data is missing."""


def inflater(coding: str) -> Inflater:
    """For the value of a Content-Encoding header. Raises UnreadableError for what is not known."""
    match coding.strip().lower():
        case "" | "identity":
            return _Plain()
        case "gzip" | "x-gzip":
            return _Gzip()
        case _:
            raise UnreadableError("the answer came in a content coding that was not asked for")


class _Plain:
    def pieces(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]

    def finish(self) -> None:
        pass


class _Gzip:
    """A gzip stream, of one member or several one after the other (RFC 1952)."""

    def __init__(self) -> None:
        self._member = self._next()
        self._begun = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member.eof:
                self._member = self._next()
            self._begun = True
            try:
                piece = self._member.decompress(data, PIECE)
            except zlib.error:
                raise UnreadableError("the answer says gzip and is not") from None
            data = self._member.unconsumed_tail or self._member.unused_data
            yield piece

    def finish(self) -> None:
        if self._begun and not self._member.eof:
            raise UnreadableError("the answer was cut short: its gzip stream has no end")

    @staticmethod
    def _next() -> zlib._Decompress:
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

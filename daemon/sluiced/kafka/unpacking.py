"""Batches of records, unpacked without trust in what producers put into them.

aiokafka unpacks a batch in one piece, whatever it grows to: a request of 10 kB can take gigabytes.
And it lets through the errors of the libraries below it, which name no partition, so that one
damaged batch would end the daemon at every start. `guard` makes both a `CorruptRecordException`
that names the partition and the offset: that partition stops, the others go on.
"""

from __future__ import annotations

import gzip
import io
import mmap
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cramjam
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException, KafkaError
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from ..errors import SourceError
from ..units import Size

LEAST_LIMIT = 16 * 1024**2  # bytes; honest batches of 1 MiB unpack to as much as this
_KEPT = 4 * 1024**2  # bytes of scratch memory that may stay in use between two batches
_XERIAL = b"\x82SNAPPY\x00"  # how snappy begins where it is a stream of blocks
_XERIAL_HEADER = 16  # bytes: that, and two versions

Unpack = Callable[[Any], bytes]


class _TooMuchError(Exception):
    """A batch is larger unpacked than it may be."""


class Unpacker:
    """Unpacks up to `limit` bytes at a time; more is an error, and is never in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._scratch: mmap.mmap | None = None

    def functions(self) -> dict[str, Unpack]:
        """By the names under which aiokafka calls them."""
        return {
            "gzip_decode": self.gzip,
            "snappy_decode": self.snappy,
            "lz4_decode": lambda data: self._into(cramjam.lz4.decompress_into, data),
            "zstd_decode": lambda data: self._into(cramjam.zstd.decompress_into, data),
        }

    def gzip(self, data: Any) -> bytes:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(self.limit + 1)
        self._check(len(unpacked))
        return unpacked

    def snappy(self, data: Any) -> bytes:
        """Its blocks say beforehand what they unpack to."""
        self._check(sum(map(cramjam.snappy.decompress_raw_len, _blocks(memoryview(data)))))
        return bytes(codec.snappy_decode(data))

    def _into(self, decompress: Callable[[Any, Any], int], data: Any) -> bytes:
        """By way of memory that cannot grow. It is reused, since new memory costs ten times what
        unpacking does, unless a batch has used much of it."""
        scratch = self._scratch
        if scratch is None or len(scratch) != self.limit + 1:
            # Anonymous: memory that is not touched is not taken.
            scratch = self._scratch = mmap.mmap(-1, self.limit + 1)
        try:
            length = decompress(data, scratch)
        except cramjam.DecompressionError as error:
            self._scratch = None
            if "whole buffer" in str(error):
                self._check(self.limit + 1)
            raise
        if length > _KEPT:
            self._scratch = None
        self._check(length)
        return scratch[:length]

    def _check(self, length: int) -> None:
        if length > self.limit:
            raise _TooMuchError(
                f"a batch unpacks to more than {Size(self.limit)}, a quarter of limits.memory"
            )


def _blocks(data: memoryview) -> Iterator[memoryview]:
    if data[: len(_XERIAL)] != _XERIAL:
        yield data
        return
    start = _XERIAL_HEADER
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : end]
        start = end


_unpacker = Unpacker(LEAST_LIMIT)


class _Records(fetcher.PartitionRecords):
    """The records of one fetch of one partition, as aiokafka hands them out."""

    def _unpack_records(self) -> Iterator[Any]:
        start = self.next_fetch_offset
        try:
            yield from super()._unpack_records()  # type: ignore[no-untyped-call]
        except Exception as error:
            if self.next_fetch_offset > start:
                return  # aiokafka would lose what came before; the next fetch begins right here
            # Any library below may raise what it likes, with bytes of a record in its text.
            known = isinstance(error, KafkaError | _TooMuchError)
            why = str(error) if known else type(error).__name__
            raise CorruptRecordException(
                f"{self._tp} cannot be read at offset {self.next_fetch_offset}: {why}"
            ) from error


def guard() -> None:
    """Puts this module in the place of aiokafka's own functions, for the whole process."""
    fetcher.PartitionRecords = _Records  # type: ignore[misc]
    for batch in (DefaultRecordBatch, LegacyRecordBatch):
        # Where aiokafka was built in C, that is another module than the one named above.
        module = sys.modules[batch.__module__]
        for name, function in _unpacker.functions().items():
            if hasattr(module, name):
                setattr(module, name, function)


def limit(memory: int) -> None:
    """How much a batch may unpack to, in bytes; never less than `LEAST_LIMIT`."""
    _unpacker.limit = max(LEAST_LIMIT, memory)


def require_codecs() -> None:
    """Raises SourceError unless every codec of Kafka's works, before the first batch needs it."""
    probe = b"sluiced"
    for name in ("gzip", "snappy", "lz4", "zstd"):
        try:
            packed = getattr(codec, f"{name}_encode")(probe)
            works = getattr(codec, f"{name}_decode")(packed) == probe
        except Exception:
            works = False
        if not works:
            raise SourceError(
                f"records that producers compress with {name} could not be read: the library for "
                "it is missing or broken",
                "Install sluiced again with everything that it depends on: `pip install "
                "--force-reinstall sluiced`.",
            )

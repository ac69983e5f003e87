"""What aiokafka makes of batches that nobody should have written."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiokafka import TopicPartition, codec
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from sluiced.errors import SourceError
from sluiced.kafka import KafkaSettings, describe, unpacking
from sluiced.kafka.unpacking import LEAST_LIMIT, Unpacker, require_codecs

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
PAGES = TopicPartition("pages", 2)
CRC_AT, ATTRIBUTES_AT, RECORDS_AT = 17, 21, 61  # bytes into a batch of format 2


def packed(*values: bytes, codec: int = 0, header: str | None = None) -> bytearray:
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 2**30)
    for offset, value in enumerate(values):
        headers = [] if header is None else [(header, b"x")]
        builder.append(offset, 1000, b"key", value, headers)
    return bytearray(builder.build())


def sealed(batch: bytearray) -> bytes:
    """With the checksum that it ought to have, as a faulty producer would write it."""
    struct.pack_into(">I", batch, CRC_AT, calc_crc32c(bytes(batch[ATTRIBUTES_AT:])))
    return bytes(batch)


def unpacked(*batches: bytes, start: int = 0) -> Iterator[Any]:
    """What the consumer hands out of a fetch that began at `start`."""
    data = MemoryRecords(b"".join(batches))
    return fetcher.PartitionRecords(
        *(PAGES, data, [], start, None, None, True, fetcher.READ_COMMITTED)
    )


def refusal(batch: bytes, start: int = 0) -> str:
    with pytest.raises(CorruptRecordException) as caught:
        list(unpacked(batch, start=start))
    return str(caught.value)


@pytest.fixture(autouse=True)
def limit() -> Iterator[Callable[[int], None]]:
    """It is of the whole process, and other tests make daemons in this one."""
    unpacking.limit(LEAST_LIMIT)
    yield unpacking.limit
    unpacking.limit(LEAST_LIMIT)


@pytest.mark.parametrize("name", CODECS)
def test_what_is_packed_is_unpacked(name: str) -> None:
    values = [b"%d" % n * 1000 for n in range(100)]
    batch = bytes(packed(*values, codec=CODECS[name]))
    assert [r.value for r in unpacked(batch)] == values
    assert [r.value for r in unpacked(batch, batch)][:100] == values, "memory is used again"


@pytest.mark.parametrize("name", CODECS)
def test_a_batch_that_grows_beyond_the_limit_names_partition_offset_and_limit(name: str) -> None:
    bomb = bytes(packed(b"0" * (LEAST_LIMIT + 1), codec=CODECS[name]))
    assert len(bomb) < LEAST_LIMIT / 20
    text = refusal(bomb)
    assert f"{PAGES} cannot be read at offset 0" in text
    assert "unpacks to more than 16MiB" in text


@pytest.mark.parametrize("name", CODECS)
def test_the_limit_is_exact(name: str) -> None:
    data = getattr(codec, f"{name}_encode")(b"x" * 100_000)
    unpack = Unpacker(100_000).functions()[f"{name}_decode"]
    assert unpack(data) == b"x" * 100_000
    with pytest.raises(unpacking._TooMuchError):
        Unpacker(99_999).functions()[f"{name}_decode"](data)


def test_snappy_is_read_in_blocks_and_in_one_piece() -> None:
    for framed in (True, False):
        data = codec.snappy_encode(b"y" * 100_000, xerial_compatible=framed)
        assert Unpacker(100_000).snappy(data) == b"y" * 100_000
        with pytest.raises(unpacking._TooMuchError):
            Unpacker(99_999).snappy(data)


def test_more_memory_allows_larger_batches(limit: Callable[[int], None]) -> None:
    large = bytes(packed(b"0" * (LEAST_LIMIT + 1), codec=CODECS["zstd"]))
    limit(2 * LEAST_LIMIT)
    assert len(next(unpacked(large)).value) == LEAST_LIMIT + 1
    limit(1)
    assert "16MiB" in refusal(large), "never so little that honest batches suffer"


@pytest.mark.parametrize("name", CODECS)
def test_a_batch_that_does_not_unpack_is_corrupt_and_names_where(name: str) -> None:
    batch = packed(b'{"private":1}' * 100, codec=CODECS[name])
    batch[RECORDS_AT + 6 : RECORDS_AT + 16] = bytes(10)
    text = refusal(sealed(batch))
    assert f"{PAGES} cannot be read at offset 0" in text
    assert "private" not in text


def test_what_stands_before_the_damage_is_handed_out_first() -> None:
    """And then the damage is met again, with nothing before it that could be lost."""
    batch = packed(b"1", b"2", b"3", header="NAME")
    third = batch.rindex(b"NAME")
    batch[third : third + 4] = b"\xffAME"
    records = unpacked(sealed(batch))
    assert [r.value for r in records] == [b"1", b"2"]
    assert records.next_fetch_offset == 2  # type: ignore[attr-defined]
    assert "cannot be read at offset 2" in refusal(sealed(batch), start=2)


def test_a_header_whose_name_is_no_text_names_where_it_is_and_not_what_it_holds() -> None:
    batch = packed(b"1", header="NAME")
    name = batch.rindex(b"NAME")
    batch[name : name + 4] = b"\xffAME"
    assert refusal(sealed(batch)).endswith("offset 0: UnicodeDecodeError")


def test_a_codec_that_does_not_exist_names_where_it_is_used() -> None:
    batch = packed(b"1")
    struct.pack_into(">h", batch, ATTRIBUTES_AT, 5)
    text = refusal(sealed(batch))
    assert f"{PAGES} cannot be read at offset 0" in text
    assert "Unknown compression codec 0x05" in text


def test_a_wrong_checksum_names_where_it_is() -> None:
    batch = packed(b"1")
    batch[-3] ^= 0xFF
    assert f"{PAGES} cannot be read at offset 0" in refusal(bytes(batch))


def test_every_codec_of_kafkas_works_here() -> None:
    require_codecs()


@pytest.mark.parametrize("name", ["snappy", "lz4", "zstd"])
def test_a_codec_without_its_library_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(codec, f"has_{name}", lambda: False)
    with pytest.raises(SourceError, match=f"compress with {name} could not be read"):
        require_codecs()


def test_a_codec_that_makes_nonsense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "gzip_decode", lambda data: b"nonsense")
    with pytest.raises(SourceError, match="compress with gzip could not be read"):
        require_codecs()


@pytest.mark.anyio
async def test_nobody_starts_without_every_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "has_lz4", lambda: False)
    nowhere = KafkaSettings(bootstrap_servers=["127.0.0.1:1"], group_id="g", topics=["pages"])
    with pytest.raises(SourceError, match="compress with lz4"):
        await describe(nowhere, ["pages"])

"""What a dead letter says, whoever wrote it: sluiced, Kafka Connect or Spring for Apache Kafka."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from .. import moments
from ..kafka.dead_letters import CONNECT
from ..record import REDRIVES, MadeRecord, Record, TopicPartition

Dialect = Literal["sluiced", "connect", "spring", "unknown"]

SPRING = "kafka_dlt-"
OURS = "sluiced."

INT32, INT64 = 4, 8  # bytes, big-endian, in Spring's headers


class Stub(msgspec.Struct, frozen=True):
    """What stands for a value that was too large for the dead-letter topic. `size` in bytes."""

    topic: str
    partition: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A record of a dead-letter topic, read.

    `topic`, `partition` and `offset` are where the record once stood; None where the letter does
    not say. `died` is when it was given up, or the letter's own timestamp where nobody wrote it
    down. `redrives` is how often it has been sent back before. What the writer has no word for is
    empty.
    """

    record: Record
    dialect: Dialect
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    timestamp: int = -1
    died: datetime | None = None
    reason: str = "unknown"
    status: str = ""
    error: str = ""
    exception: str = ""
    stage: str = ""
    attempts: str = ""
    batch: str = ""
    group: str = ""
    pipeline: str = ""
    redrives: int = 0
    stubbed: bool = False

    @property
    def place(self) -> str:
        """Where the letter lies: partition and offset in the dead-letter topic."""
        return f"{self.record.partition}/{self.record.offset}"

    @property
    def origin(self) -> str:
        """topic/partition/offset of the record that died, as far as they are known."""
        known = [self.topic, self.partition, self.offset]
        return "/".join("?" if part is None else str(part) for part in known)

    @property
    def source(self) -> tuple[TopicPartition, int] | None:
        """The coordinates of the record that died; None unless all are known."""
        if self.topic is None or self.partition is None or self.offset is None:
            return None
        return TopicPartition(self.topic, self.partition), self.offset

    @property
    def stub(self) -> Stub | None:
        """What stands in the value's place; None for a whole letter or an unreadable stub."""
        if not self.stubbed:
            return None
        try:
            return msgspec.json.decode(self.record.value or b"", type=Stub)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def original_headers(self) -> list[tuple[str, bytes]]:
        """The record's own: without those that say how it died, or count its redrives."""
        return [(name, value) for name, value in self.record.headers if not _added(name)]


def restored(letter: Letter, value: bytes | None) -> MadeRecord:
    """The record that died, with this value. The letter must know all coordinates."""
    assert letter.source is not None
    (topic, partition), offset = letter.source
    headers = letter.original_headers()
    return MadeRecord(topic, partition, offset, letter.timestamp, letter.record.key, value, headers)


def _added(name: str) -> bool:
    return name.startswith((CONNECT, SPRING, OURS))


def parse(record: Record) -> Letter:
    """Reads any record: one that is no dead letter, or a damaged one, is a letter of few words.

    Of a header that stands there twice the last one counts, since writers append.
    """
    headers = dict(record.headers)
    if OURS + "reason" in headers:
        return _sluiced(record, headers)
    if any(name.startswith(SPRING) for name in headers):
        return _spring(record, headers)
    if any(name.startswith(CONNECT) for name in headers):
        return _connect(record, headers)
    return Letter(record, "unknown", timestamp=record.timestamp, **_common(record, headers))


def _common(record: Record, headers: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "redrives": _number(headers.get(REDRIVES)) or 0,
        "died": moments.of_ms(record.timestamp),
    }


def _sluiced(record: Record, headers: Mapping[str, bytes]) -> Letter:
    """Connect's headers and some more."""
    letter = _connect(record, headers)
    return replace(
        letter,
        dialect="sluiced",
        reason=_text(headers[OURS + "reason"]) or "unknown",
        status=_text(headers.get(OURS + "status")),
        attempts=_text(headers.get(OURS + "attempts")),
        batch=_text(headers.get(OURS + "batch")),
        group=_text(headers.get(OURS + "group")),
        died=_moment(headers.get(OURS + "failed_at")) or letter.died,
        stubbed=headers.get(OURS + "stub") == b"true",
    )


def _connect(record: Record, headers: Mapping[str, bytes]) -> Letter:
    text = {name: _text(headers.get(CONNECT + name)) for name in _CONNECT_NAMES}
    return Letter(
        record,
        "connect",
        topic=text["topic"] or None,
        partition=_number(headers.get(CONNECT + "partition")),
        offset=_number(headers.get(CONNECT + "offset")),
        timestamp=record.timestamp,
        reason=_simple(text["exception.class.name"]),
        error=text["exception.message"],
        exception=text["exception.class.name"],
        stage=text["stage"],
        pipeline=text["connector.name"],
        **_common(record, headers),
    )


def _spring(record: Record, headers: Mapping[str, bytes]) -> Letter:
    def original(name: str) -> bytes | None:
        return headers.get(f"{SPRING}original-{name}")

    # The cause says more than the listener's wrapper around it.
    cause = _text(headers.get(SPRING + "exception-cause-fqcn"))
    exception = cause or _text(headers.get(SPRING + "exception-fqcn"))
    timestamp = _binary(original("timestamp"), INT64)
    return Letter(
        record,
        "spring",
        topic=_text(original("topic")) or None,
        partition=_binary(original("partition"), INT32),
        offset=_binary(original("offset"), INT64),
        timestamp=record.timestamp if timestamp is None else timestamp,
        reason=_simple(exception),
        error=_text(headers.get(SPRING + "exception-message")),
        exception=exception,
        group=_text(original("consumer-group")),
        **_common(record, headers),
    )


_CONNECT_NAMES = ("topic", "stage", "connector.name", "exception.class.name", "exception.message")


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _number(value: bytes | None) -> int | None:
    """A number written as text, as it stands for a partition, an offset or a count."""
    text = _text(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        return None
    return number if (number := int(text)) < 2**63 else None  # more than any of Kafka's has


def _binary(value: bytes | None, size: int) -> int | None:
    """A big-endian number of this size; a writer with other habits may have put it as text."""
    if value is None or len(value) != size:
        return _number(value)
    number = int.from_bytes(value, signed=True)
    return number if number >= 0 else None


def _moment(value: bytes | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(_text(value))
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):  # the calendar ends where a zone goes beyond it
        return None


def _simple(class_name: str) -> str:
    """The last part of a Java class's name: what a filter is to be compared with."""
    return class_name.replace("$", ".").rpartition(".")[2] or "unknown"

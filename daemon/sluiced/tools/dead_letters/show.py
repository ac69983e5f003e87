"""`sluiced dead-letters show`: one letter with everything in it."""

from __future__ import annotations

from ... import moments
from ...config import Config
from ...errors import SluicedError
from ...kafka.scan import Reader, Span
from ...record import TopicPartition
from ...redrive import scanning
from ...redrive.letter import Letter, parse
from ...redrive.scanning import dead_letter_topic
from ..text import Progress, fields, inline, shortened, shown


def parse_place(text: str) -> tuple[str | None, int, int]:
    """PARTITION/OFFSET of a letter, or topic/partition/offset of the record that died.

    Raises SluicedError.
    """
    *topic, partition, offset = text.split("/") if text.count("/") in (1, 2) else ("", "", "")
    if not all(n.isascii() and n.isdigit() and len(n) < 20 for n in (partition, offset)):
        raise SluicedError(
            f"{text!r} does not name a record",
            "Write PARTITION/OFFSET of the letter, such as 0/17, or topic/partition/offset of the "
            "record that died, such as pages/3/104.",
        )
    return (topic[0] if topic else None), int(partition), int(offset)


async def find(config: Config, place: str) -> Letter:
    """Raises SluicedError where there is no such letter."""
    topic, partition, offset = parse_place(place)
    async with scanning.opened(config) as (reader, spans):
        if topic is not None:
            letter = await _by_origin(reader, spans, (TopicPartition(topic, partition), offset))
        else:
            tp = TopicPartition(dead_letter_topic(config), partition)
            record = await reader.one(tp, offset) if tp in spans else None
            letter = None if record is None else parse(record)
    if letter is None:
        raise SluicedError(
            f"{dead_letter_topic(config)} holds no letter {'of the record ' if topic else ''}"
            f"{place}",
            "`sluiced dead-letters list` shows what there is.",
        )
    return letter


async def _by_origin(
    reader: Reader, spans: dict[TopicPartition, Span], origin: tuple[TopicPartition, int]
) -> Letter | None:
    """The last of them: a record may have died more than once."""
    last, seen = None, 0
    progress = Progress("searching", sum(map(len, spans.values())))
    async for page in scanning.letters(reader, spans):
        last = next((x for x in reversed(page) if x.source == origin), last)
        seen += len(page)
        progress.show(seen)
    progress.end()
    return last


def as_text(letter: Letter, width: int) -> list[str]:
    """Why it died, then the record: key, headers and value."""
    record = letter.record
    lines = fields(
        [
            ("letter", f"{record.topic}/{letter.place}"),
            ("record", letter.origin),
            ("died", moments.rfc3339(letter.died) or "unknown"),
            ("reason", letter.reason),
            ("status", letter.status),
            ("error", letter.error),
            ("exception", letter.exception if letter.dialect != "sluiced" else ""),
            ("stage", letter.stage),
            ("attempts", letter.attempts),
            ("batch", letter.batch),
            ("pipeline", letter.pipeline),
            ("group", letter.group),
            ("redrives", str(letter.redrives)),
            ("written by", letter.dialect),
            ("timestamp", moments.rfc3339(moments.of_ms(letter.timestamp)) or "none"),
            ("key", inline(record.key)),
        ],
        width,
    )
    if headers := letter.original_headers():
        lines += ["", "headers"]
        lines += [
            shortened(line, width)
            for name, value in headers
            for line in fields([(f"  {name}", inline(value))], width)
        ]
    size = len(record.value or b"")
    lines += ["", f"value, {size:,} bytes" if record.value is not None else "value"]
    if letter.stubbed:
        lines[-1] += ", a stub: the record itself was too large for the dead-letter topic"
    return [*lines, *(f"  {line}" for line in shown(record.value))]

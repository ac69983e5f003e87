"""`sluiced dead-letters export`: every letter as a line of JSON."""

from __future__ import annotations

import sys
from base64 import b64encode
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ... import moments
from ...config import Config
from ...errors import SluicedError
from ...redrive import scanning
from ...redrive.letter import Letter
from ..text import Progress
from .listing import summary
from .selection import Selection


async def export(config: Config, selection: Selection, target: str, *, force: bool) -> int:
    """Writes to the file, or to stdout for "-"; how many letters. Raises SluicedError."""
    written = seen = 0
    async with scanning.opened(config) as (reader, spans):
        progress = Progress("exporting", sum(map(len, spans.values())))
        with ExitStack() as stack:
            stream = _opened(target, stack, force=force)
            async for page in scanning.letters(reader, spans):
                lines = [line(x) for x in page if selection.matches(x)]
                try:
                    stream.write(b"".join(lines))
                    stream.flush()
                except OSError as error:
                    raise _unwritable(target, error) from None
                written += len(lines)
                seen += len(page)
                progress.show(seen)
        progress.end()
    return written


def _opened(target: str, stack: ExitStack, *, force: bool) -> BinaryIO:
    if target == "-":
        return sys.stdout.buffer
    try:
        return stack.enter_context(Path(target).open("wb" if force else "xb"))
    except FileExistsError:
        raise SluicedError(
            f"{target} exists already", "Name another file, or add --force to write over it."
        ) from None
    except OSError as error:
        raise _unwritable(target, error) from None


def _unwritable(target: str, error: OSError) -> SluicedError:
    return SluicedError(
        f"{target} cannot be written: {error.strerror}", "Name a file that can be, or - for stdout."
    )


def line(letter: Letter) -> bytes:
    """One letter with its record. Bytes that JSON cannot hold are in base64, under another name."""
    record = letter.record
    document = summary(letter) | {
        "timestamp": moments.rfc3339(moments.of_ms(letter.timestamp)),
        "headers": [{"name": name} | _text("value", v) for name, v in record.headers],
        **_text("key", record.key),
        **_value(record.value),
    }
    return msgspec.json.encode(document) + b"\n"


def _text(name: str, value: bytes | None) -> dict[str, Any]:
    try:
        return {name: None if value is None else value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(value or b"").decode()}


def _value(value: bytes | None) -> dict[str, Any]:
    """The value's own JSON, to the digit but on one line; a tombstone is null."""
    if value is None:
        return {"value": None, "tombstone": True}
    try:
        value.decode()
        msgspec.json.decode(value, type=msgspec.Raw)
        return {"value": msgspec.Raw(msgspec.json.format(value, indent=-1))}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"value_base64": b64encode(value).decode()}

"""Which records a batch held, going by the daemon's log."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import SluicedError

ANSWERED = "batch_answered"  # the event that names the ranges; it has level debug

_ID = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FIELD = re.compile(r"(?<!\S)(\w+)=(?:'([^']*)'|(\S+))")


def find(file: str, batch: str) -> str:
    """The batch's ranges as they stand in the log, one argument of `replay --batch-ranges`.

    `file` may be "-" for stdin. Raises SluicedError where the log cannot be read or does not say.
    """
    if not _ID.fullmatch(batch):
        raise SluicedError(
            f"--batch {batch!r} is not a batch id",
            "It is the hexadecimal number under `batch` in the log and in a dead letter's headers.",
        )
    with _opened(file) as lines:
        return ranges(lines, batch, "stdin" if file == "-" else file)


def ranges(lines: Iterable[str], batch: str, name: str) -> str:
    """The same from the lines of the log called `name`, of which each is looked at by itself."""
    found, mentioned, debug = "", False, False
    for line in lines:
        about = batch in line
        if not about and (debug or ANSWERED not in line):
            continue
        event = _event(line)
        debug = debug or event.get("event") == ANSWERED
        if event.get("batch") == batch:
            mentioned = True
            found = str(event.get("ranges") or "") or found
    if found:
        return found
    if mentioned:
        what = f"{name} names batch {batch}, but not its records"
    elif debug:
        what = f"{name} does not name batch {batch}"
    else:
        what = f"{name} does not say which records went into which batch"
    raise SluicedError(
        what,
        f'Only {ANSWERED} does, which the daemon logs where [log] level is "debug": give the log '
        "of the time when the batch was sent, or name its ranges with --batch-ranges.",
    )


@contextmanager
def _opened(file: str) -> Iterator[Iterable[str]]:
    # Logs are cut off and mixed with what others print: bytes that are no text must not end this.
    try:
        if file == "-":
            yield (line.decode(errors="replace") for line in sys.stdin.buffer)
            return
        with Path(file).open(encoding="utf-8", errors="replace") as lines:
            yield lines
    except OSError as error:
        raise SluicedError(
            f"--log: {file} cannot be read: {error.strerror}",
            "Give the daemon's log, or - for stdin.",
        ) from None


def _event(line: str) -> dict[str, Any]:
    """A line of `sluiced.logs`, JSON or console, after whatever a journal put before it.

    Empty for any other line.
    """
    start = line.find("{")
    if start >= 0:
        try:
            found = json.loads(line[start:])
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            # `journalctl -o json` wraps the line into one of its own.
            message = found.get("MESSAGE")
            return _event(message) if isinstance(message, str) else found
    plain = _COLOUR.sub("", line)
    fields = {name: quoted or bare for name, quoted, bare in _FIELD.findall(plain)}
    head = re.search(r"\[\w+ *\] (\w+)", plain)
    return fields | {"event": head[1]} if head else {}

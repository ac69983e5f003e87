"""Text for a terminal: tables that keep within a width, values that cannot harm, progress."""

from __future__ import annotations

import shutil
import sys
import time
import unicodedata
from collections.abc import Sequence
from math import inf
from typing import TextIO

import msgspec

NARROWEST = 60  # columns; a terminal with fewer wraps
GAP = 2  # columns between two columns of a table
BAR = 16  # columns of the bar that is drawn on a terminal
PROGRESS_TTY = 0.2  # seconds between two states of the progress line on a terminal
PROGRESS_LOG = 10.0  # the same where it is not a terminal and each is a line of its own


def terminal_width() -> int:
    """Columns of the terminal, and 80 where there is none."""
    return max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)


def terminal_height() -> int:
    """Lines of the terminal, and 24 where there is none."""
    return shutil.get_terminal_size((80, 24)).lines


def printable(text: str) -> str:
    """The text on one line, with escapes for what a terminal would obey or not show.

    What a record or an API says is not ours: a control character could rewrite the screen.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width_of(text: str) -> int:
    """Columns that a printable text takes: two for a wide character, none for a combining one."""
    return sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shortened(text: str, width: int) -> str:
    """At most `width` columns, the end replaced by an ellipsis where it is longer."""
    if width_of(text) <= width:
        return text
    return _head(text, width - 1) + "…" if width > 0 else ""


def elided(text: str, width: int) -> str:
    """At most `width` columns, the middle left out: both ends of a name tell things apart."""
    if width_of(text) <= width or width < 3:
        return shortened(text, width)
    tail = _head(text[::-1], (width - 1) // 2)[::-1]
    return f"{_head(text, width - 1 - width_of(tail))}…{tail}"


def _head(text: str, width: int) -> str:
    used = 0
    for index, char in enumerate(text):
        used += _columns(char)
        if used > width:
            return text[:index]
    return text


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of at most `width` columns. Numbers stand right, the last column takes what is left.

    Where the other columns leave it less than a third, they are elided, the widest first.
    """
    cells = [list(map(printable, row)) for row in (header, *rows)]
    widths = [max(width_of(row[n]) for row in cells) for n in range(len(header))]
    fixed = widths[:-1]
    gaps = GAP * len(fixed)
    room = width - gaps - min(widths[-1], width // 3)
    while sum(fixed) > room:
        fixed[fixed.index(max(fixed))] -= 1
    last = max(1, width - gaps - sum(fixed))
    numeric = [all(_numeric(row[n]) for row in cells[1:]) for n in range(len(fixed))]
    lines = []
    for row in cells:
        parts = [
            _padded(elided(cell, size), size, right=right)
            for cell, size, right in zip(row, fixed, numeric, strict=False)
        ]
        lines.append((" " * GAP).join([*parts, shortened(row[-1], last)]).rstrip())
    return lines


def _numeric(cell: str) -> bool:
    return cell.replace(",", "").isdecimal() or not cell


def _padded(text: str, width: int, *, right: bool) -> str:
    padding = " " * (width - width_of(text))
    return padding + text if right else text + padding


def fields(pairs: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Names and values, a long value continued below its start. Empty values are left out."""
    pairs = [(name, printable(value)) for name, value in pairs if value]
    indent = max((len(name) for name, _ in pairs), default=0) + GAP
    lines = []
    for name, value in pairs:
        first, *rest = _wrapped(value, max(20, width - indent))
        lines.append(f"{name:<{indent}}{first}")
        lines += [" " * indent + line for line in rest]
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at blanks where there are any."""
    lines = []
    while width_of(text) > width:
        head = _head(text, width + 1)
        cut = head.rfind(" ")
        if cut <= 0:
            cut = len(_head(text, width))
        lines.append(text[:cut])
        text = text[cut:].lstrip(" ")
    return [*lines, text]


def as_json(value: bytes) -> str | None:
    """The value indented, if it is JSON."""
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
        return msgspec.json.format(value, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def as_text(value: bytes) -> str | None:
    """The value with escapes for what is not printable, if it is UTF-8."""
    try:
        return printable(value.decode())
    except UnicodeDecodeError:
        return None


def as_hex(value: bytes) -> list[str]:
    """16 bytes a line, with their offset and what of them is ASCII."""
    lines = []
    for start in range(0, len(value), 16):
        row = value[start : start + 16]
        ascii_ = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        lines.append(f"{start:08x}  {row.hex(' '):<47}  {ascii_}")
    return lines


def shown(value: bytes | None) -> list[str]:
    """A key or a value as lines for the eye: JSON indented, text escaped, anything else in hex."""
    if value is None:
        return ["(none)"]
    if not value:
        return ["(empty)"]
    if (document := as_json(value)) is not None:
        return [printable(line) for line in document.splitlines()]
    text = as_text(value)
    return as_hex(value) if text is None else [text]


def inline(value: bytes | None) -> str:
    """A key or a header on one line: its text, or the hexadecimal digits after 0x."""
    if value is None:
        return "(none)"
    text = as_text(value)
    return f"0x{value.hex()}" if text is None else text


def count(number: int, one: str, many: str = "") -> str:
    """ "1 record", "2,000 records"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _bar(part: float) -> str:
    full = int(min(part, 1.0) * BAR)
    return "█" * full + "░" * (BAR - full)


class Progress:
    """How far the work is: one line that is written over on a terminal, else one now and then.

    On stderr, so that what is piped stays clean. `total` is what there may be at most, `seconds`
    how long it may take at most, `note` what there is to know besides.
    """

    def __init__(
        self,
        what: str,
        total: int = 0,
        stream: TextIO | None = None,
        *,
        seconds: float = inf,
    ) -> None:
        self.total = total
        self._seconds = seconds
        self._what = what
        self._done = 0
        self._note = ""
        self._stream = stream or sys.stderr  # None where a process was started without one
        self._tty = self._stream is not None and self._stream.isatty()
        self._started = self._shown = time.monotonic()
        self._drawn = False

    def note(self, text: str) -> None:
        """What is shown beside the figures from now on."""
        self._note = text
        self.show(self._done)

    def show(self, done: int) -> None:
        """`done` of the total are through."""
        self._done = done
        if self._stream is None:
            return
        now = time.monotonic()
        if now - self._shown < (PROGRESS_TTY if self._tty else PROGRESS_LOG):
            return
        self._shown = now
        line = self.line(done, now - self._started)
        if self._tty:
            self._stream.write(f"\r\x1b[K{shortened(line, terminal_width() - 1)}")
            self._drawn = True
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def line(self, done: int, seconds: float) -> str:
        part = done / self.total if self.total else 1.0
        part = min(1.0, max(part, seconds / self._seconds))
        rate = done / seconds if seconds > 0 else 0.0
        left = min((self.total - done) / rate if rate else 0.0, max(0.0, self._seconds - seconds))
        bar = f" {_bar(part)}" if self._tty else ""
        text = f"{self._what}{bar} {part:>4.0%}  {done:,} of {self.total:,}  {rate:,.0f}/s"
        if left >= 1:
            text += f"  {int(left) // 60}:{int(left) % 60:02d} left"
        return f"{text}  {printable(self._note)}".rstrip()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.end()
        if self._stream is None:
            return
        self._stream.write(f"{printable(text)}\n")
        self._stream.flush()

    def end(self) -> None:
        """Takes the line away."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False

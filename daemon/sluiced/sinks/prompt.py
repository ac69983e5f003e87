"""A request's body made of a small record: a table of the configuration with holes in its texts.

The table is taken apart once, into the JSON that is always the same and what stands between. A
record's text is put in as a JSON string or as the JSON that it is, never as characters between two
quotes, so that no record can change anything but its own place. The same record makes the same
bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ..identity import tokens_of
from ..record import Record
from .template import HEADER, Template, header

KNOWN = ("value", "json", "key", HEADER, "topic", "partition", "offset", "timestamp")

# Between the braces a pointer may hold anything; without them it ends where a word does.
_PLACEHOLDER = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<braced>[^}]*)\}"
    r"|(?P<bare>header\.[A-Za-z0-9_-]+|[A-Za-z_]+(?:/[A-Za-z0-9_~]+)*|))"
)

_json = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode

# What differs from record to record: JSON, or UTF-8 text within a JSON string. Raises ValueError,
# in words for a dead letter.
Hole = Callable[[Record], bytes]


class Place(NamedTuple):
    """Where JSON stands that differs, and what stands there for a record that brings nothing."""

    fill: Hole
    empty: bytes


class Prompt:
    """How bodies are made. Raises ValueError that names the place in the table which is wrong."""

    def __init__(self, table: Mapping[str, Any], *, json: bool = True) -> None:
        self.names: list[str] = []
        self._json = json
        pieces: list[bytes | Place] = []
        for piece in self._compiled(table, ""):
            if pieces and isinstance(piece, bytes) and isinstance(pieces[-1], bytes):
                pieces[-1] += piece
            else:
                pieces.append(piece)
        self._pieces = tuple(pieces)

    def body(self, record: Record) -> bytes:
        """Raises ValueError for a record that `objection` would have kept out."""
        pieces = self._pieces
        return b"".join([p if isinstance(p, bytes) else p.fill(record) for p in pieces])

    def objection(self, record: Record) -> str | None:
        """Why no body can be made of a record, or None."""
        try:
            self.body(record)
        except ValueError as error:
            return str(error)
        return None

    @property
    def constant(self) -> bytes:
        """The body of a record that brings nothing: an empty text wherever it is asked for one."""
        return b"".join(p if isinstance(p, bytes) else p.empty for p in self._pieces)

    # --- taking the table apart -----------------------------------------------------------------

    def _compiled(self, node: Any, path: str) -> Iterator[bytes | Place]:
        if isinstance(node, Mapping):
            yield b"{"
            for number, (key, value) in enumerate(node.items()):
                yield (b"," if number else b"") + _json(key) + b":"
                yield from self._compiled(value, f"{path}.{key}" if path else key)
            yield b"}"
        elif isinstance(node, list):
            yield b"["
            for number, value in enumerate(node):
                if number:
                    yield b","
                yield from self._compiled(value, f"{path}[{number}]")
            yield b"]"
        elif isinstance(node, str):
            yield self._filled(node, path)
        elif isinstance(node, bool | int) or (isinstance(node, float) and abs(node) < float("inf")):
            yield _json(node)
        else:
            raise ValueError(f"{path}: {node} cannot be written as JSON; put it in quotes")

    def _filled(self, text: str, path: str) -> bytes | Place:
        try:
            template = _parse(text)
            holes = [self._hole(name) for name in template.names]
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self.names += template.names
        if not holes:
            return _json(template.literals[0])
        if any(_stem(name) == "json" for name in template.names):
            if template.literals != ("", ""):
                raise ValueError(
                    f"{path}: $json stands for a whole JSON value, and has to stand alone in its "
                    "quotes; within a text write $value"
                )
            return Place(holes[0], b'""')
        return Place(_joined(template.literals, holes), _json("".join(template.literals)))

    def _hole(self, name: str) -> Hole:
        stem, slash, pointer = name.partition("/")
        if (slash or stem == "json") and not self._json:
            raise ValueError(f'${name} needs [record] format = "json"; or write $value')
        place = slash + pointer
        if stem == "json":
            tokens = tokens_of(place)
            return lambda record: _at(record, tokens, place)
        if stem == "value" and self._json:
            tokens = tokens_of(place)
            return lambda record: _plain(_at(record, tokens, place), place)
        return _COLUMNS[stem] if stem in _COLUMNS else _header_of(name)


def _stem(name: str) -> str:
    return name.partition("/")[0]


def _parse(text: str) -> Template:
    """Raises ValueError for a placeholder that there is not."""
    literals, names = [""], []
    end = 0
    for match in _PLACEHOLDER.finditer(text):
        literals[-1] += text[end : match.start()]
        end = match.end()
        if match["dollar"]:
            literals[-1] += "$"
            continue
        name = match["bare"] if match["braced"] is None else match["braced"]
        stem = _stem(name)
        if "/" in name and stem not in ("value", "json"):
            # "$topic/$partition" is a text with a slash in it; in braces it would be a mistake.
            if match["braced"] is not None:
                raise ValueError(f"${{{name}}}: only value and json take a pointer")
            end -= len(name) - len(stem)
            name = stem
        if not (name[len(HEADER) :] if name.startswith(HEADER) else stem in KNOWN):
            what = (
                f"there is no placeholder ${name[:40]} here"
                if name
                else "a dollar sign stands alone"
            )
            raise ValueError(
                f"{what}; write one of $value, $value/POINTER, $json/POINTER, $key, $header.NAME, "
                '$topic, $partition, $offset, $timestamp, or "$$" for a dollar sign'
            )
        names.append(name)
        literals.append("")
    literals[-1] += text[end:]
    return Template(tuple(literals), tuple(names))


def _joined(literals: Sequence[str], holes: Sequence[Hole]) -> Hole:
    """A JSON string of the literals with what is in the holes, UTF-8 texts, between them."""
    first, *rest = [literal.encode() for literal in literals]
    pairs = list(zip(holes, rest, strict=True))

    def fill(record: Record) -> bytes:
        parts = [first]
        for hole, literal in pairs:
            parts += (hole(record), literal)
        return _json(b"".join(parts).decode())

    return fill


# --- what stands in a record ----------------------------------------------------------------------


def _at(record: Record, tokens: Sequence[str], pointer: str) -> bytes:
    """The JSON that a pointer leads to, as it is written there."""
    found = record.value
    if found is None:
        raise ValueError(
            "a tombstone is no prompt; set [record] on_tombstone to skip or dead-letter"
        )
    try:
        for token in tokens:
            found = _within(found, token)
    except LookupError:
        raise ValueError(f"the value has nothing at {pointer}, and sink.prompt needs it") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the value cannot be read at {pointer}: {error}") from None
    return found


def _within(found: bytes, token: str) -> bytes:
    start = found.lstrip()[:1]
    if start == b"{":
        return bytes(_object(found)[token])
    if start == b"[" and token.isascii() and token.isdigit():
        return bytes(_list(found)[int(token)])
    raise LookupError(token)


def _plain(found: bytes, pointer: str) -> bytes:
    """The text of a JSON string; what is no string stays as it is written."""
    start = found.lstrip()[:1]
    at = f"at {pointer}" if pointer else "in it"
    if start == b"n":
        raise ValueError(f"the value has null {at}, where sink.prompt needs a text")
    if start != b'"':
        return found.strip()
    try:
        return _text(found).encode()
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(f"the text {at} cannot be read: {error}") from None


def _utf8(text: bytes | None, what: str, placeholder: str) -> bytes:
    if text is None:
        raise ValueError(f"the record has no {what}, and sink.prompt holds {placeholder}")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the {what} is not UTF-8 at byte {error.start}, and sink.prompt holds {placeholder}"
        ) from None
    return text


def _header_of(name: str) -> Hole:
    wanted = name.removeprefix(HEADER)
    return lambda record: _utf8(header(record, wanted), f"header {wanted}", f"${name}")


_COLUMNS: Mapping[str, Hole] = {
    "value": lambda record: _utf8(record.value, "value", "$value"),
    "key": lambda record: _utf8(record.key, "key", "$key"),
    "topic": lambda record: record.topic.encode(),
    "partition": lambda record: b"%d" % record.partition,
    "offset": lambda record: b"%d" % record.offset,
    "timestamp": lambda record: b"%d" % record.timestamp,
}

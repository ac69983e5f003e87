"""A batch as the body of a request. This is the sink's hot path: see `BodyEncoder.encode`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType
from urllib.parse import quote

import msgspec

from ..batch import Batch
from ..identity import COORDINATES, Identify, identity
from ..intake import Format, Objection
from ..record import Record
from .http_settings import ENVELOPE_PLACEHOLDERS, ITEM_PLACEHOLDERS, BodySettings
from .template import HEADER, Template, header

# What a placeholder stands for, for all records of a batch at once.
Column = Callable[[Sequence[Record]], Sequence[bytes | int]]

_NULL = b"null"
# Between the tokens of a JSON text a line break means no more than a space, and inside its strings
# none can stand, so that this changes no value.
_BREAKS = bytes.maketrans(b"\r\n", b"  ")

_json = msgspec.json.Encoder().encode


class BodyEncoder:
    """Puts batches into bodies.

    An item that is the value with constant text around it, which is the usual case, costs one join
    for the whole batch. Others are formatted record by record.
    """

    def __init__(
        self,
        settings: BodySettings,
        identify: Identify,
        format: Format,  # noqa: A002 - the setting's own name
    ) -> None:
        item = Template.parse(settings.item, ITEM_PLACEHOLDERS)
        self.names = item.names
        self._head, self._tail = Template.parse(settings.envelope, ENVELOPE_PLACEHOLDERS).around(
            "items"
        )
        self._separator = settings.separator.encode()
        self._literals = tuple(literal.encode() for literal in item.literals)
        self._columns = tuple(_column(name, identify) for name in item.names)
        # Only JSON may be put on one line; other values with a newline are objected to.
        self._lines = settings.lines and format == "json" and "value" in item.names
        self._plain = item.names == ("value",)
        self._format = b"".join(
            part.replace(b"%", b"%%") + mark
            for part, mark in zip(self._literals, [*map(_mark, item.names), b""], strict=True)
        )
        self.objections = tuple(_objections(settings, item.names, identify, format))

    def encode(self, batch: Batch) -> bytes:
        """The body. Raises ValueError for a record that `objections` would have kept out."""
        about = {"items_count": str(len(batch)), "batch_id": batch.id, "name": batch.pipeline}
        return self.encode_run(batch.records, about)

    def encode_run(
        self, records: Sequence[Record], about: Mapping[str, str] = MappingProxyType({})
    ) -> bytes:
        """The same for records that are not all of a batch; there is at least one. `about` is for
        an envelope that holds more than $items."""
        columns = [column(records) for column in self._columns]
        if self._lines:
            columns = list(map(_on_one_line, columns))
        head, tail = (part.fill(about).encode() for part in (self._head, self._tail))
        return self._joined(columns, head, tail)

    def _joined(self, columns: Sequence[Sequence[bytes | int]], head: bytes, tail: bytes) -> bytes:
        """The whole body: items, what joins them, and the envelope around them."""
        if self._plain:
            before, after = self._literals
            items: list[bytes] = list(columns[0])  # type: ignore[arg-type]
            # The first and the last item take the envelope with them: one join, one copy.
            items[0] = head + before + items[0]
            items[-1] += after + tail
            return (after + self._separator + before).join(items)
        form = self._format
        items = [form % row for row in zip(*columns, strict=True)]
        items[0] = head + items[0]
        items[-1] += tail
        return self._separator.join(items)


def _mark(name: str) -> bytes:
    return b"%d" if name in ("partition", "offset") else b"%b"


def _on_one_line(column: Sequence[bytes | int]) -> Sequence[bytes | int]:
    """The same without line breaks, which are so rare that all texts are looked at as one."""
    texts = b"".join([v for v in column if isinstance(v, bytes)])
    if b"\n" not in texts and b"\r" not in texts:
        return column
    return [v.translate(_BREAKS) if isinstance(v, bytes) else v for v in column]


def _column(name: str, identify: Identify) -> Column:
    if name.startswith(HEADER):
        wanted = name.removeprefix(HEADER)
        return lambda records: [_string(header(r, wanted)) for r in records]
    columns: dict[str, Column] = {
        "value": lambda records: [_NULL if (v := r.value) is None else v for r in records],
        "value_string": lambda records: [_string(r.value) for r in records],
        "value_base64": lambda records: [_base64(r.value) for r in records],
        "key": lambda records: [_string(r.key) for r in records],
        "id": lambda records: [_json(identify(r)) for r in records],
        "id_url": lambda records: [quote(identify(r), safe="").encode() for r in records],
        "topic": lambda records: [_topic(r.topic) for r in records],
        "partition": lambda records: [r.partition for r in records],
        "offset": lambda records: [r.offset for r in records],
        # A record without a timestamp has -1, which no API would take for "none".
        "timestamp": lambda records: [
            b"%d" % t if (t := r.timestamp) >= 0 else _NULL for r in records
        ],
    }
    return columns[name]


def _string(text: bytes | None) -> bytes:
    return _NULL if text is None else _json(text.decode())


def _base64(value: bytes | None) -> bytes:
    return _NULL if value is None else b'"%b"' % b64encode(value)


@lru_cache(maxsize=1024)
def _topic(topic: str) -> bytes:
    return _json(topic)


def _objections(
    settings: BodySettings,
    names: Sequence[str],
    identify: Identify,
    format: Format,  # noqa: A002
) -> list[Objection]:
    """What can go wrong with a record in this template; nothing, for the usual ones."""
    found: list[Objection] = []
    if "key" in names:
        found.append(lambda r: _not_text(r.key, "the key", "$key"))
    headers = dict.fromkeys(n.removeprefix(HEADER) for n in names if n.startswith(HEADER))
    found += [partial(_header_objection, name) for name in headers]
    if "value_string" in names and format == "bytes":
        found.append(lambda r: _not_text(r.value, "the value", "$value_string"))
    if "value" in names and settings.lines and format != "json":
        found.append(_newline_objection)
    if "id" in names or "id_url" in names:
        found += id_objections(identify)
    return found


def id_objections(identify: Identify) -> list[Objection]:
    """Coordinates every record has; any other id may be missing."""

    def objection(record: Record) -> str | None:
        try:
            identify(record)
        except ValueError as error:
            return str(error)
        return None

    return [] if identify is identity(COORDINATES) else [objection]


def _header_objection(name: str, record: Record) -> str | None:
    return _not_text(header(record, name), f"the header {name}", f"$header.{name}")


def _newline_objection(record: Record) -> str | None:
    if record.value is not None and b"\n" in record.value:
        return "the value holds a newline, which ends an item in the body that the sink makes"
    return None


def _not_text(text: bytes | None, what: str, placeholder: str) -> str | None:
    try:
        if text is not None:
            text.decode()
    except UnicodeDecodeError as error:
        return f"{what} is not UTF-8 at byte {error.start}, and sink.body holds {placeholder}"
    return None

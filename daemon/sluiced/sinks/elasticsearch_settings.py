"""The `[sink]` block of type "elasticsearch", and how an index is named."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import quote, urlencode

import msgspec

from ..errors import Problem
from ..identity import COORDINATES
from ..ports import Identifies
from ..units import Duration, Secret
from .http_settings import BodySettings, HttpSettings
from .response_settings import ResponseSettings
from .settings import ConfiguredSink, Line, SinkSettings
from .template import Template

INDEX_PLACEHOLDERS = ("topic", "year", "month", "day")

LONGEST_INDEX = 255  # bytes; this and the characters: MetadataCreateIndexService in the server
_NOT_IN_INDEX = set('\\/*?"<>| ,#:')
_NOT_FIRST = ("-", "_", "+")

# All that is read of an answer. Without the ids of the documents it is a tenth as long, and still
# has something for every item.
_READ = (
    "error,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 24 * 60 * 60 * 1000


class IndexName:
    """The name of a record's index: a text, or a pattern over its topic and the day of its
    timestamp, in UTC."""

    def __init__(self, pattern: str) -> None:
        self._template = Template.parse(pattern, INDEX_PLACEHOLDERS)
        self.by_topic = "topic" in self._template.names
        self.by_day = bool({"year", "month", "day"} & set(self._template.names))

    @property
    def fixed(self) -> bool:
        return not (self.by_topic or self.by_day)

    def of(self, topic: str, day: int) -> str:
        """`day` counts from 1970-01-01. Raises OverflowError for one that no calendar has."""
        date = _EPOCH + timedelta(days=day)
        values = {"topic": topic, "year": f"{date:%Y}", "month": f"{date:%m}", "day": f"{date:%d}"}
        return self._template.fill(values)


def day_of(timestamp: int) -> int:
    """The day of a record's timestamp, counted from 1970-01-01 (UTC)."""
    return timestamp // _DAY_MS


def why_no_index(name: str) -> str | None:
    """What forbids an index of this name, or None."""
    if not name or name in (".", ".."):
        return "an index needs a name, such as pages"
    if name != name.lower():
        return "the name of an index holds no upper-case letters"
    if bad := sorted(_NOT_IN_INDEX & set(name)):
        return f"the name of an index cannot hold {bad[0]!r}"
    if name.startswith(_NOT_FIRST):
        return f"the name of an index cannot begin with {name[0]!r}"
    if len(name.encode()) > LONGEST_INDEX:
        return f"the name of an index has at most {LONGEST_INDEX} bytes"
    return None


class ElasticsearchSettings(SinkSettings, frozen=True, tag_field="type", tag="elasticsearch"):
    """[sink] type = "elasticsearch": the _bulk API of Elasticsearch and OpenSearch.

    `index` may hold $topic, $year, $month and $day. `parameters` are those of the _bulk request.
    """

    url: str
    index: str
    action: Literal["index", "create", "update"] = "index"
    version: Literal["none", "offset"] = "none"
    parameters: dict[str, str] = msgspec.field(default_factory=dict)
    headers: dict[str, str | Secret] = msgspec.field(default_factory=dict)
    compression: Literal["none", "gzip"] = "none"
    connect_timeout: Duration = Duration(5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "?" in self.url or "$" in self.url:
            raise ValueError(
                'url is the address of the server alone, such as "https://search.example.com"; '
                "what follows a ? belongs into parameters"
            )
        if "filter_path" in self.parameters:
            raise ValueError(
                "parameters: filter_path decides what can be read of the answer; remove it"
            )
        self._check_index()
        if self.version == "offset" and self.action != "index":
            raise ValueError(
                f'version: the server takes one with action = "index" only, not "{self.action}"; '
                "remove one of the two"
            )
        _ = self.request  # which checks what it shares with the generic sink

    def _check_index(self) -> None:
        try:
            name = IndexName(self.index)
        except ValueError as error:
            raise ValueError(f"index: {error}") from None
        if why := why_no_index(name.of("topic", 0)):
            raise ValueError(f"index: {why}")

    @property
    def request(self) -> HttpSettings:
        """The same for the generic sink, which knows all about connections and nothing of _bulk."""
        name = IndexName(self.index)
        # In the path where it is one for all: bodies are shorter, and a proxy or a server that lets
        # a user write to some indexes only can tell.
        path = f"/{quote(name.of('', 0), safe='')}/_bulk" if name.fixed else "/_bulk"
        query = urlencode({"filter_path": _READ, **self.parameters}, safe=",*")
        return HttpSettings(
            url=f"{self.url.rstrip('/')}{path}?{query}",
            headers=self.headers,
            identifies="item",
            compression=self.compression,
            connect_timeout=self.connect_timeout,
            timeout=self.timeout,
            max_records=self.max_records,
            max_bytes=self.max_bytes,
            body=BodySettings(separator="\n", envelope="$items\n"),
            response=ResponseSettings(error="/error/reason"),
        )

    @property
    def identified_by(self) -> Identifies:
        return "item"

    @property
    def summary(self) -> str:
        return f"{self.request.summary}, index {self.index}"

    def build(self, line: Line) -> ConfiguredSink:
        from .elasticsearch import ElasticsearchSink  # which takes its settings from here

        return ElasticsearchSink(self, line)

    def problems(self, line: Line) -> Iterator[Problem]:
        yield from self.request.problems(line)
        name = IndexName(self.index)
        for topic in line.topics if name.by_topic else ():
            if why := why_no_index(name.of(topic, 0)):
                yield Problem(
                    "sink.index", f"for the topic {topic}: {why}", value=f'"{self.index}"'
                )
        if line.record.format != "json":
            yield Problem(
                "record.format",
                'documents are JSON, and only with "json" is every value checked to be that',
                value=f'"{line.record.format}"',
            )
        if line.record.on_tombstone == "send":
            yield from self._tombstones(line, name)
        if self.version == "offset" and len(line.topics) > 1 and not name.by_topic:
            yield Problem(
                "sink.version",
                "offsets of several topics say nothing about which record is newer; put $topic "
                "into sink.index, unless no two topics have a record.id in common",
                "warning",
                '"offset"',
            )

    def _tombstones(self, line: Line, name: IndexName) -> Iterator[Problem]:
        if line.record.id != "$key":
            text = f"a tombstone has a key and nothing else: with record.id = {line.record.id} "
            text += (
                "it names no document that was ever written"
                if line.record.id == COORDINATES
                else "it names no document, and becomes a dead letter"
            )
            yield Problem(
                "record.on_tombstone", f'{text}; set record.id to "$key"', "warning", '"send"'
            )
        if name.by_day:
            yield Problem(
                "record.on_tombstone",
                "a tombstone deletes in the index of its own day, and the document may be in that "
                "of another",
                "warning",
                '"send"',
            )

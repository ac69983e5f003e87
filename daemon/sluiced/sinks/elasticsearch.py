"""The _bulk API of Elasticsearch and OpenSearch: the generic HTTP sink with a body and a reading of
answers of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from itertools import groupby
from typing import Any

import msgspec

from ..batch import Batch
from ..identity import COORDINATES, Identify
from ..intake import Objection
from ..outcome import DELIVERED, Again, Fate, Outcome, Verdict, answered
from ..record import Record
from .body import BodyEncoder
from .document import at, document_of
from .elasticsearch_settings import ElasticsearchSettings, IndexName, day_of
from .http import HttpSink
from .http_settings import BodySettings, HttpSettings
from .items import Scrub, excerpt
from .response import Answer, ResponseReader
from .settings import Line
from .words import UnclearError

LONGEST_ID = 512  # bytes that the server takes as an _id

_LAST_DAY = 2932896  # 9999-12-31, counted from 1970-01-01

_json = msgspec.json.encode


class ElasticsearchSink(HttpSink):
    """One _bulk request for each batch."""

    def __init__(self, settings: ElasticsearchSettings, line: Line) -> None:
        self._preset = settings
        self._line = line
        super().__init__(
            settings.request, line.name, line.identify, line.requests, line.record.format, line.held
        )

    def successor(self, settings: Any) -> ElasticsearchSink:
        sink = ElasticsearchSink(settings, self._line)
        sink._credentials.remember(self._credentials)
        return sink

    def _encoder(self) -> BulkBody:
        return BulkBody(self._preset, self._line)

    def _response_reader(self) -> BulkReader:
        scrub, versioned = self._credentials.scrub, self._preset.version == "offset"
        return BulkReader(self._settings, self._identify, scrub, time.time, versioned=versioned)


class BulkBody:
    """Two lines for each record, what to do and the document; one line where it is a deletion.

    Runs of records that get the same action in the same index are encoded as one.
    """

    names = ("id",)

    def __init__(self, settings: ElasticsearchSettings, line: Line) -> None:
        self._settings = settings
        self._identify = line.identify
        self._index = IndexName(settings.index)
        self._encoder = lru_cache(maxsize=256)(self._make_encoder)
        self.objections: list[Objection] = []
        if line.record.id != COORDINATES:
            self.objections.append(self._id_objection)
        if self._index.by_day:
            self.objections.append(_day_objection)

    def encode(self, batch: Batch) -> bytes:
        """The body. Raises ValueError for a record that `objections` would have kept out."""
        records = batch.records
        if self._index.fixed and None not in [r.value for r in records]:
            return self._encoder(False, "", 0).encode_run(records)
        runs = groupby(records, self._action)
        return b"".join([self._encoder(*action).encode_run(list(run)) for action, run in runs])

    def _action(self, record: Record) -> tuple[bool, str, int]:
        """Whether it is a deletion, and what its index is named after."""
        topic = record.topic if self._index.by_topic else ""
        day = day_of(record.timestamp) if self._index.by_day else 0
        return record.value is None, topic, day

    def _make_encoder(self, deletes: bool, topic: str, day: int) -> BodyEncoder:
        settings = self._settings
        fields = ['"_id":$id']
        if not self._index.fixed:
            name = _json(self._index.of(topic, day)).decode().replace("$", "$$")
            fields.insert(0, f'"_index":{name}')
        if settings.version == "offset":
            fields.append('"version":$offset,"version_type":"external"')
        action = "delete" if deletes else settings.action
        item = f'{{"{action}":{{{",".join(fields)}}}}}'
        if not deletes:
            item += "\n"
            item += '{"doc":$value,"doc_as_upsert":true}' if action == "update" else "$value"
        body = BodySettings(item, separator="\n", envelope="$items\n")
        return BodyEncoder(body, self._identify, "json")

    def _id_objection(self, record: Record) -> str | None:
        try:
            length = len(self._identify(record).encode())
        except ValueError as error:
            return str(error)
        if not length:
            return "the record's id is empty, and an _id may not be"
        if length > LONGEST_ID:
            return f"the record's id has {length} bytes, and an _id at most {LONGEST_ID}"
        return None


def _day_objection(record: Record) -> str | None:
    if 0 <= day_of(record.timestamp) <= _LAST_DAY:
        return None
    return "the record has no timestamp of a day that sink.index could be named after"


class Cause(msgspec.Struct):
    """Why an item was not done."""

    type: str = ""
    reason: str | None = None
    caused_by: Cause | None = None

    def __str__(self) -> str:
        inner = self.caused_by.reason if self.caused_by is not None else None
        return ": ".join(text for text in (self.type, self.reason, inner) if text)


class Item(msgspec.Struct):
    """What became of one item."""

    status: int
    error: Cause | None = None


class BulkAnswer(msgspec.Struct):
    """The answer as a whole: for each item, in order, an object with the action as its only key."""

    items: list[dict[str, Item]]


_decode = msgspec.json.Decoder(BulkAnswer).decode

# HTTP statuses of a server, or of what stands before it, that does not take _bulk at this address.
_ASTRAY = (404, 405, 406, 415)

# The trouble of an index, and of every document that was ever to go there.
_OF_THE_INDEX = {
    "index_not_found_exception": "create the index, or correct sink.index",
    "index_closed_exception": "open the index",
}
_OF_THE_SERVICE = {
    401: "check the credentials in sink.headers",
    403: "check what the credentials allow, and whether the index is blocked",
    503: "check the health of the index",
}


class BulkReader(ResponseReader):
    """Judges the answers to _bulk.

    An item can fail for what is no fault of its record: the index is missing, closed, blocked, or
    out of reach for the moment. That is an answer about the whole: the batch goes again until
    somebody has seen to it, and no record dies of it. `versioned`: the records carry versions.
    """

    def __init__(
        self,
        settings: HttpSettings,
        identify: Identify,
        scrub: Scrub,
        wall: Callable[[], float],
        *,
        versioned: bool,
    ) -> None:
        super().__init__(settings, identify, scrub, wall)
        # A conflict means that what is there is this record or a newer one.
        self._settled = {"create", "index", "delete"} if versioned else {"create"}

    def outcome(self, batch: Batch, answer: Answer) -> Outcome:
        status = answer.status
        if status in _ASTRAY or (status == 400 and self._unrouted(answer.body)):
            text = f"{self._explained(answer)}; check sink.url: there is no _bulk at that address"
            return Again("status", text, str(status), outage=True)
        return super().outcome(batch, answer)

    def _success(self, batch: Batch, answer: Answer) -> Outcome:
        status = str(answer.status)
        if answer.problem:
            return Again("unknown", answer.problem, status)
        try:
            items = _items(answer.body, len(batch))
            if (trouble := self._trouble(items)) is not None:
                return trouble
            return answered(batch, [self._verdict(*item) for item in items])
        except UnclearError as error:
            return Again("unknown", f"the server answered {status}, but {error}", status)

    def _trouble(self, items: list[tuple[str, Item]]) -> Again | None:
        """What keeps this very request from being taken now, if anything does."""
        for action, item in items:
            if item.error is None or _is_gone(action, item):
                continue
            hint = _OF_THE_INDEX.get(item.error.type) or _OF_THE_SERVICE.get(item.status)
            if hint is not None:
                text = f"{excerpt(str(item.error), self._scrub)}; {hint}"
                # What is not available for the moment may be so again without anybody's help.
                return Again("status", text, str(item.status), outage=item.status != 503)
        return None

    def _verdict(self, action: str, item: Item) -> Verdict:
        status = item.status
        if 200 <= status < 300 or _is_gone(action, item):
            return DELIVERED
        if status == 409:
            if action in self._settled:
                return DELIVERED
            fate = Fate.RETRY  # somebody else was writing the same document
        elif status == 429 or 500 <= status < 600:
            fate = Fate.RETRY
        elif 400 <= status < 500:
            fate = Fate.REJECTED
        else:
            raise UnclearError(f"an item has the status {status}, which means nothing")
        return Verdict(fate, str(status), excerpt(str(item.error or ""), self._scrub))

    def _unrouted(self, body: bytes | bytearray) -> bool:
        """Whether this is how the server refuses what is no request of any of its APIs: where an
        API refuses something, `error` is an object."""
        try:
            return isinstance(at(document_of(body), ("error",)), str)
        except (LookupError, UnclearError):
            return False


def _is_gone(action: str, item: Item) -> bool:
    """Whether the document was to be deleted and is not there, or not even its index."""
    return action == "delete" and item.status == 404


def _items(body: bytes | bytearray, count: int) -> list[tuple[str, Item]]:
    """The action and what became of it, for each of `count` items. Raises UnclearError."""
    try:
        found = _decode(body).items
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UnclearError("its body is not that of a _bulk answer") from None
    if any(len(each) != 1 for each in found):
        raise UnclearError("an item of it has not one action")
    if len(found) != count:
        raise UnclearError(f"for {len(found)} records of {count}")
    return [item for each in found for item in each.items()]

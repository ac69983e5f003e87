"""What an API's headers say about its limits, in the forms that are about.

x-ratelimit-{limit,remaining,reset}-{requests,tokens}            OpenAI and its kin
anthropic-ratelimit-{requests,[input-|output-]tokens}-{limit,remaining,reset}
x-ratelimit-{limit,remaining,reset}, ratelimit-...               of requests
ratelimit: limit=9, remaining=3, reset=5  and  "name";r=3;t=5    drafts of the IETF
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Literal

from ..feedback import Allowance

_PLAIN = re.compile(r"(?:x-)?rate-?limit-(limit|remaining|reset)(-requests|-tokens)?")
_ANTHROPIC = re.compile(
    r"anthropic-ratelimit-(requests|tokens|input-tokens|output-tokens)-(limit|remaining|reset)"
)
_STRUCTURED = re.compile(r"(limit|remaining|reset|[rtq])\s*=\s*(\d+)")
_LONG = {"r": "remaining", "t": "reset", "q": "limit"}

_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?")
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")
_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001)

# A larger number is no number of seconds to come but a time since 1970, in seconds or ms.
_A_TIME, _A_TIME_IN_MS = 1e9, 1e11

What = Literal["requests", "tokens"]


def allowances(headers: Mapping[str, str], now: float) -> tuple[Allowance, ...]:
    """At most one for each kind, the scarcest. `now` is in seconds since 1970.

    A header that cannot be read counts as absent, and without what is left there is nothing to
    tell: it is an API's favour and no reason to take an answer for an unknown one.
    """
    said: dict[tuple[str, str], dict[str, str]] = {}
    for name, text in headers.items():
        for family, kind, field, value in _fields(name.lower(), text):
            said.setdefault((family, kind), {})[field] = value
    scarcest: dict[str, Allowance] = {}
    for (family, kind), fields in said.items():
        found = _allowance(family, kind, fields, now)
        if found is not None:
            before = scarcest.get(found.what)
            if before is None or found.remaining < before.remaining:
                scarcest[found.what] = found
    return tuple(scarcest.values())


def _fields(name: str, text: str) -> Iterable[tuple[str, str, str, str]]:
    """Family, kind, field and value of what a header says of limits."""
    if "ratelimit" not in name and "rate-limit" not in name:
        return ()
    if match := _PLAIN.fullmatch(name):
        kind = (match[2] or "-").removeprefix("-")
        return (("kinds" if kind else "plain", kind or "requests", match[1], text),)
    if match := _ANTHROPIC.fullmatch(name):
        return (("anthropic", match[1], match[2], text),)
    return _structured(text) if name in ("ratelimit", "ratelimit-policy") else ()


def _structured(text: str) -> Iterator[tuple[str, str, str, str]]:
    # Of several policies the first one; a second would need names to tell them apart.
    for field, value in _STRUCTURED.findall(text.partition('", "')[0]):
        yield "structured", "requests", _LONG.get(field, field), value


def _allowance(family: str, kind: str, fields: Mapping[str, str], now: float) -> Allowance | None:
    remaining = _number(fields.get("remaining"))
    if remaining is None:
        return None
    what: What = "requests" if kind == "requests" else "tokens"
    return Allowance(
        what,
        remaining,
        seconds_until(fields.get("reset", ""), now),
        _number(fields.get("limit")),
        # Those that count kinds apart are token buckets: they say when all of it will be back.
        refills=family in ("kinds", "anthropic"),
    )


def _number(text: str | None) -> float | None:
    """The number that a text begins with: "100, 100;w=60" is a hundred."""
    match = _NUMBER.match((text or "").strip())
    return float(match[0]) if match else None


def seconds_until(text: str, now: float) -> float | None:
    """From "12ms" or "6m0s", seconds, seconds since 1970, or RFC 3339. What is over is 0."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number >= _A_TIME_IN_MS:
            number /= 1000
        return max(0.0, number - now) if number >= _A_TIME else number
    if text and (match := _DURATION.fullmatch(text)):
        parts = [float(part or 0) * unit for part, unit in zip(match.groups(), _UNITS, strict=True)]
        return math.fsum(parts)
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0.0, when.timestamp() - now)
    except (ValueError, OverflowError):
        return None

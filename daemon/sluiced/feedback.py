"""What an API tells about its own limits and about what it has counted, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Allowance:
    """So much the API will still take. `reset` is in seconds from the answer on, None if unknown.

    With `refills` what was used comes back bit by bit until it is all there at `reset` (a token
    bucket); without, nothing comes back before (a fixed window). `limit` is the whole of it.
    """

    what: Literal["requests", "tokens"]
    remaining: float
    reset: float | None = None
    limit: float | None = None
    refills: bool = False


@dataclass(frozen=True, slots=True)
class Feedback:
    """Beside the outcome of a request. `tokens` is what the API says that it has counted."""

    allowances: tuple[Allowance, ...] = ()
    tokens: int | None = None

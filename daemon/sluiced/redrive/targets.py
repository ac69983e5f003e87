"""Where redriven records go, as the redrive sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import SluicedError
from ..record import MadeRecord
from .letter import Letter
from .memory import Memory


@dataclass(frozen=True, slots=True)
class Pending:
    """A letter that is to be sent, and the record that it becomes again."""

    letter: Letter
    record: MadeRecord


@dataclass(slots=True)
class Sent:
    """What became of some letters. `remembered` if that is durable already; `error` says why
    this is the last that can be sent. What is in neither list has not been sent, or may not."""

    sent: list[Letter] = field(default_factory=list)
    refused: list[tuple[Letter, str]] = field(default_factory=list)
    remembered: bool = False
    error: SluicedError | None = None


class Target(Protocol):
    size: int  # letters that are sent at once
    transactional: bool  # whether what is remembered is, and so never by whoever was shut out
    warning: str  # what an operator should know before anything is sent, or ""

    async def objection(self, letter: Letter) -> str | None:
        """Why this letter cannot be sent there, or None."""
        ...

    async def send(self, pending: Sequence[Pending], memory: Memory) -> Sent: ...

    async def remember(self, memory: Memory) -> None:
        """Makes what the memory holds durable. Raises SluicedError."""
        ...

"""Errors that reach a person. Each says what is wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")


class SluicedError(Exception):
    """An error that a user can cause or mend; shown as text, never as a traceback.

    `hint` is the next thing to do, in one sentence; it may be empty where the message says it all.
    Neither may hold a secret, a record's body or an address with credentials.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class ConfigError(SluicedError):
    """The configuration cannot be used. Exit code 2."""


class LostRangeError(SluicedError):
    """The checkpoint has fallen off the log: records between it and the log's start are gone.
    Exit code 3."""


class SourceError(SluicedError):
    """The stream cannot be read any more in a way that waiting would not cure."""


class PositionsError(SluicedError):
    """A sink that keeps the checkpoint itself cannot tell now where partitions start."""


class BurialError(SluicedError):
    """A dead letter was not acknowledged, so nothing may be committed past it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about the configuration that a person should know. `key` is a path such as
    kafka.session_timeout; `text` says what is wrong and what to do. Neither holds a secret."""

    key: str
    text: str
    level: Literal["error", "warning"] = "error"
    value: str = ""  # as it is shown

    def __str__(self) -> str:
        subject = f"{self.key} = {self.value}" if self.value else self.key
        colon = "" if self.text.startswith(("is required", "is not available")) else ":"
        return f"{subject}{colon} {self.text}"


async def unwrapped(work: Awaitable[T]) -> T:
    """The work's result. A task group wraps what it raises; one user error in it is what there is
    to say."""
    try:
        return await work
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, SluicedError):
            raise error from None
        raise

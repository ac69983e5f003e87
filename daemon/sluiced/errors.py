"""Errors that reach a person. Each says what is wrong and what to do about it."""

from __future__ import annotations


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
    """The checkpoint has fallen off the log: records between it and the log's start are gone."""


class SourceError(SluicedError):
    """The stream cannot be read any more in a way that waiting would not cure."""


class BurialError(SluicedError):
    """A dead letter was not acknowledged, so nothing may be committed past it."""

"""Durations, sizes and secrets as they stand in the configuration file."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import msgspec

# Fifteen digits are what a float holds exactly, and more than anyone needs.
_NUMBER = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]+)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}


class Duration(float):
    """Seconds, written as "500ms", "2s", "15m", "1h", "1d"."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Duration:
        match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
        if match is None or match[2] not in _SECONDS:
            raise ValueError('expected a duration such as "500ms", "2s", "15m" or "1h"')
        return cls(float(match[1]) * _SECONDS[match[2]])

    def __str__(self) -> str:
        if self and self < 1:
            return f"{float(self) * 1000:.12g}ms"
        for unit in ("d", "h", "m"):
            if self >= _SECONDS[unit] and not float(self) % _SECONDS[unit]:
                return f"{float(self) / _SECONDS[unit]:.12g}{unit}"
        return f"{float(self):.12g}s"


class Patience(float):
    """Seconds after which to give up, or "never" (infinity)."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Patience:
        if text == "never":
            return cls(math.inf)
        try:
            return cls(Duration.parse(text))
        except ValueError as error:
            raise ValueError(f'{error}, or "never"') from None

    def __str__(self) -> str:
        return "never" if math.isinf(self) else str(Duration(self))


class Size(int):
    """Bytes, written as "4MiB", "500KB", "400000B". KB is 1000 bytes, KiB 1024."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Size:
        match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
        if match is None or match[2] not in _BYTES:
            raise ValueError('expected a size such as "4MiB", "500KB" or "400000B"')
        return cls(float(match[1]) * _BYTES[match[2]])

    def __str__(self) -> str:
        for unit in ("GiB", "MiB", "KiB", "GB", "MB", "KB"):
            if self and not self % _BYTES[unit]:
                return f"{self // _BYTES[unit]}{unit}"
        return f"{int(self)}B"


class Secret(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a secret is kept: never the secret itself, so that a printed setting leaks nothing."""

    env: str | None = None
    file: str | None = None
    credential: str | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        named = [n for n in (self.env, self.file, self.credential) if n is not None]
        if len(named) != 1:
            raise ValueError("a secret has exactly one of `env`, `file` and `credential`")
        if self.credential is not None and "/" in self.credential:
            raise ValueError("a credential is a name in $CREDENTIALS_DIRECTORY, not a path")

    def __str__(self) -> str:
        kind = "env" if self.env else "file" if self.file else "credential"
        return f"{kind} {self.env or self.file or self.credential}"

    def reveal(self) -> str:
        """The secret with its prefix, read anew at each call so that a rotated one is seen.

        Raises ValueError (which says where it was looked for, never what was found) when it is
        missing, empty, or holds a character that no header or password may.
        """
        text = self._read().strip("\r\n")
        if not text:
            raise ValueError(f"the secret ({self}) is empty")
        if any(c in text for c in "\r\n\0"):
            raise ValueError(f"the secret ({self}) has more than one line")
        return self.prefix + text

    def _read(self) -> str:
        if self.env is not None:
            if self.env not in os.environ:
                raise ValueError(f"the environment variable {self.env} is not set")
            return os.environ[self.env]
        if self.file is not None:
            path = Path(self.file)
        else:
            directory = os.environ.get("CREDENTIALS_DIRECTORY")
            if directory is None:
                raise ValueError(
                    f"the credential {self.credential} needs $CREDENTIALS_DIRECTORY, "
                    "which systemd sets for LoadCredential="
                )
            path = Path(directory, self.credential or "")
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not UTF-8 text"
            raise ValueError(f"the secret file {path} cannot be read: {why}") from None


def decode(kind: type, value: Any) -> Any:
    """The hook by which msgspec decodes types that are written as a string; raises ValueError."""
    parse = getattr(kind, "parse", None)
    if parse is None:
        raise NotImplementedError(kind)
    return parse(value)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every block of the configuration: immutable, and an unknown key is an error."""

"""Puts values into a TOML file and leaves everything else in it as it is, comments included."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import cast

import tomlkit
from tomlkit.items import Table

from ...config import load
from ...errors import ConfigError, SluicedError


def write(path: Path, values: Mapping[str, int | str]) -> list[str]:
    """A line for each value that changed, "window.max_records: 500 -> 200".

    The file is replaced at once or not at all, and never by one that could not be used. Raises
    SluicedError.
    """
    in_use = load(path)
    try:
        document = tomlkit.parse(path.read_bytes().decode())
        changed = [
            f"{key}: {_set(document, key, value)} -> {value}"
            for key, value in values.items()
            if str(attrgetter(key)(in_use)) != str(value)
        ]
        if changed:
            _replace(path, tomlkit.dumps(document))
    except OSError as error:
        raise SluicedError(
            f"{path} cannot be written: {error.strerror}", "Put the values in by hand."
        ) from None
    return changed


def _at(document: tomlkit.TOMLDocument, key: str) -> object:
    section, _, name = key.partition(".")
    table = document.get(section)
    return table.get(name) if isinstance(table, dict) else None


def _set(document: tomlkit.TOMLDocument, key: str, value: int | str) -> object:
    """What stood there before, "default" if nothing did."""
    section, _, name = key.partition(".")
    before = _at(document, key)
    if section not in document:
        document.add(tomlkit.nl())
        document.add(section, tomlkit.table())
    cast("Table", document[section])[name] = value
    return "default" if before is None else before


def _replace(path: Path, text: str) -> None:
    """By way of a file beside it, which is loaded first: a slip must not reach a daemon."""
    target = path.resolve()  # a link stays one
    status = target.stat()
    handle, name = tempfile.mkstemp(".toml", f".{target.stem}-", target.parent)
    made = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        load(made)
        made.chmod(status.st_mode & 0o7777)
        os.chown(made, status.st_uid, status.st_gid)
        made.replace(target)
    except ConfigError as error:
        raise SluicedError(
            "the values do not go with the rest of the file, which is left as it is: "
            + error.message.replace(str(made), str(path)),
            "Put them in by hand.",
        ) from None
    finally:
        made.unlink(missing_ok=True)

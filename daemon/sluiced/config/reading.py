"""From a path to a Config, or to every problem that can be found without the network.

What only this machine can tell is asked here: how much memory there is, and whether secrets,
certificates and programs are where the file says. The other checks need nothing but the settings.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any, cast

import msgspec

from .. import transform
from ..cgroup import memory_limit
from ..errors import ConfigError, Problem
from ..gate import LimitSettings
from ..sinks import kinds
from .conflicts import conflicts
from .decode import Decoder, secrets
from .settings import Config

# Bytes that the process may need besides [limits] memory, and the least that this may be.
BESIDES = 150 * 10**6
LEAST_MEMORY = 16 * 1024**2

MOST_PROBLEMS = 16  # shown at once: a screen


def load(path: Path) -> Config:
    """Reads a file and checks all that can be checked without the network.

    Secrets and certificates are looked at too, so that a missing one is found now. Raises
    ConfigError that lists every problem.
    """
    decoder = Decoder()
    table = _with_memory(_table(path))
    config = decoder.decode(table, _kind_of(table))
    problems = decoder.problems
    if config is not None:
        problems = [*conflicts(config), *_missing(config)]
    errors = [p for p in problems if p.level == "error"]
    if config is None or errors:
        lines = [str(problem) for problem in errors[:MOST_PROBLEMS]]
        if more := len(errors) - len(lines):
            lines.append(f"and {more} more")
        raise ConfigError(
            "\n  ".join([f"{path} cannot be used:", *lines]),
            "docs/configuration.md describes every key.",
        )
    return config


def _kind_of(table: dict[str, Any]) -> type[Config]:
    """Config, or with the settings of another package's sink in it if the file names one."""
    sink = table.get("sink")
    named = sink.get("type") if isinstance(sink, dict) else None
    if named not in kinds.foreign():
        return Config
    settings = kinds.load_foreign(named)
    made = msgspec.defstruct("Config", [("sink", settings)], bases=(Config,), frozen=True)
    return cast("type[Config]", made)


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", "Give the path of a configuration file."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}", "Save it as UTF-8."
        ) from None
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{path} is not TOML: {why}", "Correct the file there.") from None


def _with_memory(table: dict[str, Any]) -> dict[str, Any]:
    """Where the kernel allows us less than the default needs, the default is less."""
    limits, allowed = table.get("limits", {}), memory_limit()
    if allowed is None or not isinstance(limits, dict) or "memory" in limits:
        return table
    fitting = max(allowed - BESIDES, LEAST_MEMORY)
    if fitting >= LimitSettings().memory:
        return table
    return table | {"limits": limits | {"memory": f"{fitting}B"}}


def _missing(config: Config) -> Iterator[Problem]:
    """What the file refers to and this machine does not have."""
    for key, secret in secrets(config):
        try:
            secret.reveal()
        except ValueError as error:
            yield Problem(key, f"{error}; provide it, or correct where it is looked for")
    if config.record.transform is not None:
        try:
            transform.load(config.record.transform)
        except ValueError as error:
            yield Problem("record.transform", f"{error}; install it where sluiced is installed")
    tls, sasl = config.kafka.tls, config.kafka.sasl
    if tls is not None:
        try:
            tls.context()
        except ConfigError as error:
            key, _, text = error.message.partition(": ")
            yield Problem(key, f"{text}. {error.hint}")
    if sasl is not None and sasl.token_file and not os.access(sasl.token_file, os.R_OK):
        yield Problem("kafka.sasl.token_file", f"{sasl.token_file} cannot be read")
    if sasl is not None and sasl.token_command and which(sasl.token_command[0]) is None:
        yield Problem(
            "kafka.sasl.token_command",
            f"there is no program {sasl.token_command[0]}; give its path, or install it",
        )

"""The configuration file as strict Structs, put together from each module's own settings."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import urlsplit

from . import __version__
from .admin import AdminSettings
from .burial import DeadLetterSettings
from .config_decode import Decoder, Problem, secrets, shown
from .delivery import RetrySettings
from .errors import ConfigError
from .gate import LimitSettings
from .identity import COORDINATES
from .intake import RecordSettings
from .kafka import KafkaSettings
from .logs import LogSettings
from .pipeline import ShutdownSettings
from .sinks.http_settings import HttpSettings
from .units import Secret, Settings
from .window import WindowSettings


class Config(Settings, frozen=True):
    """The whole file."""

    name: str
    kafka: KafkaSettings
    sink: HttpSettings
    dead_letter: DeadLetterSettings
    record: RecordSettings = RecordSettings()
    window: WindowSettings = WindowSettings()
    retry: RetrySettings = RetrySettings()
    limits: LimitSettings = LimitSettings()
    admin: AdminSettings = AdminSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    log: LogSettings = LogSettings()


def _not_yet(what_instead: str) -> str:
    return f"is not available yet in sluiced {__version__}; {what_instead}"


# What the configuration will have, by key or by value. An entry goes when its feature comes.
NOT_YET: dict[str, str | dict[object, str]] = {
    **{
        key: _not_yet("remove it")
        for key in (
            *("window.align", "window.active", "results"),
            *("limits.tokens", "limits.burst", "limits.share"),
            *(
                f"limits.{what}_per_{unit}"
                for what in ("requests", "records", "bytes", "tokens")
                for unit in ("second", "minute", "hour", "day")
            ),
        )
    },
    "window.max_records": {"auto": _not_yet("write a whole number")},
    "limits.max_in_flight": {"auto": _not_yet("write a whole number")},
    "sink.type": {
        kind: _not_yet('the one type so far is "http"')
        for kind in ("elasticsearch", "postgres", "file", "openai-batch", "anthropic-batch")
    },
}

MOST_PROBLEMS = 16  # shown at once: a screen


def load(path: Path) -> Config:
    """Reads a file and checks all that can be checked without the network.

    Secrets and certificates are looked at too, so that a missing one is found now. Raises
    ConfigError that lists every problem.
    """
    decoder = Decoder(NOT_YET)
    config = decoder.decode(_table(path), Config)
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


def conflicts(config: Config) -> list[Problem]:
    """What no single module can see: settings that do not go together.

    Errors are what cannot work; warnings what works otherwise than its author may think.
    """
    return [*_names(config), *_bounds(config), *_times(config), *_identities(config)]


def _names(config: Config) -> Iterator[Problem]:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", config.name):
        yield _error(
            "name", 'expected 1 to 64 letters, digits, ".", "_" and "-"', shown("name", config.name)
        )
    for server in config.kafka.bootstrap_servers:
        if "://" in server or "," in server:
            yield _error("kafka.bootstrap_servers", "an entry is one host:port, without a scheme")
    dead = config.dead_letter.topic
    for key, topics in (("kafka.topics", config.kafka.topics), ("dead_letter.topic", [dead])):
        for topic in topics:
            # The rule of Kafka's own org.apache.kafka.common.internals.Topic.
            if topic is not None and not re.fullmatch(r"(?!\.\.?$)[a-zA-Z0-9._-]{1,249}", topic):
                yield _error(
                    key, "not a topic's name; patterns are not supported", shown(key, topic)
                )
    if dead in config.kafka.topics:
        yield _error(
            "dead_letter.topic",
            "also in kafka.topics, so that refused records would come round for ever; "
            "name another topic",
            shown("dead_letter.topic", dead),
        )


def _bounds(config: Config) -> Iterator[Problem]:
    window, sink, limits = config.window, config.sink, config.limits
    for key in ("max_records", "max_bytes"):
        ours, theirs = getattr(window, key), getattr(sink, key)
        if ours > theirs:
            yield _error(
                f"window.{key}",
                f"more than sink.{key} = {theirs}, what the API takes; lower the first, or raise "
                "the second if the API really takes more",
                ours,
            )
    # A quarter of the memory is aiokafka's fetch buffers. The rest must hold the batches in
    # flight, the window that is open, and one that is closed and waits for its turn.
    batches, room = limits.max_in_flight + 2, limits.memory * 3 // 4
    if batches * window.max_bytes > room:
        yield _error(
            "limits.memory",
            f"too little for windows of window.max_bytes = {window.max_bytes} with "
            f"limits.max_in_flight = {limits.max_in_flight}: three quarters of the memory must "
            f"hold {batches} of them; raise the first or lower one of the others",
            limits.memory,
        )


def _times(config: Config) -> Iterator[Problem]:
    session, sink, drain = config.kafka.session_timeout, config.sink, config.shutdown.drain
    # Kafka's defaults of group.min.session.timeout.ms and group.max.session.timeout.ms.
    if session < 6 or session > 1800:
        yield _warning(
            "kafka.session_timeout",
            "brokers take 6s to 30m unless they are configured for more or less, and would "
            "refuse this; write something between",
            session,
        )
    if sink.timeout > drain:
        yield _warning(
            "shutdown.drain",
            f"less than sink.timeout = {sink.timeout}: a stop may cut off a request, which is "
            "then made again after the next start; raise the first or lower the second",
            drain,
        )
    if config.retry.give_up_after <= sink.timeout:
        yield _warning(
            "retry.give_up_after",
            f"not above sink.timeout = {sink.timeout}, so that one attempt without an answer is "
            'enough to dead-letter its records; raise it, or write "never"',
            config.retry.give_up_after,
        )


def _identities(config: Config) -> Iterator[Problem]:
    record, window, sink = config.record, config.window, config.sink
    around = [sink.url, *(v for v in sink.headers.values() if isinstance(v, str))]
    outside = placeholders(" ".join(around))
    inside = placeholders(sink.body.item)
    if window.collapse and record.id == COORDINATES:
        yield _warning(
            "window.collapse",
            f"no two records have the same {record.id}, so that nothing collapses; set "
            'record.id to "$key" or a pointer such as "/slug"',
        )
    if "topic" in outside and len(config.kafka.topics) > 1 and window.span == "topics":
        yield _error(
            "sink",
            "$topic stands in the URL or a header, but one window holds records of several "
            'topics; set window.span = "partition"',
        )
    body = sink.body.envelope.replace("$items", sink.body.item).lstrip()
    if record.format != "json" and "value" in inside and body.startswith(("{", "[")):
        yield _warning(
            "record.format",
            "values are not checked to be JSON, but sink.body puts them into JSON: one bad value "
            "makes the whole request invalid; use $value_string or $value_base64 in sink.body.item",
            shown("record.format", record.format),
        )
    known_by_value = record.id.startswith("/") and "value" in inside
    if not (
        sink.idempotency_header
        or "batch_id" in outside
        or inside & {"id", "key", "offset"}
        or known_by_value
    ):
        yield _warning(
            "sink.idempotency_header",
            "neither this nor $batch_id in sink.url nor $id in sink.body.item is set: what was in "
            "flight at a crash is sent again, and the API cannot tell that it has it already",
        )
    if any(isinstance(v, Secret) for v in sink.headers.values()) and _in_the_clear(sink.url):
        yield _warning("sink.url", "a secret goes over the network unencrypted; use https")


def placeholders(template: str) -> set[str]:
    """The names after a single dollar sign; "$$" is a dollar sign itself."""
    return set(re.findall(r"\$([a-z_0-9]+)", template.replace("$$", "")))


def _in_the_clear(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return parts.scheme == "http" and not loopback


def _missing(config: Config) -> Iterator[Problem]:
    """What the file refers to and this machine does not have."""
    for key, secret in secrets(config):
        try:
            secret.reveal()
        except ValueError as error:
            yield _error(key, f"{error}; provide it, or correct where it is looked for")
    tls, sasl = config.kafka.tls, config.kafka.sasl
    if tls is not None:
        try:
            tls.context()
        except ConfigError as error:
            key, _, text = error.message.partition(": ")
            yield _error(key, f"{text}. {error.hint}")
    if sasl is not None and sasl.token_file and not os.access(sasl.token_file, os.R_OK):
        yield _error("kafka.sasl.token_file", f"{sasl.token_file} cannot be read")
    if sasl is not None and sasl.token_command and which(sasl.token_command[0]) is None:
        yield _error(
            "kafka.sasl.token_command",
            f"there is no program {sasl.token_command[0]}; give its path, or install it",
        )


def _error(key: str, text: str, value: object = "") -> Problem:
    return Problem(key, text, value=str(value))


def _warning(key: str, text: str, value: object = "") -> Problem:
    return Problem(key, text, "warning", str(value))

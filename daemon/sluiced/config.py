"""The configuration file as strict Structs, put together from each module's own settings."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any, cast

import msgspec
from msgspec.structs import fields

from . import transform
from .admin import AdminSettings
from .attempts import RetrySettings
from .burial import DeadLetterSettings
from .cgroup import memory_limit
from .config_decode import Decoder, secrets, shown
from .errors import ConfigError, Problem
from .gate import LimitSettings
from .identity import COORDINATES
from .intake import RecordSettings
from .kafka import KafkaSettings
from .kafka.results import ResultSettings
from .kafka.source import START_TIMEOUT, rebalance_timeout
from .kafka.watermarks import FreshnessSettings
from .logs import LogSettings
from .pipeline import ShutdownSettings
from .prices import PriceSettings, known_as
from .sinks import kinds
from .sinks.http_settings import HttpSettings
from .sinks.job_settings import JobSettings
from .sinks.settings import Line
from .units import Duration, Settings
from .window import WindowSettings


class Config(Settings, frozen=True):
    """The whole file."""

    name: str
    kafka: KafkaSettings
    sink: kinds.BuiltIn
    dead_letter: DeadLetterSettings
    record: RecordSettings = RecordSettings()
    window: WindowSettings = WindowSettings()
    retry: RetrySettings = RetrySettings()
    limits: LimitSettings = LimitSettings()
    freshness: FreshnessSettings = FreshnessSettings()
    admin: AdminSettings = AdminSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    log: LogSettings = LogSettings()
    results: ResultSettings | None = None
    prices: dict[str, PriceSettings] = msgspec.field(default_factory=dict)

    @property
    def line(self) -> Line:
        """What the sink knows of it."""
        return Line(
            self.name,
            self.kafka.topics,
            self.record,
            self.window,
            group=self.kafka.group_id,
            max_in_flight=self.limits.slots,
        )


# What the configuration will have, by key or by value. An entry goes when its feature comes.
NOT_YET: dict[str, str | dict[object, str]] = {}

# Bytes that the process may need besides [limits] memory, and the least that this may be.
BESIDES = 150 * 10**6
LEAST_MEMORY = 16 * 1024**2

MOST_PROBLEMS = 16  # shown at once: a screen

# A budget of which full windows leave more than the rest of this unused is worth a word.
WORTH_IT = 0.97


def load(path: Path) -> Config:
    """Reads a file and checks all that can be checked without the network.

    Secrets and certificates are looked at too, so that a missing one is found now. Raises
    ConfigError that lists every problem.
    """
    decoder = Decoder(NOT_YET)
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


def conflicts(config: Config) -> list[Problem]:
    """What no single module can see: settings that do not go together.

    Errors are what cannot work; warnings what works otherwise than its author may think.
    """
    return [
        *_names(config),
        *_bounds(config),
        *_budgets(config),
        *_times(config),
        *_hours(config),
        *_identities(config),
        *_retries(config),
        *_results(config),
    ]


def _names(config: Config) -> Iterator[Problem]:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", config.name):
        yield _error(
            "name", 'expected 1 to 64 letters, digits, ".", "_" and "-"', shown("name", config.name)
        )
    for server in config.kafka.bootstrap_servers:
        if "://" in server or "," in server:
            yield _error("kafka.bootstrap_servers", "an entry is one host:port, without a scheme")
    yield from _topics(config)


def _topics(config: Config) -> Iterator[Problem]:
    """Each topic has one purpose."""
    taken: dict[str, str] = {}
    results = None if config.results is None else config.results.topic
    for key, topics, why in (
        ("kafka.topics", config.kafka.topics, ""),
        ("dead_letter.topic", [config.dead_letter.topic], "refused records would come round"),
        ("results.topic", [results], "each answer would become a prompt, and so on"),
        ("freshness.topic", [config.freshness.topic], "watermarks would be sent as records"),
    ):
        for topic in topics:
            if topic is None:
                continue
            # The rule of Kafka's own org.apache.kafka.common.internals.Topic.
            if not re.fullmatch(r"(?!\.\.?$)[a-zA-Z0-9._-]{1,249}", topic):
                yield _error(
                    key, "not a topic's name; patterns are not supported", shown(key, topic)
                )
            other = taken.setdefault(topic, key)
            if other == "kafka.topics" != key:
                yield _error(
                    key,
                    f"also in kafka.topics, so that {why} for ever; name another topic",
                    shown(key, topic),
                )
            elif other != key:
                yield _error(
                    key,
                    f"also {other}, of which whoever reads it expects something else; name another "
                    "topic",
                    shown(key, topic),
                )


def _bounds(config: Config) -> Iterator[Problem]:
    window, sink, limits = config.window, config.sink, config.limits
    for key in ("max_records", "max_bytes"):
        ours, theirs = getattr(window, key), getattr(sink, key)
        if ours != "auto" and ours > theirs:
            yield _error(
                f"window.{key}",
                f"more than sink.{key} = {theirs}, what the API takes; lower the first, or raise "
                "the second if the API really takes more",
                ours,
            )
    # A quarter of the memory is aiokafka's fetch buffers. The rest must hold the batches in
    # flight, the window that is open, and one that is closed and waits for its turn.
    batches, room = limits.slots + 2, limits.memory * 3 // 4
    auto = limits.max_in_flight == "auto"
    slots = f"limits.{'most' if auto else 'max'}_in_flight = {limits.slots}"
    if not auto and limits.most_in_flight != LimitSettings().most_in_flight:
        yield _warning(
            "limits.most_in_flight",
            'nothing is done with it, since limits.max_in_flight is a number; make that "auto", or '
            "remove this",
            limits.most_in_flight,
        )
    if batches * window.max_bytes > room:
        yield _error(
            "limits.memory",
            f"too little for windows of window.max_bytes = {window.max_bytes} with "
            f"{slots}: three quarters of the memory must "
            f"hold {batches} of them; raise the first or lower one of the others",
            limits.memory,
        )


def _budgets(config: Config) -> Iterator[Problem]:
    """A full window is one request, and a budget must be able to let it through."""
    window, limits = config.window, config.limits
    bounded = {"records": "max_records", "bytes": "max_bytes"}
    for name, what, limit in limits.budgets():
        if (field := bounded.get(what)) is None:
            continue
        key, most = f"window.{field}", getattr(window, field)
        if most == "auto":
            continue
        if most > limit:
            yield _error(
                f"limits.{name}",
                f"less than {key} = {most}, so that one full window would exceed it; raise the "
                "first or lower the second",
                getattr(limits, name),
            )
        elif what == "records" and (part := limit // most * most / limit) < WORTH_IT:
            best = limit // -(-limit // most)
            yield _warning(
                f"limits.{name}",
                f"no more than {limit // most} full windows of {key} = {most} fit into it, which "
                f"is {part:.0%} of it; {key} = {best} would use all",
                limit,
            )
    counted = any(what == "tokens" for _, what, _ in limits.budgets())
    if not counted:
        for key, value in (
            ("limits.tokens", limits.tokens),
            ("sink.response.usage", _usage(config)),
        ):
            if value is not None:
                yield _warning(
                    key,
                    "nothing is done with it, since there is no limits.tokens_per_minute nor "
                    "_per_second, _per_hour or _per_day; set one, or remove it",
                    shown(key, value),
                )


def _usage(config: Config) -> str | None:
    sink = config.sink
    return ", ".join(sink.response.usages) or None if isinstance(sink, HttpSettings) else None


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
    if sink.timeout > drain and not isinstance(sink, JobSettings):  # a job is found again
        yield _warning(
            "shutdown.drain",
            f"below sink.timeout = {sink.timeout}: a stop may cut off a request, which is then "
            "made again after the next start; raise the first or lower the second",
            drain,
        )
    connecting = getattr(sink, "connect_timeout", None)
    usual = [f.default for f in fields(type(sink)) if f.name == "connect_timeout"]
    if connecting is not None and connecting not in usual and connecting >= sink.timeout:
        yield _warning(
            "sink.connect_timeout",
            f"not below sink.timeout = {sink.timeout}, which ends an attempt before that; lower "
            "the first or raise the second",
            connecting,
        )
    if (rebalance := rebalance_timeout(drain)) >= START_TIMEOUT:
        yield _warning(
            "shutdown.drain",
            f"a rebalance may take {Duration(rebalance)} with it, and a member that joins "
            f"meanwhile gives up after {Duration(START_TIMEOUT)} and is started anew; lower it, "
            f"and sink.timeout = {sink.timeout} where it would be above it",
            drain,
        )
    if config.retry.give_up_after <= sink.timeout:
        yield _warning(
            "retry.give_up_after",
            f"not above sink.timeout = {sink.timeout}, so that one attempt without an answer is "
            'enough to dead-letter its records; raise it, or write "never"',
            config.retry.give_up_after,
        )


def _hours(config: Config) -> Iterator[Problem]:
    window = config.window
    if window.align is not None and window.max_age < window.align.every:
        yield _warning(
            "window.align",
            f"window.max_age = {window.max_age} closes windows before that: none holds records of "
            "both sides of a multiple, but there are many in between; for one at each multiple "
            f"raise window.max_age to {Duration(window.align.every)} or more",
            shown("window.align", str(window.align)),
        )


def _identities(config: Config) -> Iterator[Problem]:
    window, record = config.window, config.record
    if window.collapse and record.id == COORDINATES:
        yield _warning(
            "window.collapse",
            f"no two records have the same {record.id}, so that nothing collapses; set "
            'record.id to "$key" or a pointer such as "/slug"',
        )
    yield from config.sink.problems(config.line)


def _retries(config: Config) -> Iterator[Problem]:
    after = config.dead_letter.retry_after
    if after is None:
        return
    if config.record.id != COORDINATES:
        yield _warning(
            "dead_letter.retry_after",
            f"a record that is sent back comes after newer ones of the same {config.record.id}: an "
            "API that takes the last one it is given for the newest is set back",
            after,
        )
    if config.kafka.isolation_level == "read_uncommitted":
        yield _warning(
            "kafka.isolation_level",
            "with dead_letter.retry_after, records of transactions that were not completed are "
            'delivered, and then once more; write "read_committed"',
            shown("kafka.isolation_level", config.kafka.isolation_level),
        )


def _results(config: Config) -> Iterator[Problem]:
    results, jobs = config.results, isinstance(config.sink, JobSettings)
    yield from _prices(config)
    if jobs:
        yield from _auto_jobs(config)
    if results is None:
        if jobs:
            yield _error("results.topic", "is required: it is where the answers go")
        return
    if not jobs:
        kind = str(config.sink.__struct_config__.tag)
        yield _error("results", f'a sink of type "{kind}" has no results to write; remove it')


def _auto_jobs(config: Config) -> Iterator[Problem]:
    """How long a job takes says nothing of how large it should be: what serves best is found out
    from answers that come at once."""
    if config.limits.max_in_flight == "auto":
        yield _error(
            "limits.max_in_flight",
            "nothing can be found out from jobs, which take hours; write how many may be submitted "
            "at once, such as 1 (how many are at work is bounded by sink.max_jobs)",
            '"auto"',
        )
    if config.window.max_records == "auto":
        yield _error(
            "window.max_records",
            "nothing can be found out from jobs, which take hours; write how many requests a job "
            f"should hold, at most sink.max_records = {config.sink.max_records}",
            '"auto"',
        )


def _prices(config: Config) -> Iterator[Problem]:
    if not config.prices:
        return
    if not isinstance(config.sink, JobSettings):
        yield _error("prices", "only what a sink of jobs asks for has a price; remove it")
    elif (model := config.sink.model) and known_as(model, config.prices) is None:
        yield _warning(
            "prices",
            f"none for {model}, the model of sink.prompt: its tokens are counted, and its cost is "
            "not; add it",
        )


def _missing(config: Config) -> Iterator[Problem]:
    """What the file refers to and this machine does not have."""
    for key, secret in secrets(config):
        try:
            secret.reveal()
        except ValueError as error:
            yield _error(key, f"{error}; provide it, or correct where it is looked for")
    if config.record.transform is not None:
        try:
            transform.load(config.record.transform)
        except ValueError as error:
            yield _error("record.transform", f"{error}; install it where sluiced is installed")
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

"""What no single module can see: settings that do not go together.

A module's own Struct checks what stands in its table. Here are the checks of tables against each
other, a function for each matter, and they ask nothing but the settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec.structs import fields

from ..errors import Problem
from ..gate import LimitSettings
from ..identity import COORDINATES
from ..kafka.consumer import INT32, START_TIMEOUT, rebalance_timeout
from ..prices import known_as
from ..sinks.http_settings import HttpSettings
from ..sinks.job_settings import JobSettings
from ..units import Duration
from .decode import shown
from .settings import Config

# A budget of which full windows leave more than the rest of this unused is worth a word.
WORTH_IT = 0.97


def conflicts(config: Config) -> list[Problem]:
    """All of them: errors are what cannot work, warnings what works otherwise than its author may
    think."""
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
    for key, value, told in (
        ("kafka.session_timeout", session, session),
        ("shutdown.drain", drain, rebalance_timeout(drain)),
    ):
        if told * 1000 > INT32:
            yield _error(key, "longer than Kafka's protocol can say, 24 days; lower it", value)
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


def _error(key: str, text: str, value: object = "") -> Problem:
    return Problem(key, text, value=str(value))


def _warning(key: str, text: str, value: object = "") -> Problem:
    return Problem(key, text, "warning", str(value))

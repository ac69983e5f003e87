"""Logs: one line per event on stderr, JSON for machines or plain for a terminal.

The libraries' own logging (aiokafka, aiohttp, asyncio) takes the same way out, from WARNING up.
docs/operations.md has a table of our events; a test holds it against the code.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partialmethod
from typing import Any, Literal, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from .units import Settings

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

# A line that a library repeats while a broker is down is shown once in this many seconds.
REPEAT_INTERVAL = 10.0
# Of our own events, so many of a kind may come in that time.
BURST = 20

# Priorities of sd-daemon(3), which the journal takes off the line again.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


class LogSettings(Settings, frozen=True):
    """`[log]`. `auto` is console where stderr is a terminal, and json elsewhere."""

    level: Level = "info"
    format: Format = "auto"


def configure(settings: LogSettings) -> None:
    """Sets up logging for the whole process; may be called again with other settings.

    Loggers from `get` follow a later call. One that was made by `bind` keeps the settings of the
    moment when it was bound, so bind for a task, not for the life of the process.
    """
    console = settings.format == "console" or (settings.format == "auto" and _terminal())
    structlog.configure(
        processors=[
            _named,
            structlog.processors.add_log_level,
            Bursts(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact,
            *(_console() if console else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=_Stderr,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


def get(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `logger=name`. It may be made before `configure` is called."""
    return cast("FilteringBoundLogger", structlog.get_logger(name))


class Repeats(logging.Filter):
    """Lets one line of a kind through per interval, then says how many it held back.

    A kind is a logger and a message template: what varies within the template does not make
    another kind. Errors of a broker that is down would otherwise fill the disk overnight.
    """

    def __init__(
        self,
        interval: float = REPEAT_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
        kinds: int = 1000,
    ) -> None:
        super().__init__()
        self._interval, self._clock, self._kinds = interval, clock, kinds
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.name, str(record.msg))
        now = self._clock()
        since, held = self._seen.get(kind, (-self._interval, 0))
        if now - since < self._interval and kind in self._seen:
            self._seen[kind] = (since, held + 1)
            return False
        if len(self._seen) >= self._kinds:
            self._seen.clear()  # templates built with f-strings are without number
        self._seen[kind] = (now, 0)
        record.suppressed = held
        return True


class Bursts:
    """Lets so many lines of a kind through per interval; the next one says how many it held back.

    A kind is an event of a logger, and the partition where one is named. Lines of level debug all
    come through: whoever asks for them wants to see each batch.
    """

    def __init__(
        self,
        burst: int = BURST,
        interval: float = REPEAT_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
        kinds: int = 1000,
    ) -> None:
        self._burst, self._interval, self._clock, self._kinds = burst, interval, clock, kinds
        self._seen: dict[tuple[str, str, str], tuple[float, int]] = {}

    def __call__(self, _: object, level: str, event: EventDict) -> EventDict:
        if level == "debug":
            return event
        kind = (event.get("logger", ""), str(event["event"]), str(event.get("partition", "")))
        now = self._clock()
        since, count = self._seen.get(kind, (now, 0))
        if now - since >= self._interval:
            if (held := count - self._burst) > 0:
                event["suppressed"] = held
            since, count = now, 0
        if len(self._seen) >= self._kinds:
            self._seen.clear()  # what libraries say is without number
        self._seen[kind] = (since, count + 1)
        if count >= self._burst:
            raise structlog.DropEvent
        return event


class _Bridge(logging.Handler):
    """Hands what libraries log to structlog, so that there is one format and one way out."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(Repeats())

    def emit(self, record: logging.LogRecord) -> None:
        # structlog knows the five standard levels only; a level between two counts as the lower.
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        details: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        if held := getattr(record, "suppressed", 0):
            details["suppressed"] = held
        try:
            get(record.name).log(level, record.getMessage(), **details)
        except Exception:  # a library's wrong format string must not stop the daemon
            self.handleError(record)


class _Stderr:
    """Writes lines. A closed or full stderr loses them, which is better than losing the daemon."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str, level: str = "info") -> None:
        with suppress(OSError, ValueError, AttributeError):
            priority = f"<{_PRIORITIES[level]}>" if _journal() else ""
            sys.stderr.write(f"{priority}{line}\n")
            sys.stderr.flush()

    debug = partialmethod(msg, level="debug")
    info = partialmethod(msg, level="info")
    warning = partialmethod(msg, level="warning")
    error = partialmethod(msg, level="error")
    critical = partialmethod(msg, level="critical")


def _named(logger: _Stderr, _: str, event: EventDict) -> EventDict:
    if logger.name:
        event["logger"] = logger.name
    return event


_SECRET = re.compile(
    r"authorization|passw(or)?d|token|secret|api[-_]?key|private[-_]?key|cookie|credential", re.I
)
_SECRET_IN_TEXT = (
    (re.compile(r"(?<=://)[^/\s@]+(?=@)"), "***"),  # user:password@ of an address
    (re.compile(r"\b(Bearer|Basic) +[\w.~+/=-]{8,}", re.I), r"\1 ***"),
)


def _redact(_: object, __: str, event: EventDict) -> EventDict:
    """The last line of defence: nobody should log a secret; if somebody does, nobody reads it."""
    return cast("EventDict", _clean(event))


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: "***" if _hides(k, v) else _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    for pattern, replacement in _SECRET_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _hides(key: object, value: object) -> bool:
    # A number is not a secret: tokens_per_minute stays readable.
    return bool(_SECRET.search(str(key))) and not isinstance(value, int | float | None)


def _terminal() -> bool:
    with suppress(ValueError, AttributeError):  # closed, or none at all
        return sys.stderr.isatty()
    return False


def _journal() -> bool:
    """Whether stderr goes to systemd's journal, as systemd.exec(5) says how to tell."""
    stream = os.environ.get("JOURNAL_STREAM")
    if not stream:
        return False
    stderr = os.fstat(sys.stderr.fileno())
    return stream == f"{stderr.st_dev}:{stderr.st_ino}"


def _json() -> list[structlog.typing.Processor]:
    return [_in_order, structlog.processors.JSONRenderer()]


def _console() -> list[structlog.typing.Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=_terminal(),
        # The pretty formatters print local variables, and those hold secrets.
        exception_formatter=structlog.dev.plain_traceback,
    )
    return [_printable, renderer]


def _in_order(_: object, __: str, event: EventDict) -> EventDict:
    head = {k: event[k] for k in ("timestamp", "level", "logger", "event") if k in event}
    return {**head, **event}


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _printable(_: object, __: str, event: EventDict) -> EventDict:
    """Keeps what a server or a record wrote from breaking the line or steering the terminal."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception":
            event[key] = _CONTROL.sub(lambda m: repr(m[0])[1:-1], value)
    return event

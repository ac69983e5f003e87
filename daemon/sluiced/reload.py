"""SIGHUP: the file is read again, and what may change in a running daemon changes.

A new configuration is used as a whole or not at all. One that cannot be used, and one that a
running daemon cannot follow, leave everything as it is, a halt included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import structlog
from msgspec.structs import fields

from . import logs, notify
from .bell import Bell
from .config import Config, conflicts, load
from .config.decode import joined
from .errors import ConfigError, SluicedError
from .kafka import KafkaDeadLetters
from .metrics import Metrics
from .pipeline import Pipeline
from .sinks.switch import Switch
from .status import Status
from .units import Settings

log = structlog.get_logger("sluiced.reload")

# aiokafka's fetch buffers get this part of the memory budget, records and requests the rest.
FETCH_SHARE = 0.25

# Whether a key that goes from one value to another needs a restart.
Rule = Callable[[Any, Any], bool]


def _always(old: object, new: object) -> bool:
    return True


def _never(old: object, new: object) -> bool:
    return False


def _lowered(old: float, new: float) -> bool:
    """A batch that is planned already would be split, and go under other ids."""
    return new < old


def _raised(old: float, new: float) -> bool:
    """The group was told when we joined how long we may keep a rebalance waiting."""
    return new > old


def _with_batch_id(old: object, new: object) -> bool:
    """It is what the API knows a batch by, and one may be under way."""
    return any("$batch_id" in text for text in (old, new) if isinstance(text, str))


# One rule for each key, or for a whole block. What is not listed needs a restart.
RULES: Mapping[str, Rule] = {
    "name": _always,
    "kafka": _always,
    "record": _always,
    "window.max_records": _never,
    "window.max_bytes": _never,
    "window.max_age": _never,
    "window.align": _never,
    "window.active": _never,
    "window.span": _always,
    # What is buffered was not asked for the id that collapsing needs.
    "window.collapse": _always,
    "sink.type": _always,
    "sink.url": _with_batch_id,
    "sink.headers": _with_batch_id,
    "sink.connect_timeout": _never,
    "sink.timeout": _never,
    "sink.max_records": _lowered,
    "sink.max_bytes": _lowered,
    # A batch whose outcome is not known yet is sent again as it was, byte for byte; and what is
    # buffered was asked whether it fits into this very body.
    "sink.method": _always,
    "sink.body": _always,
    "sink.compression": _always,
    "sink.identifies": _always,
    "sink.idempotency_header": _always,
    "sink.idempotency_quoted": _always,
    "sink.directory": _always,
    "sink.item": _always,
    "sink.api_key": _never,
    "sink.poll": _never,
    "sink.max_jobs": _never,
    "sink.on_cancel": _never,
    # Jobs at work would not be found there.
    "sink.base_url": _always,
    "sink.endpoint": _always,
    # What may have been submitted is submitted again with the same bytes; and what is buffered was
    # asked whether it fits into this very body.
    "sink.prompt": _always,
    # Where a document of a batch whose outcome is not known may be already, it has to go again.
    "sink.index": _always,
    "sink.action": _always,
    "sink.version": _always,
    "sink.parameters": _always,
    **dict.fromkeys(
        ("sink.dsn", "sink.table", "sink.columns", "sink.mode", "sink.conflict"), _always
    ),
    "sink.response": _never,
    # What is buffered was not asked for the id that such answers are matched by.
    "sink.response.id": _always,
    "sink.response.on_error.id": _always,
    "retry": _never,
    "limits": _never,
    "dead_letter.topic": _always,
    "dead_letter.on_reject": _always,
    "dead_letter.retry_after": _always,
    "dead_letter.max_redrives": _always,
    "dead_letter.max_ratio": _never,
    "dead_letter.max_ratio_window": _never,
    "dead_letter.too_large": _never,
    "freshness": _always,
    "admin": _always,
    "shutdown.drain": _raised,
    "results": _always,
    "prices": _always,
    "log": _never,
}


def rule_of(key: str) -> Rule | None:
    """The rule of the key itself, or of the nearest block that it is in."""
    while key not in RULES and "." in key:
        key = key.rpartition(".")[0]
    return RULES.get(key)


def changes(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The keys that differ, by their paths, with both values."""
    before, after = dict(_values(old)), dict(_values(new))
    keys = dict.fromkeys([*before, *after])
    pairs = {key: (before.get(key), after.get(key)) for key in keys}
    return {key: (was, is_now) for key, (was, is_now) in pairs.items() if was != is_now}


def _values(settings: Settings, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every block and key by its path, a header too. What a missing block would hold is None."""
    if tag := settings.__struct_config__.tag_field:
        yield joined(path, tag), settings.__struct_config__.tag
    for info in fields(settings):
        key, value = joined(path, info.encode_name), getattr(settings, info.name)
        if isinstance(value, Settings):
            yield key, True
            yield from _values(value, key)
        elif isinstance(value, Mapping):
            yield from ((joined(key, name), item) for name, item in value.items())
        else:
            yield key, value


def needing_restart(differing: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Those of the changes that a running daemon cannot follow; a block stands for its keys."""
    found: list[str] = []
    for key, (old, new) in differing.items():
        within = any(key.startswith(f"{block}.") for block in found)
        if not within and (rule_of(key) or _always)(old, new):
            found.append(key)
    return found


def memory(config: Config) -> tuple[int, int]:
    """Bytes for records and requests, and for aiokafka's fetch buffers."""
    fetches = int(config.limits.memory * FETCH_SHARE)
    return config.limits.memory - fetches, fetches


def most_records(config: Config) -> int | None:
    """The largest window, where the daemon is to find out how large it should be."""
    return config.sink.max_records if config.window.max_records == "auto" else None


def longest_attempt(config: Config) -> float:
    """Seconds that one request may take with the pause before it."""
    return config.sink.longest + float(config.retry.max_delay)


class Reload:
    """Reads the file again when asked to, one time after the other."""

    def __init__(
        self,
        config: Config,
        *,
        pipeline: Pipeline,
        sink: Switch[Any],
        dead_letters: KafkaDeadLetters | None,
        status: Status,
        metrics: Metrics,
    ) -> None:
        self.config = config  # in force now
        self._pipeline = pipeline
        self._sink = sink
        self._dead_letters = dead_letters
        self._status = status
        self._metrics = metrics
        self._asked = False
        self._bell = Bell()

    def ask(self) -> None:
        """May be called at any time. Who asks twice before the file is read has it read once."""
        self._asked = True
        self._bell.ring()

    async def run(self, path: Path) -> None:
        """Does what is asked for until it is cancelled. The sink must be open by now."""
        while True:
            while not self._asked:
                await self._bell.heard()
            self._asked = False
            if self._pipeline.tasks.stopping:
                continue
            notify.reloading()
            text = await self.once(path)
            if not self._pipeline.tasks.stopping:
                notify.ready(text)

    async def once(self, path: Path) -> str:
        """Uses what the file says now, or refuses it. Returns what came of it."""
        try:
            changed = await self.use(await anyio.to_thread.run_sync(load, path))
        except SluicedError as error:
            return self._refused(str(error))
        except Exception as error:  # a reload is no reason to stop a daemon that works
            log.exception("reload_failed")
            return self._refused(f"a bug: {type(error).__name__}; please report it")
        log.info("reloaded", changed=changed)
        return "reloaded"

    async def use(self, config: Config) -> list[str]:
        """Goes on by this configuration, and lifts a halt. Returns the keys that have changed.

        Secrets are read anew even where nothing has. Raises ConfigError, and then nothing is
        changed.
        """
        differing = changes(self.config, config)
        if keys := needing_restart(differing):
            raise ConfigError(
                f"these need a restart: {', '.join(keys)}",
                "Nothing of the file is in use. Restart, or put these back and reload.",
            )
        sink = self._sink.current.successor(config.sink)
        await sink.open()
        for problem in conflicts(config):
            log.warning("configuration", key=problem.key, text=problem.text)
        self._adopt(config)
        await self._sink.replace(sink)
        return list(differing)

    def _refused(self, text: str) -> str:
        log.error("reload_refused", error=text)
        self._metrics.reloaded(False)
        self._status.reloaded(time.time(), text)
        return f"reload refused: {text}"

    def _adopt(self, config: Config) -> None:
        """Nothing waits in here, so that nobody sees one half of it."""
        logs.configure(config.log)
        pipeline = self._pipeline
        pipeline.buffer.adopt(config.window)
        pipeline.outflow.adopt(config.limits, most_records(config))
        self._metrics.limits(pipeline.gate.limits)
        pipeline.memory.limit, _ = memory(config)
        pipeline.drain = float(config.shutdown.drain)
        pipeline.adopt_retry(config.retry)
        pipeline.burial.adopt(config.dead_letter)
        if self._dead_letters is not None:
            self._dead_letters.too_large = config.dead_letter.too_large
        self._metrics.reloaded(True)
        self._status.reloaded(time.time(), attempt=longest_attempt(config))
        self.config = config
        pipeline.resume()

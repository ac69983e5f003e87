"""Reads the records, measures, and says what follows from it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import msgspec

from ...config import Config
from ...errors import Problem, SluicedError
from ...kafka.scan import reading
from ...reload import memory
from ...sinks.job_settings import JobSettings
from ..text import Progress
from .advice import Advice, advise
from .allowed import Allowed, Each
from .load import Load, read
from .point import Point
from .sweep import MOST, Sweep
from .trial import Budget, Trial

COPIES = 4  # of the largest request: how many records are read, so that one follows another


@dataclass(frozen=True, slots=True)
class Options:
    """See the command's help."""

    url: str = ""
    requests: int = 500
    minutes: float = 5.0
    at_once: int = MOST


@dataclass(frozen=True, slots=True)
class Tuned:
    """`config` is the one that was used, with the address of --url; `load` what there is to send:
    records, bytes (of values), largest (records of one request) and passing (requests that limits
    let through in the minutes). Without points nothing was sent. `held` are the seconds for which
    each limit has held requests back, of the `seconds` that all has taken."""

    config: Config
    options: Options
    load: Mapping[str, int]
    points: Sequence[Point] = ()
    advice: Advice | None = None
    cut_short: bool = False
    stopped: bool = False
    held: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


async def tune(config: Config, options: Options, stop: anyio.Event, *, send: bool) -> Tuned:
    """Raises SluicedError."""
    if isinstance(config.sink, JobSettings):
        raise SluicedError(
            f"{config.sink.summary}: jobs take hours to be answered, so nothing can be measured",
            "Make jobs as large as the provider takes them; docs/sinks.md tells what bounds them.",
        )
    config = aimed(config, options.url)
    records_memory, fetch_memory = memory(config)
    async with reading(config.kafka) as reader:
        most = COPIES * config.sink.max_records
        load = Load(config, await read(config, reader, most, fetch_memory))
    each = Each.of(config.limits, next(load.batches(load.largest, 1)))
    allowed = Allowed(config.limits, each, longest=float(config.retry.max_delay))
    largest = int(min(load.largest, config.sink.max_records, allowed.largest))
    budget = Budget(options.requests, options.minutes * 60)
    about = {
        "records": load.records,
        "bytes": load.bytes,
        "largest": largest,
        "passing": int(
            min(options.requests, budget.seconds / (allowed.needed(1, 1).seconds or 1e-9))
        ),
    }
    if not send:
        return Tuned(config, options, about)
    sink, progress = (
        config.sink.build(config.line),
        Progress("tuning", options.requests, seconds=budget.seconds),
    )

    def tick(used: int, what: str) -> None:
        progress.note(what)
        progress.show(used)

    trial = Trial(
        sink,
        load,
        budget,
        allowed,
        memory=records_memory,
        stop=stop,
        tick=tick,
    )
    sweep = Sweep(trial.measure, largest, options.at_once, lambda size: allowed.ceiling(size).rate)
    await sink.open()
    try:
        await sweep.run()
    finally:
        progress.end()
        await sink.close()
    return Tuned(
        config,
        options,
        about,
        sweep.points,
        advise(config, sweep.points, options.at_once),
        sweep.cut_short,
        stop.is_set(),
        allowed.held,
        budget.seconds - budget.seconds_left,
    )


def at_once(path: Path, config: Config, asked: int | None) -> int:
    """How many requests at once may be tried: as many as somebody `asked` for, or the bound that
    stands in the file, which may be there for a reason."""
    if asked is not None:
        return asked
    if config.limits.max_in_flight == "auto":
        return config.limits.most_in_flight
    written = tomllib.loads(path.read_text()).get("limits", {})
    return config.limits.max_in_flight if "max_in_flight" in written else MOST


def aimed(config: Config, url: str) -> Config:
    """The configuration with its sink at another address. Raises SluicedError."""
    if not url:
        return config
    if not hasattr(config.sink, "url"):
        raise SluicedError(
            f"--url: a sink of this type has no address: {config.sink.summary}",
            "Leave --url away, or name another file.",
        )
    try:
        sink: Any = msgspec.structs.replace(config.sink, url=url)
    except ValueError as error:
        raise SluicedError(f"--url: {error}") from None
    return msgspec.structs.replace(config, sink=sink)


def warnings(config: Config) -> list[Problem]:
    """What is odd about where it goes: a secret in the clear above all."""
    return [p for p in config.sink.problems(config.line) if p.key == "sink.url"]

"""Whether brokers keep records for as long as they may have to wait: for the hours of
`[window] active`, and for the answers of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from .config import Config
from .kafka.retention import Kept, kept
from .sinks.job_settings import JobSettings
from .units import Duration, Size

# Seconds that a provider may take for a job.
JOB_TAKES = 86_400


async def warnings(config: Config) -> list[str]:
    """A sentence for each topic that may lose records before they are done."""
    if _waiting(config) + _at_work(config) == 0:
        return []
    times = {topic: await kept(config.kafka, topic) for topic in config.kafka.topics}
    return [
        text
        for topic, time in times.items()
        if time is not None
        for text in lost(config, topic, time)
    ]


def lost(config: Config, topic: str, time: Kept) -> Iterator[str]:
    """What is wrong with a topic that keeps its records like this."""
    waiting, working = _waiting(config), _at_work(config)
    keeps = f"{topic} keeps its records for {Duration(time.seconds)} (retention.ms)"
    if time.seconds < waiting:
        yield (
            f"window.active = {config.window.active}: nothing is released for up to "
            f"{Duration(waiting)}, and {keeps}: some are deleted before they are delivered; "
            "lengthen the retention to more than both together with the time to deliver them"
        )
    if working and time.seconds < waiting + working:
        attempts = config.retry.max_item_attempts
        outside = f", after a wait of up to {Duration(waiting)}" if waiting else ""
        yield (
            f"retry.max_item_attempts = {attempts}: a job may take {Duration(working)} with all "
            f"its attempts{outside}, and {keeps}: what is refused after that has no dead letter, "
            "and a restart may find the checkpoint off the log; lengthen the retention to more "
            f"than {Duration(waiting + working)}, or allow fewer attempts"
        )
    if time.bytes < inf and waiting + working:
        yield (
            f"{topic} keeps no more than {Size(time.bytes)} of each partition, however young it is "
            f"(retention.bytes), and records may have to stay there for "
            f"{Duration(waiting + working)}: more than that coming in meanwhile deletes what is "
            "not done; set retention.bytes to -1, or to what comes in in that time"
        )


def _waiting(config: Config) -> int:
    """Seconds for which nothing may be released, at the most."""
    active = config.window.active
    return 0 if active is None else active.longest_wait()


def _at_work(config: Config) -> int:
    """Seconds that jobs of the same records may take one after the other."""
    if not isinstance(config.sink, JobSettings):
        return 0
    return JOB_TAKES * config.retry.max_item_attempts

"""Whether the brokers keep records and letters for as long as `[dead_letter] retry_after` wants."""

from __future__ import annotations

from ..config import Config
from ..kafka.retention import Kept, kept
from ..units import Duration
from .scanning import dead_letter_topic
from .to_topic import FRESH


async def warnings(config: Config) -> list[str]:
    """What brokers would delete too early, a sentence each. Raises SluicedError.

    A letter has the timestamp of its record, and so has the letter of its next death: the last one
    is due when the record is `max_redrives` times `retry_after` old, or somewhat older.
    """
    settings = config.dead_letter
    if settings.retry_after is None:
        return []
    dead = dead_letter_topic(config)
    once, often = float(settings.retry_after), settings.retry_after * settings.max_redrives
    found = []
    if (time := await kept(config.kafka, dead)) is not None:
        wanted = once if time.since_append else often
        if time.seconds <= wanted:
            found.append(_letters(dead, time, wanted))
    for topic in config.kafka.topics:
        time = await kept(config.kafka, topic)
        if time is not None and not time.since_append and time.seconds * FRESH <= often:
            found.append(_records(topic, time, often))
    return found


def _letters(topic: str, time: Kept, wanted: float) -> str:
    return (
        f"dead_letter.retry_after: {topic} keeps letters for {_text(time.seconds)}, and the last "
        f"time that one goes back is after {_text(wanted)} or more: some would be deleted before. "
        "Set its retention.ms to -1, or lower retry_after or max_redrives."
    )


def _records(topic: str, time: Kept, wanted: float) -> str:
    return (
        f"dead_letter.retry_after: {topic} keeps records for {_text(time.seconds)}, and the last "
        f"time that one goes back it is {_text(wanted)} old or more: what has used up {FRESH:.0%} "
        "of that time is left to `sluiced dead-letters redrive --timestamp now`. Lengthen its "
        "retention.ms, or lower retry_after or max_redrives."
    )


def _text(seconds: float) -> str:
    return str(Duration(round(seconds)))

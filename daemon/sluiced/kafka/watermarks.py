"""The watermark topic: how far each partition is visible at the sink, for whoever acts on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import msgspec
import structlog
from aiokafka.errors import KafkaError

from ..units import Duration, Settings
from .client import KafkaSettings, explain
from .topic_producer import TopicProducer

log = structlog.get_logger("sluiced.kafka")

SENT_WITHIN = (2.0, 10.0)  # seconds, at least and at most: what comes after the next is of no use


class FreshnessSettings(Settings, frozen=True):
    """[freshness]"""

    topic: str | None = None
    interval: Duration = Duration(10)

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueError("interval must be at least 1s")


class KafkaWatermarks:
    """Publishes what `marks` answers with: one document for each partition that is assigned.

    They have a `pipeline`, a `topic` and a `partition`, which make the record's key, so that a
    compacted topic keeps the latest of each. What cannot be published is a warning and no more: the
    line goes on, and so do the next ones.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        topic: str,
        interval: float,
        marks: Callable[[], Sequence[dict[str, Any]]],
    ) -> None:
        self._interval = interval
        self._within = min(max(interval, SENT_WITHIN[0]), SENT_WITHIN[1])
        self._marks = marks
        self._failing = False
        self._to = TopicProducer(
            kafka,
            topic,
            what="watermarks",
            option="freshness.topic",
            missing="Create it, or remove [freshness] if nobody reads the watermarks.",
            request_timeout=self._within,
        )

    async def start(self) -> None:
        """Raises SourceError where the topic does not exist or nothing can be written."""
        await self._to.start()

    async def stop(self) -> None:
        await self._to.stop()

    async def run(self) -> None:
        """Publishes at every interval until it is cancelled."""
        while True:
            await anyio.sleep(self._interval)
            await self.publish()

    async def last(self) -> None:
        """What the drain has done. A stop is not held up where it could not be published before."""
        if not self._failing:
            await self.publish()

    async def publish(self) -> None:
        """Once. Logs the first of several failures, and when it works again."""
        try:
            with anyio.fail_after(self._within):
                await self._send(self._marks())
        except (KafkaError, OSError, TimeoutError, AssertionError) as error:
            if not self._failing:
                log.warning("watermarks_not_published", topic=self._to.topic, error=explain(error))
            self._failing = True
            return
        if self._failing:
            log.info("watermarks_published_again", topic=self._to.topic)
        self._failing = False

    async def _send(self, marks: Sequence[dict[str, Any]]) -> None:
        sent = [
            await self._to.client.send(
                self._to.topic,
                key="{pipeline}/{topic}/{partition}".format(**mark).encode(),
                value=msgspec.json.encode(mark),
            )
            for mark in marks
        ]
        for answer in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer

"""A producer for one topic that must be there before there is any need of it."""

from __future__ import annotations

from typing import Any

import anyio
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from ..errors import SourceError
from .client import KafkaSettings, bounded, describe, explain

ACKNOWLEDGED_WITHIN = 60.0  # seconds; a broker that is down for longer halts the pipeline
STOP_TIMEOUT = 5.0
LARGEST = 128 * 1024**2  # bytes that we try to send at most; the broker's own cap decides
GROUPED = 256 * 1024  # bytes in one request to a partition: below every broker's default cap


class TopicProducer:
    """What it sends is acknowledged by all replicas in sync. `what` is written there, in words;
    `option` names the topic in the configuration, and `missing` says what to do without it."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        *,
        what: str,
        option: str,
        missing: str,
        request_timeout: float = 20.0,
    ) -> None:
        self.topic = topic
        self._settings = settings
        self._what = what
        self._option = option
        self._missing = missing
        self._request_timeout = request_timeout
        self._producer: Any = None

    @property
    def client(self) -> Any:
        """The AIOKafkaProducer; once started."""
        return self._producer

    async def start(self) -> None:
        """Raises SourceError where the topic does not exist or no broker can be reached."""
        if self.topic not in await describe(self._settings, [self.topic]):
            raise SourceError(
                f"{self._option}: {self.topic} does not exist, or may not be described",
                self._missing,
            )
        self._producer = AIOKafkaProducer(
            **self._settings.client(),
            acks="all",
            max_request_size=LARGEST,
            max_batch_size=GROUPED,
            request_timeout_ms=int(self._request_timeout * 1000),
        )
        try:
            with anyio.fail_after(ACKNOWLEDGED_WITHIN):
                await self._producer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            raise SourceError(f"{self._what} cannot be written: {explain(error)}") from None

    async def stop(self) -> None:
        if self._producer is not None:
            what = f"stopping the producer of {self._what}"
            await bounded(self._producer.stop(), STOP_TIMEOUT, what)

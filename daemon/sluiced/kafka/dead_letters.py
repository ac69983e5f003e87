"""The dead-letter topic: original bytes, and headers that say why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import anyio
import msgspec
import structlog
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from ..errors import BurialError
from ..ports import DeadLetter
from ..record import REDRIVES
from .client import KafkaSettings, explain
from .topic_producer import ACKNOWLEDGED_WITHIN, TopicProducer

log = structlog.get_logger("sluiced.kafka")

CONNECT = "__connect.errors."
OURS = (
    *(CONNECT + name for name in ("topic", "partition", "offset", "connector.name", "stage")),
    *(CONNECT + "exception." + name for name in ("class.name", "message")),
    *("sluiced." + name for name in ("reason", "status", "attempts", "batch", "group")),
    *("sluiced." + name for name in ("failed_at", "stub", "redrives")),
)


class KafkaDeadLetters:
    """Implements ports.DeadLetters."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        topic: str,
        pipeline: str,
        too_large: Literal["stub", "halt"],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self.too_large = too_large
        self._now = now
        self._to = TopicProducer(
            settings,
            topic,
            what="dead letters",
            option="dead_letter.topic",
            missing="Create it before the start: records must never be refused into nowhere.",
        )

    async def start(self) -> None:
        """Raises SourceError where the topic does not exist: it must be there before any need."""
        await self._to.start()

    async def stop(self) -> None:
        await self._to.stop()

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """See ports.DeadLetters. Letters are sent together and acknowledged each."""
        try:
            with anyio.fail_after(ACKNOWLEDGED_WITHIN):
                answers = await self._send_all(letters)
                for letter, answer in zip(letters, answers, strict=True):
                    if isinstance(answer, MessageSizeTooLargeError):
                        await self._send_alone(letter)
                    elif isinstance(answer, BaseException):
                        raise answer
        except (KafkaError, OSError, TimeoutError, AssertionError) as error:
            raise BurialError(
                f"a dead letter could not be written to {self._to.topic}: {explain(error)}; "
                "nothing will be committed past it. Make the topic writable, then send SIGHUP "
                "or restart"
            ) from error

    async def _send_all(self, letters: Sequence[DeadLetter]) -> list[Any]:
        futures = [await self._send(letter, letter.record.value) for letter in letters]
        return await asyncio.gather(*futures, return_exceptions=True)

    async def _send_alone(self, letter: DeadLetter) -> None:
        """The broker took a request for too large: perhaps only because of its company."""
        try:
            await (await self._send(letter, letter.record.value))
        except MessageSizeTooLargeError:
            r = letter.record
            log.warning(
                "dead_letter_too_large",
                record=f"{r.topic}/{r.partition}/{r.offset}",
                bytes=len(r.value or b""),
                hint="Raise max.message.bytes of the dead-letter topic to keep such records whole.",
            )
            if self.too_large == "halt":
                raise
            await (await self._send(letter, stub_of(letter), stub=True))

    async def _send(
        self, letter: DeadLetter, value: bytes | None, *, stub: bool = False
    ) -> asyncio.Future[Any]:
        record = letter.record
        headers = self._headers(letter, stub=stub)
        timestamp = record.timestamp if record.timestamp >= 0 else None
        if value is None and record.key is None:
            # send() refuses a record without key and value; a batch of one takes it as it is.
            batch = self._to.client.create_batch()
            batch.append(key=None, value=None, timestamp=timestamp, headers=headers)
            batch.close()
            future: asyncio.Future[Any] = await self._to.client.send_batch(
                batch, self._to.topic, partition=0
            )
            return future
        try:
            sent: asyncio.Future[Any] = await self._to.client.send(
                self._to.topic,
                value=value,
                key=record.key,
                timestamp_ms=timestamp,
                headers=headers,
            )
        except MessageSizeTooLargeError as error:
            sent = asyncio.get_running_loop().create_future()
            sent.set_exception(error)
        return sent

    def _headers(self, letter: DeadLetter, *, stub: bool) -> list[tuple[str, bytes]]:
        record = letter.record
        kept = [(k, v) for k, v in record.headers if k not in OURS]
        redrives = [(k, v) for k, v in record.headers if k == REDRIVES]
        invalid = letter.reason == "invalid"
        added = {
            CONNECT + "topic": record.topic,
            CONNECT + "partition": str(record.partition),
            CONNECT + "offset": str(record.offset),
            CONNECT + "connector.name": self._pipeline,
            CONNECT + "stage": "VALUE_CONVERTER" if invalid else "TASK_PUT",
            CONNECT + "exception.class.name": f"sluiced.{letter.reason}",
            CONNECT + "exception.message": letter.error,
            "sluiced.reason": letter.reason,
            "sluiced.attempts": str(letter.attempts),
            "sluiced.group": self._settings.group_id,
            "sluiced.failed_at": self._now()
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
        }
        if letter.status:
            added["sluiced.status"] = letter.status
        if letter.batch:
            added["sluiced.batch"] = letter.batch
        if stub:
            added["sluiced.stub"] = "true"
        # What a text repeats of a record or of an answer may be no UTF-8.
        ours = ((k, v.encode(errors="backslashreplace")) for k, v in added.items())
        return [*kept, *redrives, *ours]


def stub_of(letter: DeadLetter) -> bytes:
    """What stands for a value that the broker does not take: where to find it, and its size."""
    record = letter.record
    return msgspec.json.encode(
        {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "size": len(record.value or b""),
        }
    )

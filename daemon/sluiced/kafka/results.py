"""The topic of results: the prompt's key, the answer, and headers that lead back to the prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio
import msgspec
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from ..errors import BurialError
from ..identity import resolve, tokens_of
from ..ports import JobAnswer
from ..units import Settings
from .client import KafkaSettings, explain
from .topic_producer import ACKNOWLEDGED_WITHIN, TopicProducer


class ResultSettings(Settings, frozen=True):
    """[results]. `value` is "" for the whole answer, or a JSON pointer to a part of it."""

    topic: str
    value: str = ""

    def __post_init__(self) -> None:
        try:
            tokens_of(self.value)
        except ValueError as error:
            raise ValueError(f"value: {error}") from None


class KafkaResults:
    """Implements ports.Answers."""

    def __init__(self, settings: KafkaSettings, results: ResultSettings) -> None:
        self._value = tokens_of(results.value)
        self._to = TopicProducer(
            settings,
            results.topic,
            what="results",
            option="results.topic",
            missing="Create it before the start: there must be a place for what is paid for.",
        )

    async def start(self) -> None:
        """Raises SourceError where the topic does not exist."""
        await self._to.start()

    async def stop(self) -> None:
        await self._to.stop()

    async def write(self, answers: Sequence[JobAnswer]) -> None:
        """See ports.Answers."""
        try:
            with anyio.fail_after(ACKNOWLEDGED_WITHIN):
                sent = [
                    await self._to.client.send(
                        self._to.topic,
                        key=answer.key,
                        value=part_of(answer.result.body, self._value),
                        headers=_headers(answer),
                    )
                    for answer in answers
                ]
                await asyncio.gather(*sent)
        except (KafkaError, OSError, TimeoutError) as error:
            remedy = "Make the topic writable"
            if isinstance(error, MessageSizeTooLargeError):  # pictures, for example
                remedy = (
                    "Raise its max.message.bytes, or name a part of the answer as results.value"
                )
            raise BurialError(
                f"a result could not be written to {self._to.topic}: {explain(error)}; nothing "
                f"will be committed past it. {remedy}, then send SIGHUP or restart"
            ) from error


def part_of(body: bytes, tokens: tuple[str, ...]) -> bytes:
    """What stands there in an answer: a string as its own text, anything else as JSON. The whole
    answer where there is nothing."""
    if not tokens:
        return body
    try:
        found = resolve(msgspec.json.decode(body), tokens)
    except (msgspec.DecodeError, LookupError, UnicodeDecodeError, RecursionError):
        return body
    return found.encode() if isinstance(found, str) else msgspec.json.encode(found)


def _headers(answer: JobAnswer) -> list[tuple[str, bytes]]:
    result = answer.result
    named = {
        "topic": answer.tp.topic,
        "partition": answer.tp.partition,
        "offset": answer.offset,
        "job": answer.job,
        "model": result.model,
        "status": result.verdict.status,
        "input_tokens": result.input_tokens or "",
        "output_tokens": result.output_tokens or "",
    }
    return [
        (f"sluiced.{name}", str(value).encode()) for name, value in named.items() if value != ""
    ]

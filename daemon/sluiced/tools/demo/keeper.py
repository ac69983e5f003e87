"""A port in front of the embedded broker that keeps what it drops: the metadata of commits.

Apache Kafka keeps the text that comes along with a committed offset and hands it out again with
the offset. Tansu takes it and forgets it. Where a demo is about what stands in that text, this
passes all bytes on, remembers the texts of commits that were acknowledged, and puts them into the
answers of those who ask for the offsets.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any, Self

from aiokafka.protocol import commit
from aiokafka.protocol.types import String

# By version: how commits and the questions for them look. aiokafka knows no later ones, so that
# none of its clients asks in them; they would pass as they are.
COMMITS = {2: commit.OffsetCommitRequest_v2, 3: commit.OffsetCommitRequest_v3}
FETCHES = {
    1: commit.OffsetFetchRequest_v1,
    2: commit.OffsetFetchRequest_v2,
    3: commit.OffsetFetchRequest_v3,
}
COMMIT, FETCH = 8, 9
HEADER = 8  # bytes: key, version and correlation id

Place = tuple[str, str, int]  # group, topic, partition
Answer = Callable[[bytes], bytes]  # what becomes of a response, without its correlation id


class Keeper:
    """Listens on a loopback port for as long as it is entered. `kept` is what was acknowledged."""

    def __init__(self, port: int, broker: int) -> None:
        self.kept: dict[Place, tuple[int, str]] = {}
        self._port = port
        self._broker = broker
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, near: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        writers = [client]
        try:
            far, broker = await asyncio.open_connection("127.0.0.1", self._broker)
            writers.append(broker)
            expected: dict[int, Answer] = {}  # by correlation id
            async with asyncio.TaskGroup() as both:  # when one side is gone, both are
                both.create_task(self._requests(near, broker, expected))
                both.create_task(self._answers(far, client, expected))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for writer in writers:
                writer.transport.abort()
            self._open.discard(task)

    async def _requests(
        self,
        client: asyncio.StreamReader,
        broker: asyncio.StreamWriter,
        expected: dict[int, Answer],
    ) -> None:
        while True:
            frame = await _frame(client)
            key, version, number = struct.unpack_from(">hhi", frame)
            if (key == COMMIT and version in COMMITS) or (key == FETCH and version in FETCHES):
                body = BytesIO(frame)
                body.seek(HEADER)
                String().decode(body)  # the client's id
                if key == COMMIT:
                    expected[number] = self._committing(COMMITS[version].decode(body), version)
                else:
                    expected[number] = self._asking(FETCHES[version].decode(body), version)
            broker.write(_framed(frame))
            await broker.drain()

    async def _answers(
        self,
        broker: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        expected: dict[int, Answer],
    ) -> None:
        while True:
            frame = await _frame(broker)
            (number,) = struct.unpack_from(">i", frame)
            if (change := expected.pop(number, None)) is not None:
                frame = frame[:4] + change(frame[4:])
            client.write(_framed(frame))
            await client.drain()

    def _committing(self, request: Any, version: int) -> Answer:
        """Of a commit: what was acknowledged is kept."""
        marks = {
            (request.consumer_group, topic, partition): (offset, metadata or "")
            for topic, partitions in request.topics
            for partition, offset, metadata in partitions
        }

        def answered(body: bytes) -> bytes:
            answer: Any = COMMITS[version].RESPONSE_TYPE.decode(body)
            for topic, partitions in answer.topics:
                for partition, error in partitions:
                    if error == 0:
                        place = (request.consumer_group, topic, partition)
                        self.kept[place] = marks[place]
            return body

        return answered

    def _asking(self, request: Any, version: int) -> Answer:
        """Of a question for offsets: what is kept is put in."""

        def answered(body: bytes) -> bytes:
            answer: Any = FETCHES[version].RESPONSE_TYPE.decode(body)
            answer.topics = [
                (topic, [self._completed((request.consumer_group, topic), p) for p in partitions])
                for topic, partitions in answer.topics
            ]
            return bytes(answer.encode())

        return answered

    def _completed(self, where: tuple[str, str], told: tuple[int, int, str, int]) -> Any:
        partition, offset, metadata, error = told
        at, kept = self.kept.get((*where, partition), (-1, ""))
        return partition, offset, kept if at == offset else metadata, error


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(length)


def _framed(frame: bytes) -> bytes:
    return struct.pack(">i", len(frame)) + frame

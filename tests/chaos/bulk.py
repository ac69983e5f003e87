"""Records to a bulk API that honours an idempotency key: see `sink`."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from brokers.base import Message

from .audit import Evidence, Findings, audit
from .records import kind_of, message
from .sink import Coordinates, SinkProcess
from .subject import Span, Stage

_COORDINATES = "__connect.errors."

_RESPONSE = """\
[sink.response]
items = "/items"
status = "/status"
error = "/error"
"""


class Bulk:
    """Implements subject.Subject. With windows for each partition nothing at all may be applied
    twice; a window over several may be torn apart by a rebalance, and then some of it may."""

    counted: frozenset[str] = frozenset()

    def __init__(self, span: Span = "partition") -> None:
        self._span = span
        self._strict = span == "partition"
        self.sound = "nothing lost" + ", nothing twice" * self._strict
        # Nobody else writes metadata here, and no record ever leaves the log. A batch over several
        # partitions may change when it is taken apart.
        torn = {"planned_batch_changed", "planned_batches_taken_apart"}
        self.never = {"foreign_metadata"} | (torn if self._strict else set())

    def __str__(self) -> str:
        return f"windows over {self._span}"

    def topics(self, stage: Stage) -> Sequence[str]:
        return ()

    def api(self, stage: Stage, seed: int) -> SinkProcess:
        self._sink = SinkProcess(seed, stage.directory / "journal")
        return self._sink

    def settings(self, stage: Stage, url: str) -> dict[str, str]:
        return {
            "url": f"{url}/bulk",
            "window": f'span = "{self._span}"',
            "limits": "max_in_flight = 2",
            "sink": 'timeout = "5s"\nconnect_timeout = "2s"',
            "blocks": _RESPONSE,
        }

    def message(self, number: int, partitions: int, random: Random) -> Message:
        return message(number, partitions, random)

    async def watch(self, stage: Stage) -> None:
        """The sink's journal tells it all afterwards."""

    async def audit(self, stage: Stage, acknowledged: int) -> Findings:
        records = await stage.kafka.read(stage.topic)
        letters: list[tuple[Coordinates, str]] = []
        for letter in await stage.kafka.read(stage.dead):
            headers = dict(letter.headers)
            place = [int(headers[_COORDINATES + each]) for each in ("partition", "offset")]
            letters.append(((place[0], place[1]), headers["sluiced.reason"].decode()))
        evidence = Evidence(
            log={
                (r.partition, r.offset): ((r.key or b"").decode(), kind_of(r.value))
                for r in records
            },
            acknowledged=acknowledged,
            attempts=self._sink.attempts(),
            letters=letters,
            committed=await stage.committed(),
            ends=await stage.kafka.end_offsets(stage.topic),
        )
        return audit(evidence, strict=self._strict)

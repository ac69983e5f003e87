"""Prompts to a provider of batch jobs, and what comes back: see `provider`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from random import Random
from typing import Any

import anyio
from aiokafka.errors import KafkaError

from brokers.base import Message
from harness.daemon import JOBS

from .audit import Findings
from .book import digest
from .prompts_audit import Evidence, Letter, Result, audit
from .provider import Company, ProviderProcess
from .records import kind_of, prompt
from .sink import Coordinates
from .subject import Span, Stage

_ATTEMPTS = 6  # [retry] max_item_attempts
_LOOK_EVERY = 0.5  # seconds between two looks at what is committed


class Prompts:
    """Implements subject.Subject. A provider that keeps the names of jobs never gets one twice."""

    counted = frozenset(
        {"job_adopted", "job_failed", "job_submitted", "job_taken_in", "batch_split"}
    )

    def __init__(self, company: Company, span: Span = "partition") -> None:
        self._company = company
        self._span = span
        self._named = company == "openai"
        self._seen: list[tuple[float, dict[int, int]]] = []
        self.sound = "no prompt lost, each answered or dead-lettered once"
        self.sound += ", none submitted twice" * self._named
        torn = {"planned_batch_changed", "planned_batches_taken_apart"}
        self.never = {"foreign_metadata", "originals_lost"}
        self.never |= torn if span == "partition" else set()

    def __str__(self) -> str:
        return f"jobs at {self._company}, windows over {self._span}"

    def topics(self, stage: Stage) -> Sequence[str]:
        return (f"{stage.topic}.answers",)

    def api(self, stage: Stage, seed: int) -> ProviderProcess:
        self._provider = ProviderProcess(self._company, seed)
        return self._provider

    def settings(self, stage: Stage, url: str) -> dict[str, str]:
        key = stage.directory / "key"
        key.write_text("sk-0123456789")
        key.chmod(0o600)
        return {
            "config": JOBS,
            "type": f"{self._company}-batch",
            "url": url,
            "key": f'{{ file = "{key}" }}',
            "window": f'span = "{self._span}"',
            "max_age": "300ms",
            "sink": 'timeout = "5s"\nconnect_timeout = "2s"',
            "results": "",
            "retry": f"max_item_attempts = {_ATTEMPTS}",
            "limits": "max_in_flight = 4",
            "drain": "30s",
        }

    def message(self, number: int, partitions: int, random: Random) -> Message:
        return prompt(number, partitions, random)

    async def watch(self, stage: Stage) -> None:
        """Writes down what is committed, of which the audit asks whether it was done by then."""
        while True:
            with suppress(KafkaError, OSError, TimeoutError), anyio.CancelScope(shield=True):
                committed = await stage.committed()  # or the broker is down just now
                self._seen.append((time.time(), committed))
            await anyio.sleep(_LOOK_EVERY)

    async def audit(self, stage: Stage, acknowledged: int) -> Findings:
        kafka = stage.kafka
        records = await kafka.read(stage.topic)
        log = {(r.partition, r.offset): r for r in records}
        book = self._provider.book()
        (stage.directory / "book.json").write_text(json.dumps(book.document()))
        evidence = Evidence(
            log={at: ((r.key or b"").decode(), kind_of(r.value)) for at, r in log.items()},
            acknowledged=acknowledged,
            results=[_result(r) for r in await kafka.read(f"{stage.topic}.answers")],
            letters=[_letter(r, log) for r in await kafka.read(stage.dead)],
            book=book,
            committed=await kafka.committed(stage.group, stage.topic),
            ends=await kafka.end_offsets(stage.topic),
            attempts=_ATTEMPTS,
            headers={
                "sluiced.topic": stage.topic,
                "sluiced.model": "m",
                "sluiced.output_tokens": "9",
            },
            seen=self._seen,
        )
        return audit(evidence, named=self._named)


def _result(record: Any) -> Result:
    headers = {name: value.decode() for name, value in record.headers}
    place = int(headers["sluiced.partition"]), int(headers["sluiced.offset"])
    key = (record.key or b"").decode()
    return Result(place, key, digest(record.value), headers, record.timestamp / 1000)


def _letter(record: Any, log: dict[Coordinates, Any]) -> Letter:
    headers = {name: value.decode() for name, value in record.headers}
    at = datetime.fromisoformat(headers["sluiced.failed_at"]).timestamp()
    place = (
        int(headers["__connect.errors.partition"]),
        int(headers["__connect.errors.offset"]),
    )
    of = log.get(place)
    whole = of is not None and (record.key, record.value) == (of.key, of.value)
    return Letter(place, headers["sluiced.reason"], whole, at)

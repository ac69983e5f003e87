"""The suite that every sink of jobs passes, on ours, against the stand-ins for their providers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from providers.anthropic import Anthropic
from sluiced.sinks.job_settings import (
    AnthropicBatchSettings,
    ConfiguredJobs,
    JobSettings,
    OpenAIBatchSettings,
    ProviderSettings,
)
from sluiced.testing import JobContract, JobStand, read
from sluiced.tools.demo.openai_api import OpenAI
from sluiced.tools.demo.provider import Pace, Provider, served


class AtProvider(JobStand):
    """Time passes for both sides by a clock of the test's."""

    bad = b'{"no":"model"}'
    kind: type[ProviderSettings]
    api: Provider
    content: str  # the verb by which results are had

    def __init__(self) -> None:
        self._now = 1_790_000_000.0
        self._url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AtProvider]:
        async with served(self.api) as url:
            self._url = url
            yield self

    def clock(self) -> float:
        return self._now

    def settings(self, **keys: Any) -> JobSettings:
        keys = {"base_url": f"{self._url}/v1", "api_key": {"env": "API_KEY"}, **keys}
        return read(self.kind, **keys)

    @asynccontextmanager
    async def sink(self, **keys: Any) -> AsyncIterator[ConfiguredJobs]:
        async with super().sink(**keys) as made:
            made.clock = self.clock  # type: ignore[attr-defined]
            yield made

    def value(self, n: int) -> bytes:
        message = {"role": "user", "content": f"number {n}"}
        return json.dumps({"model": "m", "max_tokens": 9, "messages": [message]}).encode()

    def number(self, body: bytes) -> int:
        [number] = re.findall(rb"heard: number (\d+)", body)
        return int(number)

    async def jobs(self) -> int:
        return len(self.api.jobs)

    async def begin(self) -> None:
        await self.wait(50)

    async def finish(self) -> None:
        await self.wait(200)

    async def wait(self, seconds: float) -> None:
        self._now += seconds

    @asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        for verb in ("upload", "files", "create", "batches", "poll", "cancel", self.content):
            self.api.faults[f"{verb} unavailable"] = 99
        yield
        self.api.faults.clear()

    @asynccontextmanager
    async def lost(self) -> AsyncIterator[None]:
        self.api.faults["create lost"] = 1
        yield
        assert self.api.faults["create lost"] == 0

    @asynccontextmanager
    async def broken(self) -> AsyncIterator[None]:
        self.api.faults[f"{self.content} cut"] = 1
        yield
        assert self.api.faults[f"{self.content} cut"] == 0


class AtOpenAI(AtProvider):
    kind = OpenAIBatchSettings
    content = "content"
    once = True

    def __init__(self) -> None:
        super().__init__()
        self.api = OpenAI(Pace(working=100, finalizing=20), self.clock)
        self.api.results = {"unordered"}


class AtAnthropic(AtProvider):
    kind = AnthropicBatchSettings
    content = "results"

    def __init__(self) -> None:
        super().__init__()
        self.api = Anthropic(Pace(working=100, finalizing=20), self.clock)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "sk-secret")


class TestOpenAI(JobContract):
    @pytest.fixture
    async def stand(self) -> AsyncIterator[JobStand]:
        async with AtOpenAI().running() as stand:
            yield stand


class TestAnthropic(JobContract):
    @pytest.fixture
    async def stand(self) -> AsyncIterator[JobStand]:
        async with AtAnthropic().running() as stand:
            yield stand

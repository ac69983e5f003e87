"""What the sinks have in common that make jobs: `[sink]`; and what those of providers have."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import urlsplit

from msgspec import Meta

from ..errors import Problem
from ..intake import Format
from ..ports import SILENCE, JobSink, OnCancel
from ..prices import Usage
from ..units import Duration, Secret, Size
from . import estimate
from .http_settings import in_the_clear, names_a_host
from .prompt import Prompt
from .settings import ConfiguredSink, Line, SinkSettings
from .uploads import SLOWEST

Endpoint = Literal[
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
]

# What a body must have, where it is made here.
REQUIRED: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("model", "messages"),
    "/v1/responses": ("model", "input"),
    "/v1/embeddings": ("model", "input"),
    "/v1/completions": ("model", "prompt"),
    "/v1/moderations": ("input",),
    "/v1/images/generations": ("prompt",),
    "/v1/images/edits": ("prompt",),
    "/v1/videos": ("prompt",),
    "/v1/messages": ("model", "max_tokens", "messages"),
}


class ConfiguredJobs(ConfiguredSink, JobSink, Protocol):
    """What a configuration of jobs is built into."""


class JobSettings(SinkSettings, frozen=True, kw_only=True):
    """[sink] of whatever makes a job of a batch.

    `poll` is how often a job is looked at, at first; `max_jobs` how many may be at work at once;
    `on_cancel` what becomes of what a job had not done when somebody cancelled it.
    """

    poll: Duration = Duration(30)
    max_jobs: Annotated[int, Meta(ge=1)] = 20
    on_cancel: OnCancel = "again"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.poll <= 0:
            raise ValueError("poll must be more than 0s")
        if self.poll > SILENCE:
            raise ValueError(
                f"poll must be at most {Duration(SILENCE)}: an API that has said nothing of a job "
                "for longer counts as silent"
            )

    @property
    def identified_by(self) -> Literal["batch"]:
        return "batch"

    @property
    def model(self) -> str:
        """That of all requests; "" where records say it, or where there is none."""
        return ""

    @property
    def least(self) -> Usage | None:
        """What the request for a record takes that brings nothing; None where that is not known."""
        return None

    @abstractmethod
    def build(self, line: Line) -> ConfiguredJobs:
        """See SinkSettings."""

    def problems(self, line: Line) -> Iterator[Problem]:
        if line.window.collapse:
            yield Problem("window.collapse", "a job's records do not collapse; remove it")


class ProviderSettings(JobSettings, frozen=True, kw_only=True):
    """[sink] of an API of jobs over HTTP.

    `timeout` counts from the last byte of a request: see `uploads`. `prompt` is the body of a
    request with holes for what a record says; without it a record is one.
    """

    api_key: Secret
    base_url: str
    timeout: Duration = Duration(300)
    connect_timeout: Duration = Duration(10)
    prompt: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError('base_url must look like "https://host/path", without a user')
        if not names_a_host(parts.hostname):
            raise ValueError("base_url: a part of its host is empty or too long; correct it")
        if parts.query or parts.fragment:
            raise ValueError("base_url takes no query and no fragment")
        if self.connect_timeout <= 0:
            raise ValueError("connect_timeout must be more than 0s")
        if self.prompt is not None:
            try:
                Prompt(self.prompt)
            except ValueError as error:
                raise ValueError(f"prompt: {error}") from None

    @property
    def asks(self) -> str:
        """The path that a single request would have; "" if nothing is known of what it needs."""
        return ""

    @property
    def longest(self) -> float:
        return super().longest + self.max_bytes / SLOWEST

    @property
    def least(self) -> Usage | None:
        if self.prompt is None:
            return None
        return estimate.of(Prompt(self.prompt).constant, self.asks)

    @property
    def model(self) -> str:
        found = (self.prompt or {}).get("model")
        return found if isinstance(found, str) and "$" not in found else ""

    @property
    def origin(self) -> str:
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc}"

    def problems(self, line: Line) -> Iterator[Problem]:
        yield from self._unfit(line.record.format)
        yield from self._too_many(line.window.max_records)
        yield from super().problems(line)
        if in_the_clear(self.base_url):
            yield Problem(
                "sink.base_url",
                "the API key goes over the network unencrypted; use https",
                "warning",
            )

    def _too_many(self, most: int | Literal["auto"]) -> Iterator[Problem]:
        """Whether a full window makes more than a job takes."""
        if self.prompt is None or most == "auto":
            return
        least = most * len(Prompt(self.prompt).constant)
        if least > self.max_bytes:
            yield Problem(
                "window.max_records",
                f"so many requests of sink.prompt are {least} bytes at least, and sink.max_bytes "
                f"is {self.max_bytes}: full windows are cut before they are submitted; lower it",
                "warning",
                str(most),
            )

    def _unfit(self, form: Format) -> Iterator[Problem]:
        """Why no requests can be made of records of this format."""
        if self.prompt is None:
            if form != "json":
                text = 'a request of a job is JSON; write "json", or make it by [sink.prompt]'
                yield Problem("record.format", text, value=form)
            return
        if form == "bytes":
            text = 'what is no text makes no prompt; write "json" or "text"'
            yield Problem("record.format", text, value=form)
            return
        try:
            prompt = Prompt(self.prompt, json=form == "json")
        except ValueError as error:
            yield Problem("sink.prompt", str(error))
            return
        for key in REQUIRED.get(self.asks, ()):
            if key not in self.prompt:
                yield Problem("sink.prompt", f"has no {key}, which {self.asks} needs; add it")
        if self.prompt.get("stream"):
            yield Problem("sink.prompt.stream", "a job has nothing to stream to; remove it")
        if not prompt.names:
            text = "nothing of a record goes into it: all requests are the same; write $value"
            yield Problem("sink.prompt", text, "warning")


class OpenAIBatchSettings(ProviderSettings, frozen=True, tag_field="type", tag="openai-batch"):
    """[sink] type = "openai-batch"."""

    base_url: str = "https://api.openai.com/v1"
    endpoint: Endpoint = "/v1/chat/completions"
    max_records: Annotated[int, Meta(ge=1, le=50_000)] = 50_000
    max_bytes: Size = Size(200 * 1000**2)

    @property
    def asks(self) -> str:
        return self.endpoint

    @property
    def summary(self) -> str:
        return f"batches of {self.endpoint} at {self.origin}"

    def build(self, line: Line) -> ConfiguredJobs:
        from .openai_batch import OpenAIBatch

        return OpenAIBatch(self, line)


class AnthropicBatchSettings(
    ProviderSettings, frozen=True, tag_field="type", tag="anthropic-batch"
):
    """[sink] type = "anthropic-batch"."""

    base_url: str = "https://api.anthropic.com/v1"
    max_records: Annotated[int, Meta(ge=1, le=100_000)] = 100_000
    max_bytes: Size = Size(256 * 1000**2)

    @property
    def asks(self) -> str:
        return "/v1/messages"

    @property
    def summary(self) -> str:
        return f"message batches at {self.origin}"

    def build(self, line: Line) -> ConfiguredJobs:
        from .anthropic_batch import AnthropicBatch

        return AnthropicBatch(self, line)

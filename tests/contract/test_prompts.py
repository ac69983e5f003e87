"""Requests that are made of small records, as the examples in configs/ have them.

The official packages' types take their bodies, the stand-ins answer them, and the answers hold what
is wanted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types import EmbeddingCreateParams
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.image_generate_params import ImageGenerateParamsNonStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter

from fakes import FakeRecord
from providers.anthropic import Anthropic
from sluiced.batch import Batch, Run
from sluiced.config import Config, load
from sluiced.identity import tokens_of
from sluiced.kafka.results import part_of
from sluiced.outcome import Fate
from sluiced.ports import JobResult, Submitted
from sluiced.prices import Usage
from sluiced.record import TopicPartition
from sluiced.sinks.job_api import JobApi
from sluiced.tools.demo.openai_api import OpenAI
from sluiced.tools.demo.provider import served

pytestmark = pytest.mark.anyio

CONFIGS = Path(__file__).parents[2] / "configs"
PARAMS: dict[str, Any] = {
    "/v1/chat/completions": CompletionCreateParamsNonStreaming,
    "/v1/responses": ResponseCreateParamsNonStreaming,
    "/v1/embeddings": EmbeddingCreateParams,
    "/v1/images/generations": ImageGenerateParamsNonStreaming,
    "/v1/messages": MessageCreateParamsNonStreaming,
}
EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any], bytes]] = {
    "openai-batch": (
        {"name": "Ulm", "country": "Germany", "population": 129942},
        {
            "model": "gpt-4.1-mini",
            "max_completion_tokens": 200,
            "messages": [
                {
                    "role": "system",
                    "content": "You write one sentence for a travel guide, in English.",
                },
                {"role": "user", "content": "Ulm in Germany, which has 129942 inhabitants."},
            ],
        },
        b"heard: Ulm in Germany, which has 129942 inhabitants.",
    ),
    "openai-embeddings": (
        {"title": "Ulm", "text": "A city\non the Danube."},
        {
            "model": "text-embedding-3-small",
            "input": "Ulm\n\nA city\non the Danube.",
            "dimensions": 512,
        },
        b"[",
    ),
    "openai-images": (
        {"name": 'a 9" lamp', "colour": "brass"},
        {
            "model": "gpt-image-1",
            "prompt": "A photo of this product on a white table, without any text: "
            'a 9" lamp, brass',
            "size": "1024x1024",
            "quality": "low",
        },
        b"aGVhcmQ6IEEgcGhvdG8",
    ),
    "anthropic-batch": (
        {"question": "When do\u2028tulips bloom? 🌷"},
        {
            "model": "claude-haiku-4-5",
            "max_tokens": 300,
            "system": "You answer questions about gardening, in one paragraph of plain English.",
            "messages": [{"role": "user", "content": "When do\u2028tulips bloom? 🌷"}],
        },
        "heard: When do\u2028tulips bloom? 🌷".encode(),
    ),
}


@pytest.fixture(autouse=True)
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name in ("openai-key", "anthropic-key"):
        (tmp_path / name).write_text("sk-secret")


def batch_of(config: Config, values: Sequence[Any]) -> Batch:
    topic = config.kafka.topics[0]
    records = [FakeRecord(topic, 0, n, json.dumps(v).encode()) for n, v in enumerate(values)]
    return Batch.of(config.name, [Run(TopicPartition(topic, 0), 1, records)], "records")


def built(config: Config) -> JobApi:
    sink = config.sink.build(config.line)
    assert isinstance(sink, JobApi)
    return sink


async def asked(config: Config, values: Sequence[Any]) -> tuple[list[Any], list[JobResult], Any]:
    """The bodies of a job, its results, and what is expected of it."""
    api = OpenAI() if config.sink.summary.startswith("batches") else Anthropic()
    async with served(api) as url:
        settings = msgspec.structs.replace(config.sink, base_url=f"{url}/v1")
        sink: Any = settings.build(config.line)
        await sink.open()
        batch = batch_of(config, values)
        answer = await sink.submit(batch, "name-1")
        assert isinstance(answer, Submitted)
        await sink.poll(answer.job)
        found = [each async for each in sink.results(answer.job)]
        await sink.close()
    [job] = api.jobs.values()
    bodies = [request.get("body") or request.get("params") for request in job.requests]
    return bodies, found, sink.expected(batch.records)


@pytest.mark.parametrize("name", EXAMPLES)
async def test_the_example_asks_what_the_official_types_take_and_reads_the_answer(
    name: str,
) -> None:
    config = load(CONFIGS / f"{name}.toml")
    value, expected, wanted = EXAMPLES[name]
    [body], [result], _ = await asked(config, [value])

    assert body == expected
    TypeAdapter(PARAMS[config.sink.asks]).validate_python(body)
    assert result.verdict.fate is Fate.DELIVERED
    assert config.results is not None
    assert part_of(result.body, tokens_of(config.results.value)).startswith(wanted)
    assert result.input_tokens


async def test_responses_are_asked_for_likewise() -> None:
    config = load(CONFIGS / "openai-batch.toml")
    prompt = {
        "model": "gpt-5",
        "instructions": "Be brief.",
        "input": "What is $value/name?",
        "max_output_tokens": 50,
    }
    sink = msgspec.structs.replace(config.sink, endpoint="/v1/responses", prompt=prompt)
    config = msgspec.structs.replace(config, sink=sink)
    [body], [result], expected = await asked(config, [{"name": "Ulm"}])

    assert body == {**prompt, "input": "What is Ulm?"}
    TypeAdapter(PARAMS["/v1/responses"]).validate_python(body)
    assert part_of(result.body, tokens_of("/output/0/content/0/text")) == b"heard: What is Ulm?"
    assert expected == [Usage("gpt-5", 1, 7, 50)]


@pytest.mark.parametrize("name", EXAMPLES)
async def test_the_same_records_make_the_very_same_bytes(name: str) -> None:
    config, (value, _, _) = load(CONFIGS / f"{name}.toml"), EXAMPLES[name]
    first, second = (list(built(config).parts(batch_of(config, [value] * 3))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", EXAMPLES)
async def test_a_record_without_what_the_example_needs_is_kept_out_and_told_so(name: str) -> None:
    config = load(CONFIGS / f"{name}.toml")
    [wrong], [right] = (batch_of(config, [v]).records for v in ({"other": 1}, EXAMPLES[name][0]))
    assert built(config).objection(right) is None
    said = built(config).objection(wrong)
    assert said is not None
    assert said.startswith("the value has nothing at /")
    assert said.endswith(", and sink.prompt needs it")


async def test_a_prompt_of_plain_texts_needs_no_json() -> None:
    config = load(CONFIGS / "openai-embeddings.toml")
    sink = msgspec.structs.replace(config.sink, prompt={"model": "m", "input": "$value"})
    line = replace(config.line, record=msgspec.structs.replace(config.record, format="text"))
    assert list(sink.problems(line)) == []
    made = sink.build(line)
    assert isinstance(made, JobApi)
    record = FakeRecord("pages", 0, 0, b'no "JSON"\r\nat all')
    assert json.loads(made.body(record)) == {"model": "m", "input": 'no "JSON"\r\nat all'}

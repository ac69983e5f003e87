"""The official `openai` and `anthropic` packages drive the stand-ins through a job's whole life.

What they accept, refuse and decode is theirs, so that the shapes are not our invention.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import httpx2 as httpx
import openai
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import ErrorResponse
from anthropic.types.messages import (
    DeletedMessageBatch,
    MessageBatch,
    MessageBatchIndividualResponse,
)
from openai import AsyncOpenAI
from openai.types import Batch, CreateEmbeddingResponse, FileDeleted, FileObject, ImagesResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel, ConfigDict

from providers.anthropic import Anthropic, errored
from sluiced.tools.demo.openai_api import OpenAI, told
from sluiced.tools.demo.provider import Pace, Provider, served

pytestmark = pytest.mark.anyio

ENDPOINT = "/v1/chat/completions"


def strictly(model: type[BaseModel], body: bytes | str) -> None:
    """Nothing that the official model requires is missing, of another type, or of our own making.

    The packages themselves build their models without looking.
    """
    _nothing_else(model.model_validate_json(body, strict=True))


def _nothing_else(found: object) -> None:
    if isinstance(found, BaseModel):
        assert not found.model_extra, f"{type(found).__name__} has no {list(found.model_extra)}"
        for name in type(found).model_fields:
            _nothing_else(getattr(found, name))
    elif isinstance(found, list):
        for each in found:
            _nothing_else(each)


class OpenAIError(BaseModel):
    """The `error` of an answer, as openai.APIError reads it."""

    model_config = ConfigDict(extra="forbid")
    message: str
    type: str
    param: str | None
    code: str | None


class Listed(BaseModel):
    """A page of theirs, with all that it says."""

    model_config = ConfigDict(extra="forbid")
    object: str | None = None
    data: list[Any]
    has_more: bool
    first_id: str | None
    last_id: str | None


async def as_openai_says(response: httpx.Response) -> None:
    """Holds each answer against the official model for it."""
    path, method = response.request.url.path, response.request.method
    assert response.headers["x-request-id"]
    if path.endswith("/content") and response.is_success:
        return
    body = json.loads(await response.aread())
    if response.is_error:
        OpenAIError.model_validate(body["error"], strict=True)
        return
    model: type[BaseModel] = Batch if path.startswith("/v1/batches") else FileObject
    if method == "DELETE":
        model = FileDeleted
    each = [body]
    if method == "GET" and path in ("/v1/batches", "/v1/files"):
        each = Listed.model_validate(body, strict=True).data
        assert body["object"] == "list"
    for found in each:
        strictly(model, json.dumps(found))


async def as_anthropic_says(response: httpx.Response) -> None:
    """Likewise."""
    path, method = response.request.url.path, response.request.method
    assert response.headers["request-id"]
    if path.endswith("/results") and response.is_success:
        return
    body = json.loads(await response.aread())
    if response.is_error:
        strictly(ErrorResponse, json.dumps(body))
        assert body["request_id"] == response.headers["request-id"]
        return
    each = [body]
    if method == "GET" and path == "/v1/messages/batches":
        each = Listed.model_validate(body, strict=True).data
    for found in each:
        strictly(DeletedMessageBatch if method == "DELETE" else MessageBatch, json.dumps(found))
        if method != "DELETE":
            counts = found["request_counts"]
            assert counts["processing"] == 0 or sum(counts.values()) == counts["processing"]


class Clock:
    """Time that only the test lets pass."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(clock: Clock) -> OpenAI:
    return OpenAI(Pace(validating=10, working=100, finalizing=20), clock)


@pytest.fixture
async def client(api: OpenAI) -> AsyncIterator[AsyncOpenAI]:
    strict = openai.DefaultAsyncHttpxClient(event_hooks={"response": [as_openai_says]})
    async with (
        served(api) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, http_client=strict) as client,
    ):
        yield client


@pytest.fixture
def claude(clock: Clock) -> Anthropic:
    return Anthropic(Pace(working=100, finalizing=20), clock)


@pytest.fixture
async def messages(claude: Anthropic) -> AsyncIterator[AsyncAnthropic]:
    strict = anthropic.DefaultAsyncHttpxClient(event_hooks={"response": [as_anthropic_says]})
    async with (
        served(claude) as url,
        AsyncAnthropic(base_url=url, api_key="k", max_retries=0, http_client=strict) as client,
    ):
        yield client


def line(custom_id: str, **changes: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": custom_id}]}
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body, **changes}


async def at_fault(
    package: Any, client: Any, api: Provider, verb: str, call: Callable[[Any], Any]
) -> Any:
    """Each fault of a request is an error of its own to the official package. Returns that of the
    throttled one."""
    api.faults[f"{verb} throttled"] = 1
    with pytest.raises(package.RateLimitError) as throttled:
        await call(client)

    api.faults[f"{verb} unavailable"] = 1
    with pytest.raises(package.InternalServerError):
        await call(client)

    api.faults[f"{verb} lost"] = 1
    with pytest.raises(package.APIConnectionError):
        await call(client)
    return throttled.value


def ratelimits(response: httpx.Response) -> set[str]:
    return {name for name in response.headers if "ratelimit" in name}


async def submitted(client: AsyncOpenAI, *lines: dict[str, Any] | bytes, **more: Any) -> Batch:
    texts = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
    file = await client.files.create(file=("in.jsonl", b"\n".join(texts)), purpose="batch")
    endpoint = more.pop("endpoint", ENDPOINT)
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
    )


class Answered(BaseModel):
    model_config = ConfigDict(extra="forbid")
    status_code: int
    request_id: str
    body: dict[str, Any]


class Failed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    code: str
    message: str


class Output(BaseModel):
    """A line of an output or error file, by their documents: the package has no model of it."""

    model_config = ConfigDict(extra="forbid")
    id: str
    custom_id: str
    response: Answered | None
    error: Failed | None


async def output(client: AsyncOpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    text = (await client.files.content(file_id)).text
    for each in text.splitlines():
        strictly(Output, each)
    return {(found := json.loads(each))["custom_id"]: found for each in text.splitlines()}


# --- OpenAI -------------------------------------------------------------------------------------


async def test_a_file_is_uploaded_listed_read_and_deleted(client: AsyncOpenAI) -> None:
    file = await client.files.create(file=("a.jsonl", b'{"a":1}\n'), purpose="batch")

    assert isinstance(file, FileObject)
    assert (file.filename, file.bytes, file.purpose) == ("a.jsonl", 8, "batch")
    assert [f.id async for f in client.files.list(purpose="batch")] == [file.id]
    assert (await client.files.content(file.id)).content == b'{"a":1}\n'
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)


async def test_a_batch_goes_through_its_states_to_an_output_file(
    client: AsyncOpenAI, clock: Clock
) -> None:
    batch = await submitted(client, line("a"), line("b"), metadata={"name": "x"})
    states = [batch.status]
    for seconds in (10, 50, 50, 20):
        clock.now += seconds
        batch = await client.batches.retrieve(batch.id)
        states.append(batch.status)

    assert states == ["validating", "in_progress", "in_progress", "finalizing", "completed"]
    assert batch.metadata == {"name": "x"}
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (2, 2, 0)
    assert batch.error_file_id is None
    found = await output(client, batch.output_file_id)
    answer = ChatCompletion.model_validate(found["b"]["response"]["body"], strict=True)
    assert answer.choices[0].message.content == "heard: b"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9


async def test_a_batch_that_nobody_looked_at_has_gone_through_all_its_states(
    client: AsyncOpenAI, clock: Clock
) -> None:
    begun = int(clock.now)
    batch = await submitted(client, line("a"), line("b"))
    clock.now += 1000
    batch = await client.batches.retrieve(batch.id)

    times = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert times == (begun, begun + 10, begun + 110, begun + 130)
    assert (batch.failed_at, batch.expired_at, batch.cancelled_at) == (None, None, None)
    assert batch.expires_at == begun + 86_400
    assert batch.model == "m"
    assert batch.usage is not None
    assert (batch.usage.output_tokens, batch.usage.total_tokens) == (18, 20)
    with pytest.raises(openai.ConflictError):
        await client.batches.cancel(batch.id)


ENDPOINTS: list[tuple[str, dict[str, Any], type[BaseModel], Callable[[Any], Any], Any]] = [
    (
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        ChatCompletion,
        lambda answer: answer.choices[0].message.content,
        "heard: a",
    ),
    (
        "/v1/responses",
        {"model": "m", "input": "a", "instructions": "Be brief."},
        Response,
        lambda answer: answer.output_text,
        "heard: a",
    ),
    (
        "/v1/embeddings",
        {"model": "m", "input": ["a", "b"], "dimensions": 16},
        CreateEmbeddingResponse,
        lambda answer: [len(each.embedding) for each in answer.data],
        [16, 16],
    ),
    (
        "/v1/images/generations",
        {"model": "m", "prompt": "a", "n": 2},
        ImagesResponse,
        lambda answer: [each.b64_json for each in answer.data],
        ["aGVhcmQ6IGE="] * 2,
    ),
]


@pytest.mark.parametrize("case", ENDPOINTS, ids=lambda case: case[0])
async def test_each_endpoint_answers_in_the_shape_of_the_official_types(
    client: AsyncOpenAI, clock: Clock, case: tuple[str, dict[str, Any], Any, Any, Any]
) -> None:
    endpoint, body, kind, part, expected = case
    batch = await submitted(
        client,
        line("a", url=endpoint, body=body),
        line("b", url=endpoint, body={"model": "m"}),
        endpoint=endpoint,
    )
    clock.now += 1000
    batch = await client.batches.retrieve(batch.id)

    body = (await output(client, batch.output_file_id))["a"]["response"]["body"]
    strictly(kind, json.dumps(body))
    answer = kind.model_validate(body)
    assert part(answer) == expected
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
    refused = (await output(client, batch.error_file_id))["b"]["response"]
    assert refused["status_code"] == 400
    assert refused["body"]["error"]["code"] == "missing_parameter"


async def test_requests_that_fail_are_in_the_error_file(
    client: AsyncOpenAI, api: OpenAI, clock: Clock
) -> None:
    error = {"message": "no such model", "type": "invalid_request_error", "code": "x"}
    api.answer = lambda name, body: (404, {"error": error}) if name == "a" else told(name, body)
    batch = await submitted(client, line("a"), line("b"))
    clock.now += 1000
    batch = await client.batches.retrieve(batch.id)

    assert batch.status == "completed"
    failed = await output(client, batch.error_file_id)
    assert failed["a"]["response"]["status_code"] == 404
    assert failed["a"]["response"]["body"] == {"error": error}
    assert list(await output(client, batch.output_file_id)) == ["b"]


async def test_a_batch_that_expires_in_the_middle_has_the_results_so_far(
    client: AsyncOpenAI, api: OpenAI, clock: Clock
) -> None:
    api.pace.expires = 60
    batch = await submitted(client, line("a"), line("b"))
    clock.now += 70
    batch = await client.batches.retrieve(batch.id)

    assert batch.status == "expired"
    assert batch.expired_at == batch.expires_at == batch.created_at + 60
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    assert list(await output(client, batch.output_file_id)) == ["a"]
    expired = await output(client, batch.error_file_id)
    assert expired["b"]["response"] is None
    assert expired["b"]["error"]["code"] == "batch_expired"


async def test_a_batch_that_is_cancelled_keeps_what_was_done(
    client: AsyncOpenAI, clock: Clock
) -> None:
    batch = await submitted(client, line("a"), line("b"))
    clock.now += 70
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    clock.now += 20
    batch = await client.batches.retrieve(batch.id)

    assert batch.status == "cancelled"
    assert batch.cancelled_at == (batch.cancelling_at or 0) + 20
    assert list(await output(client, batch.output_file_id)) == ["a"]


async def test_a_batch_that_is_cancelled_before_it_was_validated_has_no_output(
    client: AsyncOpenAI, clock: Clock
) -> None:
    batch = await submitted(client, line("a"))
    await client.batches.cancel(batch.id)
    clock.now += 20
    batch = await client.batches.retrieve(batch.id)

    assert (batch.status, batch.in_progress_at) == ("cancelled", None)
    assert (batch.output_file_id, batch.error_file_id) == (None, None)


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ((line("a"), b"{"), ("invalid_json_line", 2)),
        ((line("a"), line("a")), ("duplicate_custom_id", 2)),
        ((line("a", url="/v1/embeddings"),), ("url_mismatch", 1)),
        ((line("a"), line("b", body={"model": "other"})), ("model_mismatch", 2)),
        ((), ("empty_file", None)),
    ],
)
async def test_a_file_with_a_bad_line_fails_and_names_it(
    client: AsyncOpenAI, clock: Clock, lines: Any, wrong: tuple[str, int | None]
) -> None:
    batch = await submitted(client, *lines)
    clock.now += 10
    batch = await client.batches.retrieve(batch.id)

    assert batch.status == "failed"
    assert batch.errors is not None
    assert [(e.code, e.line) for e in batch.errors.data or ()] == [wrong]
    assert batch.output_file_id is None


async def test_all_bad_lines_of_a_file_are_named(client: AsyncOpenAI, clock: Clock) -> None:
    batch = await submitted(client, b"{", line("a"), line("b", method="GET"), line("a"))
    clock.now += 10
    batch = await client.batches.retrieve(batch.id)

    assert batch.errors is not None
    assert batch.errors.object == "list"
    found = [(e.line, e.code) for e in batch.errors.data or ()]
    assert found == [(1, "invalid_json_line"), (3, "url_mismatch"), (4, "duplicate_custom_id")]
    assert batch.failed_at == batch.created_at + 10
    assert batch.in_progress_at is None


async def test_a_full_queue_fails_the_batch_and_names_no_line(
    client: AsyncOpenAI, api: OpenAI, clock: Clock
) -> None:
    api.most_enqueued = 2
    first = await submitted(client, line("a"), line("b"))
    second = await submitted(client, line("c"))
    clock.now += 10

    assert (await client.batches.retrieve(first.id)).status == "in_progress"
    second = await client.batches.retrieve(second.id)
    assert second.errors is not None
    assert [(e.code, e.line) for e in second.errors.data or ()] == [("token_limit_exceeded", None)]


async def test_batches_are_listed_from_the_newest_in_pages(client: AsyncOpenAI) -> None:
    ids = [(await submitted(client, line("a"))).id for _ in range(5)]

    assert [b.id async for b in client.batches.list(limit=2)] == ids[::-1]
    page = await client.batches.list(limit=2, after=ids[2])
    assert ([b.id for b in page.data], page.has_more) == (ids[1::-1], False)
    for wrong in ({"limit": 101}, {"limit": 0}, {"after": "batch_x"}):
        with pytest.raises(openai.BadRequestError):
            await client.batches.list(**wrong)  # type: ignore[arg-type]


async def test_files_are_listed_by_purpose_and_in_either_order(
    client: AsyncOpenAI, clock: Clock
) -> None:
    batch = await submitted(client, line("a"))
    await submitted(client, line("b"))
    clock.now += 1000
    batch = await client.batches.retrieve(batch.id)

    ours = [f.id async for f in client.files.list(purpose="batch", order="asc", limit=1)]
    assert ours[0] == batch.input_file_id
    assert [f.id async for f in client.files.list(purpose="batch")] == ours[::-1]
    [theirs] = [f.id async for f in client.files.list(purpose="batch_output")]
    assert theirs == batch.output_file_id
    assert (await client.files.delete(theirs)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.content(theirs)


@pytest.mark.parametrize(
    ("verb", "call"),
    [
        ("upload", lambda c: c.files.create(file=("a.jsonl", b"{}"), purpose="batch")),
        ("files", lambda c: c.files.list()),
        ("content", lambda c: c.files.content("file-x")),
        (
            "create",
            lambda c: c.batches.create(
                input_file_id="f", endpoint=ENDPOINT, completion_window="24h"
            ),
        ),
        ("batches", lambda c: c.batches.list()),
        ("poll", lambda c: c.batches.retrieve("batch_x")),
        ("cancel", lambda c: c.batches.cancel("batch_x")),
    ],
)
async def test_openai_is_throttled_unavailable_and_lost_on_request(
    client: AsyncOpenAI, api: OpenAI, verb: str, call: Callable[[AsyncOpenAI], Any]
) -> None:
    throttled = await at_fault(openai, client, api, verb, call)
    assert throttled.response.headers["retry-after-ms"] == "20"
    assert throttled.code == "rate_limit_exceeded"
    assert ratelimits(throttled.response) == {
        f"x-ratelimit-{what}-{kind}"
        for what in ("limit", "remaining", "reset")
        for kind in ("requests", "tokens")
    }


async def test_a_batch_whose_creation_was_lost_is_found_by_its_metadata(
    client: AsyncOpenAI, api: OpenAI
) -> None:
    api.faults["create lost"] = 1
    with pytest.raises(openai.APIConnectionError):
        await submitted(client, line("a"), metadata={"name": "mine"})

    found = [b async for b in client.batches.list() if (b.metadata or {}).get("name") == "mine"]
    assert len(found) == 1


async def test_a_download_that_is_cut_is_noticed(
    client: AsyncOpenAI, api: OpenAI, clock: Clock
) -> None:
    batch = await submitted(client, line("a"), line("b"))
    clock.now += 1000
    batch = await client.batches.retrieve(batch.id)
    api.faults["content cut"] = 1
    with pytest.raises(openai.APIConnectionError):
        await client.files.content(batch.output_file_id or "")

    assert len(await output(client, batch.output_file_id)) == 2


async def test_results_are_unordered_doubled_and_unknown_on_request(
    client: AsyncOpenAI, api: OpenAI, clock: Clock
) -> None:
    api.results = {"unordered", "doubled", "unknown"}
    batch = await submitted(client, line("a"), line("b"))
    clock.now += 1000
    batch = await client.batches.retrieve(batch.id)
    text = (await client.files.content(batch.output_file_id or "")).text

    found = [json.loads(each)["custom_id"] for each in text.splitlines()]
    assert found == ["b", "a", "b", "not-one-of-yours"]


# --- Anthropic ----------------------------------------------------------------------------------


def asked(custom_id: str, **params: Any) -> Any:
    usual = {
        "model": "claude",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": custom_id}],
    }
    return {"custom_id": custom_id, "params": {**usual, **params}}


async def results(
    client: AsyncAnthropic, batch: MessageBatch
) -> list[MessageBatchIndividualResponse]:
    found = [each async for each in await client.messages.batches.results(batch.id)]
    for each in found:
        strictly(MessageBatchIndividualResponse, each.model_dump_json(exclude_unset=True))
    return found


async def test_a_message_batch_is_worked_on_and_its_results_come_in_another_order(
    messages: AsyncAnthropic, clock: Clock
) -> None:
    batch = await messages.messages.batches.create(requests=[asked("a"), asked("b")])
    assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", 2)
    with pytest.raises(anthropic.AnthropicError):
        await results(messages, batch)
    clock.now += 120
    batch = await messages.messages.batches.retrieve(batch.id)

    assert (batch.processing_status, batch.request_counts.succeeded) == ("ended", 2)
    found = await results(messages, batch)
    assert [each.custom_id for each in found] == ["b", "a"]
    result = found[0].result
    assert result.type == "succeeded"
    assert result.message.content[0].type == "text"
    assert result.message.content[0].text == "heard: b"
    assert result.message.usage.output_tokens == 9


async def test_what_a_request_lacks_is_an_errored_result(
    messages: AsyncAnthropic, clock: Clock
) -> None:
    bad = asked("a")
    del bad["params"]["max_tokens"]
    batch = await messages.messages.batches.create(requests=[bad])
    clock.now += 1000
    [found] = await results(messages, batch)

    assert found.result.type == "errored"
    assert found.result.error.error.type == "invalid_request_error"


@pytest.mark.parametrize("kind", ["rate_limit_error", "overloaded_error", "api_error"])
async def test_an_errored_result_may_be_one_to_be_repeated(
    messages: AsyncAnthropic, claude: Anthropic, clock: Clock, kind: str
) -> None:
    claude.answer = lambda name, params: errored(kind, "later")
    batch = await messages.messages.batches.create(requests=[asked("a")])
    clock.now += 1000
    [found] = await results(messages, batch)

    assert found.result.type == "errored"
    assert found.result.error.error.type == kind


async def test_a_message_batch_that_expires_or_is_cancelled_has_the_results_so_far(
    messages: AsyncAnthropic, claude: Anthropic, clock: Clock
) -> None:
    cancelled = await messages.messages.batches.create(requests=[asked("a"), asked("b")])
    claude.pace.expires = 60
    expired = await messages.messages.batches.create(requests=[asked("a"), asked("b")])
    clock.now += 60
    assert (await messages.messages.batches.cancel(cancelled.id)).processing_status == "canceling"
    clock.now += 20

    types = {}
    for name, batch in (("cancelled", cancelled), ("expired", expired)):
        found = await results(messages, batch)
        types[name] = {each.custom_id: each.result.type for each in found}
        state = await messages.messages.batches.retrieve(batch.id)
        counts = state.request_counts
        assert (counts.succeeded, counts.canceled + counts.expired) == (1, 1)
        assert state.results_url is not None
        assert state.results_url.endswith(f"/v1/messages/batches/{batch.id}/results")
    assert types == {
        "cancelled": {"a": "succeeded", "b": "canceled"},
        "expired": {"a": "succeeded", "b": "expired"},
    }


@pytest.mark.parametrize("ids", [["a", "a"], ["a.b"], ["x" * 65], []])
async def test_a_custom_id_must_be_short_plain_and_unique(
    messages: AsyncAnthropic, ids: list[str]
) -> None:
    with pytest.raises(anthropic.BadRequestError):
        await messages.messages.batches.create(requests=[asked(name) for name in ids])


async def test_message_batches_are_listed_from_the_newest_and_deleted(
    messages: AsyncAnthropic, clock: Clock
) -> None:
    batches = messages.messages.batches
    ids = [(await batches.create(requests=[asked("a")])).id for _ in range(5)]
    assert [b.id async for b in batches.list(limit=2)] == ids[::-1]
    page = await batches.list(limit=2, after_id=ids[4])
    assert ([b.id for b in page.data], page.has_more) == ([ids[3], ids[2]], True)
    page = await batches.list(limit=2, before_id=ids[1])
    assert ([b.id for b in page.data], page.has_more) == ([ids[3], ids[2]], True)
    page = await batches.list(limit=3, before_id=ids[3])
    assert ([b.id for b in page.data], page.has_more) == ([ids[4]], False)
    for wrong in ({"limit": 1001}, {"after_id": "msgbatch_x"}):
        with pytest.raises(anthropic.BadRequestError):
            await batches.list(**wrong)  # type: ignore[arg-type]
    with pytest.raises(anthropic.BadRequestError):
        await batches.delete(ids[0])
    clock.now += 1000
    assert (await batches.delete(ids[0])).type == "message_batch_deleted"


@pytest.mark.parametrize(
    ("verb", "call"),
    [
        ("create", lambda c: c.messages.batches.create(requests=[asked("a")])),
        ("batches", lambda c: c.messages.batches.list()),
        ("poll", lambda c: c.messages.batches.retrieve("msgbatch_x")),
        ("cancel", lambda c: c.messages.batches.cancel("msgbatch_x")),
    ],
)
async def test_anthropic_is_throttled_unavailable_and_lost_on_request(
    messages: AsyncAnthropic,
    claude: Anthropic,
    verb: str,
    call: Callable[[AsyncAnthropic], Any],
) -> None:
    throttled = await at_fault(anthropic, messages, claude, verb, call)
    assert throttled.response.headers["retry-after"] == "0.02"
    assert ratelimits(throttled.response) == {
        f"anthropic-ratelimit-{kind}-{what}"
        for what in ("limit", "remaining", "reset")
        for kind in ("requests", "input-tokens", "output-tokens")
    }


async def test_results_that_are_cut_are_noticed(
    messages: AsyncAnthropic, claude: Anthropic, clock: Clock
) -> None:
    batch = await messages.messages.batches.create(requests=[asked("a"), asked("b")])
    clock.now += 1000
    claude.faults["results cut"] = 1
    with pytest.raises(Exception, match=r"peer closed|incomplete|Connection error"):
        await results(messages, batch)

    assert len(await results(messages, batch)) == 2

"""A stand-in for Anthropic's Message Batches, as the official package's types and documents say."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from aiohttp import web

from sluiced.tools.demo.provider import (
    Document,
    Job,
    Pace,
    Provider,
    as_json,
    decode,
    encode,
    lines,
)

CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MOST_REQUESTS, MOST_BYTES = 100_000, 256 * 1000**2
REQUIRED = ("model", "max_tokens", "messages")

# The result of one request, or None for one that no line tells of.
Answer = Callable[[str, Document], Document | None]


def told(custom_id: str, params: Document) -> Document:
    """A model that repeats the end of the prompt; one that is not well formed is an error."""
    for name in REQUIRED:
        if name not in params:
            return errored("invalid_request_error", f"{name}: Field required")
    text = str(params["messages"][-1].get("content", ""))
    message = {
        "id": f"msg_{custom_id}",
        "type": "message",
        "role": "assistant",
        "model": params["model"],
        "content": [{"type": "text", "text": f"heard: {text[-200:]}"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": len(text) // 4 + 1,
            "output_tokens": 9,
            "service_tier": "batch",
        },
    }
    return {"type": "succeeded", "message": message}


def errored(kind: str, message: str) -> Document:
    error = {"type": kind, "message": message}
    return {"type": "errored", "error": {"type": "error", "error": error, "request_id": None}}


class Anthropic(Provider):
    """The verbs of its faults: create, batches, poll, results, cancel and delete; and there is
    "results cut"."""

    request_header = "request-id"
    not_found = "not_found_error"

    def __init__(self, pace: Pace | None = None, now: Callable[[], float] = time.time) -> None:
        super().__init__(pace, now)
        self.answer: Answer = told
        self._lines: dict[str, list[bytes]] = {}  # of the results, by the job

    def routes(self) -> Iterable[web.RouteDef]:
        for method, path, handler, verb in (
            ("POST", "", self._create, "create"),
            ("GET", "", self._batches, "batches"),
            ("GET", "/{id}", self._poll, "poll"),
            ("GET", "/{id}/results", self._results, "results"),
            ("POST", "/{id}/cancel", self._cancel, "cancel"),
            ("DELETE", "/{id}", self._delete, "delete"),
        ):
            yield web.route(method, "/v1/messages/batches" + path, handler, name=verb)

    def error(self, status: int, kind: str, message: str) -> web.Response:
        error, number = {"type": kind, "message": message}, self.new_id("req_")
        answer = as_json({"type": "error", "error": error, "request_id": number}, status)
        answer.headers[self.request_header] = number
        return answer

    def throttled(self) -> web.Response:
        answer = self.error(429, "rate_limit_error", "too many")
        answer.headers["retry-after"] = "0.02"
        for kind, limit, left in (
            ("requests", "50", "0"),
            ("input-tokens", "40000", "39000"),
            ("output-tokens", "8000", "7000"),
        ):
            header = f"anthropic-ratelimit-{kind}"
            answer.headers[f"{header}-limit"] = limit
            answer.headers[f"{header}-remaining"] = left
            answer.headers[f"{header}-reset"] = _rfc3339(self._now() + 0.02)
        return answer

    async def _create(self, request: web.Request) -> web.Response:
        if "anthropic-version" not in request.headers:
            text = "anthropic-version: header is required"
            return self.error(400, "invalid_request_error", text)
        body = await request.read()
        if len(body) > MOST_BYTES:
            return self.error(413, "request_too_large", "Request exceeds the maximum size")
        asked = decode(body).get("requests") or []
        ids = [each.get("custom_id") for each in asked]
        for index, name in enumerate(ids):
            if not isinstance(name, str) or CUSTOM_ID.fullmatch(name) is None:
                text = f"requests.{index}.custom_id: String should match pattern"
                return self.error(400, "invalid_request_error", text)
        if not ids or len(ids) > MOST_REQUESTS or len(set(ids)) < len(ids):
            text = "requests: 1 to 100000 requests, each with a custom_id of its own"
            return self.error(400, "invalid_request_error", text)
        now, pace = self._now(), self.next_pace()
        state: Document = {
            "id": self.new_id("msgbatch_"),
            "type": "message_batch",
            "processing_status": "in_progress",
            "request_counts": {
                "processing": len(ids),
                **dict.fromkeys(("succeeded", "errored", "canceled", "expired"), 0),
            },
            "created_at": _rfc3339(now),
            "expires_at": _rfc3339(now + pace.expires),
            **dict.fromkeys(("ended_at", "archived_at", "cancel_initiated_at", "results_url")),
        }
        self.jobs[state["id"]] = Job(state, now, pace, asked)
        return as_json(state)

    async def _batches(self, request: web.Request) -> web.Response:
        found = [self.look(job) for job in reversed(self.jobs.values())]
        cursors = {"after": "after_id", "before": "before_id"}
        return as_json(self.page(found, request, most=1000, **cursors))

    async def _results(self, request: web.Request) -> web.StreamResponse:
        job = self.found(request)
        if not job.over:
            return self.error(404, "not_found_error", "the batch has not ended")
        told = self._lines[job.state["id"]]
        return await lines(request, told, cut=self.faults.strikes("results cut"))

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self.found(request)
        if job.over:
            return self.error(409, "invalid_request_error", "the batch has ended")
        job.cancelled_at = self._now()
        job.state["processing_status"] = "canceling"
        job.state["cancel_initiated_at"] = _rfc3339(job.cancelled_at)
        return as_json(job.state)

    async def _delete(self, request: web.Request) -> web.Response:
        job = self.found(request)
        if not job.over:
            return self.error(400, "invalid_request_error", "the batch has not ended")
        del self.jobs[job.state["id"]]
        return as_json({"id": job.state["id"], "type": "message_batch_deleted"})

    def look(self, job: Job) -> Document:
        """There is little to be seen of a job at work: its counts change when it ends."""
        stage, done = job.stage(self._now())
        if not job.over and stage == "completed":
            self._end(job, done, "", job.at("completed"))
        elif not job.over and stage == "expired":
            self._end(job, done, "expired", job.born + job.pace.expires)
        elif not job.over and stage == "cancelled":
            self._end(job, done, "canceled", (job.cancelled_at or 0.0) + job.pace.finalizing)
        return job.state

    def _end(self, job: Job, done: int, rest: str, when: float) -> None:
        """What was not done is the `rest`."""
        counts = job.state["request_counts"]
        found = []
        for index, request in enumerate(job.requests):
            result: Document | None = {"type": rest}
            if index < done:
                result = self.answer(request["custom_id"], request["params"])
            counts[result["type"] if result else "succeeded"] += 1
            if result is not None:
                found.append({"custom_id": request["custom_id"], "result": result})
        counts["processing"] = 0
        # Results are never in the order of the requests here.
        self._lines[job.state["id"]] = [encode(line) for line in self.disturbed(found[::-1])]
        job.over = True
        job.state |= {
            "processing_status": "ended",
            "ended_at": _rfc3339(when),
            "results_url": f"{self.url}/v1/messages/batches/{job.state['id']}/results",
        }


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

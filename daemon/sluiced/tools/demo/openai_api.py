"""A stand-in for OpenAI's files and batches: `POST /v1/files`, `POST /v1/batches` and the rest.

What a line of a job gets is decided by `answer`; without one a model repeats what it is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from aiohttp import BodyPartReader, web

from .openai_answers import Answer, told
from .openai_lines import problem, requests_of, usage_of
from .provider import Document, Job, Pace, Provider, as_json, decode, encode, lines

ENDPOINTS = (
    *("/v1/responses", "/v1/chat/completions", "/v1/embeddings", "/v1/completions"),
    *("/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos"),
)
MOMENTS = [
    f"{state}_at"
    for state in (
        *("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"),
    )
]
MOST_BYTES = 200 * 1000**2


@dataclass(slots=True)
class File:
    id: str
    name: str
    purpose: str
    content: bytes
    created: int

    def document(self) -> Document:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "expires_at": self.created + 30 * 86_400 if self.purpose == "batch" else None,
        }


class OpenAI(Provider):
    """`most_enqueued` is how many lines all jobs at work may have together.

    The verbs of its faults: upload, files, file, content, delete, create, batches, poll and cancel;
    and there is "content cut".
    """

    request_header = "x-request-id"

    def __init__(self, pace: Pace | None = None, now: Callable[[], float] = time.time) -> None:
        super().__init__(pace, now)
        self.answer: Answer | None = None
        self.most_enqueued = 10**9
        self.files: dict[str, File] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        for method, path, handler, verb in (
            ("POST", "/files", self._upload, "upload"),
            ("GET", "/files", self._files, "files"),
            ("GET", "/files/{id}", self._file, "file"),
            ("GET", "/files/{id}/content", self._content, "content"),
            ("DELETE", "/files/{id}", self._delete, "delete"),
            ("POST", "/batches", self._create, "create"),
            ("GET", "/batches", self._batches, "batches"),
            ("GET", "/batches/{id}", self._poll, "poll"),
            ("POST", "/batches/{id}/cancel", self._cancel, "cancel"),
        ):
            yield web.route(method, "/v1" + path, handler, name=verb)

    def error(self, status: int, kind: str, message: str, code: str | None = None) -> web.Response:
        detail = {"message": message, "type": kind, "param": None, "code": code}
        return as_json({"error": detail}, status)

    def throttled(self) -> web.Response:
        answer = self.error(429, "requests", "Rate limit reached", "rate_limit_exceeded")
        answer.headers["retry-after-ms"] = "20"
        for kind, limit, left in (("requests", "2000", "0"), ("tokens", "150000", "149984")):
            answer.headers[f"x-ratelimit-limit-{kind}"] = limit
            answer.headers[f"x-ratelimit-remaining-{kind}"] = left
            answer.headers[f"x-ratelimit-reset-{kind}"] = "20ms"
        return answer

    # --- files ----------------------------------------------------------------------------------

    async def _upload(self, request: web.Request) -> web.Response:
        purpose = name = ""
        content = b""
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                continue
            if part.name == "purpose":
                purpose = await part.text()
            elif part.name == "file":
                name, content = part.filename or "", bytes(await part.read())
        if purpose != "batch" or not name:
            return self.error(400, "invalid_request_error", "a file and its purpose are required")
        if len(content) > MOST_BYTES:
            return self.error(413, "invalid_request_error", "the file is too large")
        return as_json(self._store(name, "batch", content).document())

    def _store(self, name: str, purpose: str, content: bytes) -> File:
        file = File(self.new_id("file-"), name, purpose, content, int(self._now()))
        self.files[file.id] = file
        return file

    async def _files(self, request: web.Request) -> web.Response:
        purpose = request.query.get("purpose")
        found = [f.document() for f in self.files.values() if purpose in (None, f.purpose)]
        if request.query.get("order") != "asc":
            found.reverse()
        listed = self.page(found, request, default=10_000, most=10_000)
        return as_json({"object": "list", **listed})

    def _stored(self, request: web.Request) -> File:
        file = self.files.get(request.match_info["id"])
        if file is None:
            raise self.refused(404, "invalid_request_error", "No such File object")
        return file

    async def _file(self, request: web.Request) -> web.Response:
        return as_json(self._stored(request).document())

    async def _content(self, request: web.Request) -> web.StreamResponse:
        found = self._stored(request).content.splitlines()
        return await lines(request, found, cut=self.faults.strikes("content cut"))

    async def _delete(self, request: web.Request) -> web.Response:
        file = self.files.pop(self._stored(request).id)
        return as_json({"id": file.id, "object": "file", "deleted": True})

    # --- batches --------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.Response:
        asked = decode(await request.read())
        if asked.get("completion_window") != "24h" or asked.get("endpoint") not in ENDPOINTS:
            return self.error(400, "invalid_request_error", "Invalid endpoint or window")
        metadata = asked.get("metadata") or {}
        if any(len(k) > 64 or len(v) > 512 for k, v in metadata.items()) or len(metadata) > 16:
            return self.error(400, "invalid_request_error", "metadata is too large")
        if asked.get("input_file_id") not in self.files:
            return self.error(400, "invalid_request_error", "No such File object")
        now, pace = self._now(), self.next_pace()
        state: Document = {
            "id": self.new_id("batch_"),
            "object": "batch",
            "endpoint": asked["endpoint"],
            "model": None,
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(now),
            "expires_at": int(now + pace.expires),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "usage": None,
            "metadata": metadata,
            **dict.fromkeys(MOMENTS),
        }
        self.jobs[state["id"]] = Job(state, now, pace)
        return as_json(state)

    async def _batches(self, request: web.Request) -> web.Response:
        found = [self.look(job) for job in reversed(self.jobs.values())]
        return as_json({"object": "list", **self.page(found, request, most=100)})

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self.found(request)
        if job.state["status"] not in ("validating", "in_progress"):
            return self.error(409, "invalid_request_error", "It cannot be cancelled any more")
        job.cancelled_at = self._now()
        job.state |= {"status": "cancelling", "cancelling_at": int(job.cancelled_at)}
        return as_json(job.state)

    def look(self, job: Job) -> Document:
        """Goes through all states that have come meanwhile, in their order."""
        now = self._now()
        if job.state["status"] == "validating" and now >= job.at("in_progress"):
            self._validate(job, int(job.at("in_progress")))
        if job.over:
            return job.state
        stage, done = job.stage(now)
        job.state["request_counts"] |= {"total": len(job.requests), "completed": done}
        if stage in ("finalizing", "completed"):
            job.state |= {"status": "finalizing", "finalizing_at": int(job.at("finalizing"))}
        if stage == "completed":
            self._end(job, stage, done, job.at("completed"))
        elif stage == "expired":
            self._end(job, stage, done, job.born + job.pace.expires)
        elif stage == "cancelled":
            self._end(job, stage, done, (job.cancelled_at or 0.0) + job.pace.finalizing)
        return job.state

    def _validate(self, job: Job, now: int) -> None:
        content = self.files[job.state["input_file_id"]].content
        job.requests, errors = requests_of(content, job.state["endpoint"])
        enqueued = sum(len(j.requests) for j in self.jobs.values() if not j.over)
        if not errors and enqueued > self.most_enqueued:
            text = "Enqueued token limit reached. Please try again once some batches have completed"
            errors.append(problem("token_limit_exceeded", text))
        if errors:
            job.state |= {"status": "failed", "failed_at": now}
            job.state["errors"] = {"object": "list", "data": errors}
            job.requests.clear()
            job.over = True
        else:
            model = job.requests[0]["body"].get("model")
            job.state |= {"status": "in_progress", "in_progress_at": now, "model": model}

    def _end(self, job: Job, status: str, done: int, when: float) -> None:
        output: list[Document] = []
        failed: list[Document] = []
        answer_of = self.answer or partial(told, endpoint=job.state["endpoint"])
        for request in job.requests[:done]:
            answer = answer_of(request["custom_id"], request["body"])
            if answer is not None:
                code, body = answer
                response = {"status_code": code, "request_id": self.new_id("req_"), "body": body}
                line = self._line(request, response, None)
                (output if code == 200 else failed).append(line)
        if status == "expired":
            text = "This request could not be executed before the completion window expired."
            error = {"code": "batch_expired", "message": text}
            failed += [self._line(request, None, error) for request in job.requests[done:]]
        for name, found in (("output", self.disturbed(output)), ("error", failed)):
            if found:
                content = b"".join(encode(line) + b"\n" for line in found)
                file = self._store(f"{job.state['id']}_{name}.jsonl", "batch_output", content)
                job.state[f"{name}_file_id"] = file.id
        job.over = True
        job.state["request_counts"] |= {"completed": len(output), "failed": len(failed)}
        job.state["usage"] = usage_of(output)
        job.state |= {"status": status, f"{status}_at": int(when)}

    def _line(self, request: Document, response: object, error: object) -> Document:
        return {
            "id": self.new_id("batch_req_"),
            "custom_id": request["custom_id"],
            "response": response,
            "error": error,
        }

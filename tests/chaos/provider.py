"""A provider of batch jobs that misbehaves by seed, and keeps a book of every job it was given.

It is one of the stand-ins that the contract suite drives with the official packages, in a process
of its own, so that nothing which happens to the conductor happens to the witness. Besides the
provider's own routes it has

    POST /calm    from now on it behaves
    GET /book     all that has become of all jobs: see `book`

A request whose body says {"poison": ...} is never done: "item" is refused as a line of a job's
results, "line" fails the job in its validation and is named there, and "request" has the creation
of the whole job refused without a name.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from typing import Any, Literal

from aiohttp import web

import providers.anthropic as claude
import sluiced.tools.demo.openai_api as openai
from harness.child import Child
from sluiced.tools.demo.provider import Document, decode, encode, served

from .book import Book, Booked, Said, digest
from .sink import Coordinates
from .weather import Weather

Company = Literal["openai", "anthropic"]
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Stormy:
    """What both have in common."""

    weather: Weather
    ended: dict[str, float]

    def _stormy(self, routes: Iterable[web.RouteDef]) -> Iterable[web.RouteDef]:
        for route in routes:
            yield web.route(route.method, route.path, self._late(route.handler), **route.kwargs)
        yield web.post("/calm", self._calm)
        yield web.get("/book", self._book)

    async def _calm(self, _: web.Request) -> web.Response:
        self.weather.calm = True
        return web.Response()

    async def _book(self, _: web.Request) -> web.Response:
        book = self.book()
        jobs = [
            asdict(job) | {"said": [[*w, *s] for w, s in job.said.items()]} for job in book.jobs
        ]
        return web.json_response({**asdict(book), "jobs": jobs})

    def book(self) -> Book:
        raise NotImplementedError

    def _late(self, handler: _Handler) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(self.weather.delay())
            try:
                response = await handler(request)
            except ConnectionResetError:  # whoever asked is gone
                return web.Response()
            await asyncio.sleep(self.weather.delay())
            return response

        return handle


class StormyOpenAI(_Stormy, openai.OpenAI):
    def __init__(self, seed: int) -> None:
        openai.OpenAI.__init__(self)
        self.weather = self.faults = Weather(seed)
        self.answer, self.ended = self._told, {}
        self._asked: dict[str, list[Document]] = {}  # the lines of each job, whose file may go

    def routes(self) -> Iterable[web.RouteDef]:
        return self._stormy(super().routes())

    def _told(self, name: str, body: Document) -> tuple[int, Document] | None:
        match self.weather.fate(name, body.get("poison")):
            case "refused":
                return 400, {"error": {"message": "not acceptable", "type": "x", "code": None}}
            case "throttled":
                return 429, {"error": {"message": "slow down", "type": "x", "code": None}}
            case "broken":
                return 500, {"error": {"message": "oops", "type": "x", "code": None}}
            case "missing":
                return None
        return openai.told(name, body)

    async def _create(self, request: web.Request) -> web.Response:
        file = self.files.get(decode(await request.read()).get("input_file_id"))
        lines = _lines(file.content) if file else []
        if any(line["body"].get("poison") == "request" for line in lines):
            return self.error(400, "invalid_request_error", "something in here is not acceptable")
        self.pace = self.weather.pace()
        response = await super()._create(request)
        self._asked |= dict.fromkeys(self.jobs.keys() - self._asked.keys(), lines)
        return (
            self.error(502, "server_error", "bad gateway") if self.weather.disowns() else response
        )

    def _validate(self, job: openai.Job, now: int) -> None:
        if job.state["input_file_id"] not in self.files:
            self.weather.struck["jobs failed, their file was deleted"] += 1
            self._fail(job, now, [_unnamed("invalid_input_file")])
            return
        super()._validate(job, now)
        named = [
            {"code": "invalid_request", "message": "not acceptable", "param": None, "line": number}
            for number, line in enumerate(job.requests, 1)
            if line["body"].get("poison") == "line"
        ]
        if not named and self.weather.queue_full():
            named = [_unnamed("token_limit_exceeded")]
        elif not named and self.weather.failed(len(job.requests)):
            named = [_unnamed("internal_error")]
        if named:
            self._fail(job, now, named)

    def _fail(self, job: openai.Job, now: int, errors: list[Document]) -> None:
        job.state |= {"status": "failed", "failed_at": now}
        job.state["errors"] = {"object": "list", "data": errors}
        job.requests.clear()
        job.over = True
        self.ended[job.state["id"]] = time.time()

    def _end(self, job: openai.Job, status: str, done: int, when: float) -> None:
        self.results = self.weather.results()
        super()._end(job, status, done, when)
        self.ended[job.state["id"]] = time.time()

    def book(self) -> Book:
        used = {job.state["input_file_id"] for job in self.jobs.values()}
        loose = [f.name for f in self.files.values() if f.purpose == "batch" and f.id not in used]
        return Book(
            [self._booked(job) for job in self.jobs.values()], loose, dict(self.weather.struck)
        )

    def _booked(self, job: openai.Job) -> Booked:
        state = job.state
        asked = [_place(line) for line in self._asked[state["id"]]]
        said: dict[Coordinates, tuple[Said, str]] = dict.fromkeys(asked, ("working", ""))
        if job.over:
            said = dict.fromkeys(asked, ("again" if state["status"] == "failed" else "missing", ""))
        for kind in ("output_file_id", "error_file_id"):
            for line in _lines(self.files[state[kind]].content) if state[kind] else ():
                if (place := _place(line)) in said:
                    said[place] = _judged(line["response"])
        for error in (state["errors"] or {}).get("data", ()):
            if error["line"]:
                said[asked[error["line"] - 1]] = ("refused", "")
        ended = self.ended.get(state["id"])
        return Booked(state["id"], job.born, ended, state["status"], said)


class StormyAnthropic(_Stormy, claude.Anthropic):
    def __init__(self, seed: int) -> None:
        claude.Anthropic.__init__(self)
        self.weather = self.faults = Weather(seed)
        self.answer, self.ended = self._told, {}

    def routes(self) -> Iterable[web.RouteDef]:
        return self._stormy(super().routes())

    def _told(self, name: str, params: Document) -> Document | None:
        match self.weather.fate(name, params.get("poison")):
            case "refused":
                return claude.errored("invalid_request_error", "not acceptable")
            case "throttled":
                return claude.errored("rate_limit_error", "slow down")
            case "broken":
                return claude.errored("api_error", "oops")
            case "missing":
                return None
        return claude.told(name, params)

    async def _create(self, request: web.Request) -> web.Response:
        asked = decode(await request.read()).get("requests") or []
        if any(each["params"].get("poison") == "request" for each in asked):
            return self.error(400, "invalid_request_error", "something in here is not acceptable")
        self.pace = self.weather.pace()
        response = await super()._create(request)
        return self.error(502, "api_error", "bad gateway") if self.weather.disowns() else response

    def _end(self, job: claude.Job, done: int, rest: str, when: float) -> None:
        self.results = self.weather.results()
        super()._end(job, done, rest, when)
        self.ended[job.state["id"]] = time.time()

    def book(self) -> Book:
        return Book([self._booked(j) for j in self.jobs.values()], [], dict(self.weather.struck))

    def _booked(self, job: claude.Job) -> Booked:
        asked = [_place(line) for line in job.requests]
        lines = self._lines.get(job.state["id"], [])
        said: dict[Coordinates, tuple[Said, str]]
        said = dict.fromkeys(asked, ("missing" if job.over else "working", ""))
        for line in map(decode, lines):
            if (place := _place(line)) in said:
                said[place] = _concluded(line["result"])
        name, status = job.state["id"], job.state["processing_status"]
        return Booked(name, job.born, self.ended.get(name), status, said)


def _unnamed(code: str) -> Document:
    return {"code": code, "message": "not now", "param": None, "line": None}


def _lines(content: bytes) -> list[Document]:
    return [decode(line) for line in content.splitlines()]


def _place(line: Document) -> Coordinates:
    """The coordinates that a custom_id ends with; (-1, -1) for one that is nobody's."""
    *_, partition, offset = line["custom_id"].split("-")
    return (int(partition), int(offset)) if offset.isdigit() else (-1, -1)


def _judged(response: Document | None) -> tuple[Said, str]:
    if response is None or response["status_code"] in (429, 500):
        return "again", ""
    return ("done", digest(encode(response["body"]))) if response["status_code"] == 200 else _NO


def _concluded(result: Document) -> tuple[Said, str]:
    if result["type"] == "succeeded":
        return "done", digest(encode(result["message"]))
    refused = result["type"] == "errored" and result["error"]["error"]["type"].startswith("invalid")
    return _NO if refused else ("again", "")


_NO: tuple[Said, str] = ("refused", "")


COMPANIES: dict[Company, Callable[[int], Any]] = {
    "openai": StormyOpenAI,
    "anthropic": StormyAnthropic,
}


class ProviderProcess(Child):
    """The provider as a child process."""

    def __init__(self, company: Company, seed: int) -> None:
        super().__init__("chaos.provider", company, str(seed))

    def calm(self) -> None:
        self._told("/calm", b"")

    def book(self) -> Book:
        return Book.of(json.loads(self._told("/book")))

    def _told(self, target: str, body: bytes | None = None) -> bytes:
        return self.ask(target, body, **{"X-Api-Key": "the auditor's"})


async def serve(company: Company, seed: int) -> None:
    async with served(COMPANIES[company](seed)) as url:
        print(url.rpartition(":")[2], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve("openai" if sys.argv[1] == "openai" else "anthropic", int(sys.argv[2])))

"""What the stand-ins for providers of batch jobs have in common.

They are written from the official Python packages' types and documents, and the contract suite
drives them with those packages, so that no shape is an invention of ours. Nothing in them is
random: ids count up, and time passes by the clock that they are given.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import anyio
import msgspec
from aiohttp import web

LARGEST_UPLOAD = 512 * 1000**2  # bytes

Document = dict[str, Any]
Stage = Literal[
    "validating", "working", "finalizing", "completed", "expired", "cancelling", "cancelled"
]

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class Pace:
    """How many seconds a job takes: to be looked through, to be worked on, and to be wound up.

    One that is not done `expires` seconds after its creation is ended with what there is.
    """

    validating: float = 0.0
    working: float = 0.0
    finalizing: float = 0.0
    expires: float = 86_400.0

    def done(self, total: int, elapsed: float) -> int:
        """How many of a job's lines are done so long after its creation."""
        elapsed = min(elapsed, self.expires) - self.validating
        if elapsed >= self.working:
            return total if elapsed >= 0 else 0
        return max(0, int(total * elapsed / self.working))


@dataclass(slots=True)
class Job:
    """`state` is the document that is told of it; `requests` are what is to be worked on.

    `over` once its results stand fast.
    """

    state: Document
    born: float
    pace: Pace
    requests: list[Document] = field(default_factory=list)
    cancelled_at: float | None = None
    over: bool = False

    def stage(self, now: float) -> tuple[Stage, int]:
        """How far it is by the clock, and how many of its requests are done."""
        pace, total = self.pace, len(self.requests)
        if self.cancelled_at is not None:
            done = pace.done(total, self.cancelled_at - self.born)
            ended = now >= self.cancelled_at + pace.finalizing
            return ("cancelled" if ended else "cancelling"), done
        if now < self.at("in_progress"):
            return "validating", 0
        done = pace.done(total, now - self.born)
        if done < total:
            return ("expired" if now - self.born >= pace.expires else "working"), done
        return ("completed" if now >= self.at("completed") else "finalizing"), done

    def at(self, moment: Literal["in_progress", "finalizing", "completed"]) -> float:
        """When it comes to that, if all goes well."""
        after = {"in_progress": 0.0, "finalizing": self.pace.working}
        wound_up = self.pace.working + self.pace.finalizing
        return self.born + self.pace.validating + after.get(moment, wound_up)


class RefusedError(Exception):
    """Ends a request with this answer."""

    def __init__(self, answer: web.Response) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Faults(Counter[str]):
    """How often each thing is to go wrong yet."""

    def strikes(self, name: str) -> bool:
        if self[name] <= 0:
            return False
        self[name] -= 1
        return True


class Provider(ABC):
    """The jobs of a provider, what is to go wrong with them, and its own words for errors.

    Faults, each so often: "<verb> throttled", "<verb> unavailable", "<verb> lost" (done, but the
    answer does not come), "<verb> stalled" and "<verb> broken" (both in the middle of the request),
    where a verb is the name of a route. Of results, while they are set: "unordered", "doubled",
    "unknown".
    `answered` is awaited when a request has been obeyed and not yet answered: the moment at which a
    crash of the client is most awkward.
    """

    request_header: str  # of the request's id, in each answer

    def __init__(self, pace: Pace | None = None, now: Callable[[], float] = time.time) -> None:
        self.pace = pace or Pace()
        self.faults = Faults()
        self.requests: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}  # of every answer, besides its own
        self.results: set[str] = set()
        self.jobs: dict[str, Job] = {}
        self.answered: Callable[[str], Awaitable[None]] | None = None
        self.url = ""  # while it is served
        self._now = now
        self._ids = 0

    @abstractmethod
    def routes(self) -> Iterable[web.RouteDef]: ...

    @abstractmethod
    def error(self, status: int, kind: str, message: str) -> web.Response: ...

    @abstractmethod
    def throttled(self) -> web.Response: ...

    @abstractmethod
    def look(self, job: Job) -> Document:
        """The job as it is by now: its state is brought up to date and returned."""

    def next_pace(self) -> Pace:
        """Of the job that is being made."""
        return replace(self.pace)

    def refused(self, status: int, kind: str, message: str) -> RefusedError:
        return RefusedError(self.error(status, kind, message))

    def found(self, request: web.Request) -> Job:
        """The job that the path names, as it is by now. Raises RefusedError if there is none."""
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            raise self.refused(404, self.not_found, "there is no batch with this id")
        self.look(job)
        return job

    not_found = "invalid_request_error"

    async def _poll(self, request: web.Request) -> web.Response:
        return as_json(self.found(request).state)

    def new_id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}{self._ids:024x}"

    def page(
        self,
        found: Sequence[Document],
        request: web.Request,
        *,
        default: int = 20,
        most: int,
        after: str = "after",
        before: str = "",
    ) -> Document:
        """A page of what is listed, after the id that one cursor names or before that of another.

        Raises RefusedError where the request asks for a page that cannot be.
        """
        limit = request.query.get("limit", str(default))
        if not limit.isdecimal() or not 1 <= int(limit) <= most:
            raise self.refused(400, "invalid_request_error", f"limit is from 1 to {most}")
        places = {each["id"]: index for index, each in enumerate(found)}
        try:
            if (named := request.query.get(before)) is not None:
                end = places[named]
                start = max(0, end - int(limit))
                more = start > 0
            else:
                named = request.query.get(after)
                start = 0 if named is None else places[named] + 1
                end = min(len(found), start + int(limit))
                more = end < len(found)
        except KeyError:
            raise self.refused(400, "invalid_request_error", "the cursor is no id") from None
        shown = found[start:end]
        first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
        return {"data": shown, "has_more": more, "first_id": first, "last_id": last}

    def disturbed(self, found: list[Document]) -> list[Document]:
        """Lines of results, with what is to be wrong about them."""
        if "unordered" in self.results:
            found = found[::-1]
        if "doubled" in self.results:
            found = found + found[:1]
        if "unknown" in self.results and found:
            found = [*found, {**found[0], "custom_id": "not-one-of-yours"}]
        return found


def _middleware(provider: Provider, over: anyio.Event) -> Any:
    @web.middleware
    async def handle(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        provider.requests.append((request.method, request.path))
        verb = request.match_info.route.name or "?"
        try:
            response = await _response(provider, over, verb, request, handler)
        except RefusedError as refusal:
            response = refusal.answer
        if provider.answered is not None:
            await provider.answered(verb)
        if provider.faults.strikes(f"{verb} lost"):
            _hang_up(request)  # it is done, and nobody will ever be told
        return response

    return handle


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _response(
    provider: Provider,
    over: anyio.Event,
    verb: str,
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not (bearer or request.headers.get("X-Api-Key")):
        return provider.error(401, "authentication_error", "no API key was given")
    if provider.faults.strikes(f"{verb} throttled"):
        return provider.throttled()
    if provider.faults.strikes(f"{verb} unavailable"):
        return provider.error(500, "api_error", "something went wrong here")
    if provider.faults.strikes(f"{verb} stalled"):
        await over.wait()  # and nothing more of the request is read
        _hang_up(request)
    if provider.faults.strikes(f"{verb} broken"):
        await request.content.readany()
        _hang_up(request)
    return await handler(request)


@asynccontextmanager
async def served(provider: Provider, port: int = 0) -> AsyncIterator[str]:
    """The provider on loopback: its address, without a path."""
    over = anyio.Event()
    handle = _middleware(provider, over)
    app = web.Application(client_max_size=LARGEST_UPLOAD, middlewares=[handle])
    app.router.add_routes(list(provider.routes()))

    async def name_it(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(provider.headers)
        response.headers.setdefault(provider.request_header, provider.new_id("req_"))

    app.on_response_prepare.append(name_it)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield provider.url
    finally:
        over.set()
        await runner.cleanup()


def as_json(document: object, status: int = 200, **headers: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(
        body=encode(document), status=status, content_type="application/json", headers=named
    )


async def lines(request: web.Request, found: Sequence[bytes], *, cut: bool) -> web.StreamResponse:
    """Streams lines, or, `cut`, some of them and then the connection is gone."""
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = sum(len(line) + 1 for line in found)
    await response.prepare(request)
    told = found[: len(found) // 2] if cut else found
    for line in told:
        await response.write(line + b"\n")
    if cut:
        if len(found) > len(told):
            await response.write(found[len(told)][:-1])
        if request.transport is not None:
            request.transport.close()
        return response
    await response.write_eof()
    return response

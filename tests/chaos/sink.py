"""A bulk API that honours Idempotency-Key, misbehaves by seed, and writes down all it does.

It is a process of its own, so that nothing which happens to the conductor happens to the witness.

    POST /bulk    a batch: [{"p": partition, "o": offset, "k": key, "v": value}, ...]
    POST /calm    from now on it behaves

The first request with a key is carried out, and its answer is remembered and repeated to all that
come later with the same key and body. While the first is being worked on, others get 409. The same
key with another body gets 422, which no client that keeps its promises ever sees. An answer that
puts off everything is not remembered, since nothing was carried out.

Each attempt becomes one line of JSON in the journal: see `Attempt`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import IO, Any, Literal

from aiohttp import web

from harness.child import Child

Coordinates = tuple[int, int]  # partition and offset

# How an attempt ended. `applied`, `refused` and `vanished` are first attempts that were carried
# out; `vanished` got no answer. `repeated` was answered from memory, `mismatch` is the 422.
How = Literal[
    "applied", "refused", "vanished", "repeated", "busy", "mismatch", "throttled", "unavailable"
]

# So often each of these happens to a request, of a thousand.
_THROTTLED, _UNAVAILABLE, _VANISHED, _PARTIAL, _SLOW, _VERY_SLOW = 20, 20, 25, 100, 150, 5
_LATER_AT_MOST = 2  # times that one record is put off; the daemon's patience is 5


@dataclass(frozen=True)
class Attempt:
    """One request as the sink saw it.

    `at` is when it came, `until` when it was answered, in seconds since 1970. `records` are the
    coordinates in the request; `applied` those that it changed the world for, each with the
    record's key.
    """

    key: str
    at: float
    until: float
    how: How
    status: int
    records: list[Coordinates]
    applied: list[tuple[int, int, str]] = field(default_factory=list)


@dataclass
class _Answer:
    """What is remembered of a key. Without `status` it is still being worked on."""

    digest: bytes
    status: int = 0
    body: object = None


class State:
    """The sink without its HTTP. All its delays are taken times `pace`."""

    def __init__(self, seed: int, journal: IO[str], pace: float = 1.0) -> None:
        self.calm = False
        self._pace = pace
        self._random = Random(seed)
        self._journal = journal
        self._answers: dict[str, _Answer] = {}
        self._later: Counter[Coordinates] = Counter()

    def write(self, attempt: Attempt) -> None:
        self._journal.write(json.dumps(asdict(attempt)) + "\n")
        self._journal.flush()

    def roll(self, of_a_thousand: int) -> bool:
        return not self.calm and self._random.randrange(1000) < of_a_thousand

    def delay(self) -> float:
        """Seconds; now and then more than one attempt of the daemon may take."""
        if self.roll(_VERY_SLOW):
            return self._pace * self._random.uniform(3, 7)
        return self._pace * self._random.uniform(0.05, 0.8) if self.roll(_SLOW) else 0.0

    def known(self, key: str, digest: bytes) -> tuple[How, int, object] | None:
        """The answer to a request whose key has been seen; None if it is the first."""
        answer = self._answers.get(key)
        if answer is None:
            return None
        if answer.digest != digest:
            return "mismatch", 422, {"error": "this key came with another body"}
        if not answer.status:
            return "busy", 409, {"error": "the first request with this key is being worked on"}
        return "repeated", answer.status, answer.body

    def take(self, key: str, digest: bytes) -> None:
        """From now on the key is known, and being worked on."""
        self._answers[key] = _Answer(digest)

    def carry_out(self, items: Sequence[dict[str, Any]]) -> tuple[int, object, list[Any]]:
        """Status and body of the answer, and the items that were applied."""
        if any(_poison(item) == "request" for item in items):
            return 400, {"error": "something in here is not acceptable"}, []
        put_off = self.roll(_PARTIAL)
        answers: list[object] = []
        applied = []
        for item in items:
            place = (item["p"], item["o"])
            if _poison(item) == "item":
                answers.append({"status": 422, "error": "not acceptable"})
            elif put_off and self._later[place] < _LATER_AT_MOST and self._random.random() < 0.2:
                self._later[place] += 1
                answers.append(self._random.choice([{"status": 503}, {"status": 429}, None]))
            else:
                answers.append({"status": 201})
                applied.append(item)
        return 200, {"items": answers}, applied

    def remember(self, key: str, status: int, body: Any) -> None:
        if status == 200 and not any(map(_settled, body["items"])):
            del self._answers[key]
            return
        answer = self._answers[key]
        answer.status, answer.body = status, body


def _settled(answer: Any) -> bool:
    return answer is not None and answer["status"] in (201, 422)


def _poison(item: dict[str, Any]) -> object:
    value = item["v"]
    return value.get("poison") if isinstance(value, dict) else None


class Handler:
    """The HTTP of it. aiohttp lets a handler go on when its client is gone, as servers do."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/calm":
            self._state.calm = True
            return web.Response()
        body = await request.read()  # half a body raises, and half a request has not been made
        return await self._bulk(request, body)

    async def _bulk(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        state, at = self._state, time.time()
        key = request.headers["Idempotency-Key"]
        items = json.loads(body)
        records = [(item["p"], item["o"]) for item in items]

        def answered(
            how: How, status: int, content: object, applied: Sequence[dict[str, Any]] = ()
        ) -> web.Response:
            done = [(item["p"], item["o"], item["k"]) for item in applied]
            state.write(Attempt(key, at, time.time(), how, status, records, done))
            wait = {"Retry-After": "0.1"} if how == "throttled" else {}
            return web.json_response(content, status=status, headers=wait)

        if state.roll(_THROTTLED):
            return answered("throttled", 429, {"error": "too many"})
        if state.roll(_UNAVAILABLE):
            return answered("unavailable", 503, {"error": "down"})
        digest = blake2b(body).digest()
        if found := state.known(key, digest):
            return answered(*found)
        state.take(key, digest)
        await asyncio.sleep(state.delay())  # before it is carried out ...
        status, content, applied = state.carry_out(items)
        lost = state.roll(_VANISHED)
        how: How = "vanished" if lost else "applied" if status < 300 else "refused"
        response = answered(how, status, content, applied)
        await asyncio.sleep(state.delay())  # ... and between that and the answer
        state.remember(key, status, content)
        if lost and request.transport is not None:
            request.transport.abort()
        return response


async def serve(seed: int, journal: Path, pace: float) -> None:
    with journal.open("w") as lines:
        server = web.Server(Handler(State(seed, lines, pace)))
        runner = web.ServerRunner(server)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()


class SinkProcess(Child):
    """The sink as a child process, which flushes its journal with every line."""

    def __init__(self, seed: int, journal: Path, pace: float = 1.0) -> None:
        self.journal = journal
        super().__init__("chaos.sink", str(seed), str(journal), str(pace))

    def calm(self) -> None:
        self.ask("/calm", b"")

    def attempts(self) -> list[Attempt]:
        """The journal so far, but for a line that is just being written."""
        return [_attempt(line) for line in self.journal.read_text().split("\n")[:-1]]


def _attempt(line: str) -> Attempt:
    fields = json.loads(line)
    fields["records"] = [(p, o) for p, o in fields["records"]]
    fields["applied"] = [(p, o, k) for p, o, k in fields["applied"]]
    return Attempt(**fields)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("seed", type=int)
    arguments.add_argument("journal", type=Path)
    arguments.add_argument("pace", type=float)
    chosen = arguments.parse_args()
    asyncio.run(serve(chosen.seed, chosen.journal, chosen.pace))

"""The demo's bulk API does what the demo's audit relies on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from sluiced.tools.demo.bulk_api import BulkApi, Caps, serve

pytestmark = pytest.mark.anyio

WIDE = Caps(items=3, bytes=2_000, rate=1_000, burst=1_000)


class Client:
    """Speaks to one API; `now` is the clock of its rate limit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.before_answer: Callable[[], Awaitable[None]] | None = None

    async def open(self, caps: Caps) -> AsyncIterator[Client]:
        self.api = BulkApi(self.path, caps, self._before_answer, clock=lambda: self.now)
        async with serve(self.api) as self._url, aiohttp.ClientSession() as self._session:
            yield self

    async def _before_answer(self) -> None:
        if self.before_answer is not None:
            await self.before_answer()

    async def send(self, body: bytes, key: str | None = "k") -> tuple[int, Any, str]:
        """Status, decoded answer and Retry-After."""
        headers = {} if key is None else {"Idempotency-Key": key}
        async with self._session.post(f"{self._url}/bulk", data=body, headers=headers) as answer:
            text = await answer.text()
            decoded = json.loads(text) if answer.content_type == "application/json" else text
            return answer.status, decoded, answer.headers.get("Retry-After", "")

    async def put(self, *items: dict[str, Any], key: str = "k") -> list[int]:
        """The items' statuses."""
        status, answer, _ = await self.send(envelope(*items), key)
        assert status == 200
        return [each["status"] for each in answer["responses"]]

    def rows(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute("SELECT id, slug FROM pages ORDER BY rowid").fetchall()


def item(number: int, **fields: Any) -> dict[str, Any]:
    source = {"topic": "pages", "partition": 0, "offset": number, "timestamp": 1_000}
    page = {"slug": f"town-{number}", "title": "Town", "population": 5} | fields
    return {"id": f"pages-0-{number}", "source": source, "body": page}


def envelope(*items: dict[str, Any]) -> bytes:
    return json.dumps({"requests": items}).encode()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async for client in Client(tmp_path / "pages.sqlite").open(WIDE):
        yield client


async def test_each_item_has_an_answer_of_its_own_and_a_refused_one_says_why(
    client: Client,
) -> None:
    body = envelope(item(1), item(2, population=-1), item(3, title=""))
    status, answer, _ = await client.send(body)
    assert status == 200
    assert [(each["id"], each["status"]) for each in answer["responses"]] == [
        ("pages-0-1", 201),
        ("pages-0-2", 422),
        ("pages-0-3", 422),
    ]
    assert "population" in answer["responses"][1]["body"]["message"]
    assert client.rows() == [("pages-0-1", "town-1")]


@pytest.mark.parametrize(
    "fields", [{"population": "many"}, {"population": 10**30}, {"slug": ""}, {"title": None}]
)
async def test_a_field_that_cannot_be_is_the_fault_of_its_item_alone(
    client: Client, fields: dict[str, Any]
) -> None:
    assert await client.put(item(1, **fields), item(2)) == [422, 201]


async def test_a_repeated_key_gets_the_stored_answer_and_changes_nothing(client: Client) -> None:
    assert await client.put(item(1), item(2, population=-1)) == [201, 422]
    assert await client.put(item(1), item(2, population=-1)) == [201, 422]
    assert client.rows() == [("pages-0-1", "town-1")]
    assert (client.api.counts.applied, client.api.counts.replayed) == (1, 1)
    assert client.api.counts.created == 1


async def test_a_key_that_comes_back_with_other_content_is_refused(client: Client) -> None:
    await client.put(item(1))
    status, _, _ = await client.send(envelope(item(2)))
    assert status == 422
    assert client.rows() == [("pages-0-1", "town-1")]


async def test_a_key_that_is_being_worked_on_is_still_in_flight_and_free_afterwards(
    client: Client,
) -> None:
    committed, answer = anyio.Event(), anyio.Event()

    async def hold() -> None:
        committed.set()
        await answer.wait()

    client.before_answer = hold
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.put, item(1))
        await committed.wait()
        status, _, _ = await client.send(envelope(item(1)))
        assert status == 409
        answer.set()
    assert await client.put(item(1)) == [201]
    assert client.api.counts.replayed == 1


async def test_a_page_sent_again_under_another_key_exists_and_is_not_doubled(
    client: Client,
) -> None:
    await client.put(item(1), item(2), key="a")
    assert await client.put(item(2), item(3), key="b") == [409, 201]
    assert [slug for _, slug in client.rows()] == ["town-1", "town-2", "town-3"]
    assert client.api.counts.existing == 1


async def test_an_id_that_comes_back_with_other_content_does_not_pass_for_existing(
    client: Client,
) -> None:
    await client.put(item(1), key="a")
    assert await client.put(item(1, title="City"), key="b") == [422]


async def test_a_record_that_comes_under_two_ids_shows_as_two_rows(client: Client) -> None:
    await client.put(item(1), item(1) | {"id": "another"})
    assert client.rows() == [("pages-0-1", "town-1"), ("another", "town-1")]


async def test_items_are_taken_up_to_the_cap_and_no_further(client: Client) -> None:
    status, _, _ = await client.send(envelope(*map(item, range(4))), key="four")
    assert status == 413
    assert client.rows() == []
    assert await client.put(*map(item, range(3)), key="three") == [201] * 3


async def test_bytes_are_taken_up_to_the_cap_and_no_further(client: Client) -> None:
    room = WIDE.bytes - len(envelope(item(1, text="")))
    status, _, _ = await client.send(envelope(item(1, text="x" * (room + 1))), key="over")
    assert status == 413
    assert client.rows() == []
    assert await client.put(item(1, text="x" * room), key="exactly") == [201]


async def test_a_request_over_the_rate_is_told_how_many_seconds_to_wait(tmp_path: Path) -> None:
    caps = Caps(items=1, bytes=2_000, rate=0.25, burst=2)
    async for client in Client(tmp_path / "pages.sqlite").open(caps):
        assert await client.put(item(1), key="1") == [201]
        assert await client.put(item(2), key="2") == [201]
        client.now = 1.5
        assert (await client.send(envelope(item(3)), key="3"))[::2] == (429, "3")
        client.now = 4.0
        assert await client.put(item(3), key="3") == [201]
        assert (await client.send(envelope(item(4)), key="4"))[0] == 429
        assert client.api.counts.throttled == 2


async def test_a_long_silence_saves_up_no_more_than_the_burst(tmp_path: Path) -> None:
    caps = Caps(items=1, bytes=2_000, rate=1, burst=2)
    async for client in Client(tmp_path / "pages.sqlite").open(caps):
        client.now = 1_000.0
        answers = [await client.send(envelope(item(n)), key=str(n)) for n in range(3)]
        assert [status for status, *_ in answers] == [200, 200, 429]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"requests":[{"id":1}]}'])
async def test_a_body_that_is_no_envelope_is_refused_as_a_whole(
    client: Client, body: bytes
) -> None:
    status, _, _ = await client.send(body)
    assert status == 400


async def test_a_request_without_a_key_is_refused(client: Client) -> None:
    status, answer, _ = await client.send(envelope(item(1)), key=None)
    assert status == 400
    assert "Idempotency-Key" in answer["message"]
    assert client.rows() == []


async def test_a_request_that_fails_half_way_leaves_nothing_behind(client: Client) -> None:
    unstorable = item(2)
    unstorable["source"]["offset"] = 2**63  # one more than SQLite's integers hold
    status, _, _ = await client.send(envelope(item(1), unstorable))
    assert status == 500
    assert client.rows() == []
    assert await client.put(item(1)) == [201]

"""A large body is made while it is sent: never more of it is in memory than a piece."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from sluiced.sinks.uploads import PIECE, Upload, form, size_of

pytestmark = pytest.mark.anyio

LINE = b"x" * 1000


def upload(*parts: bytes) -> Upload:
    return Upload("text/plain", sum(map(len, parts)), lambda: iter(parts))


async def sent(body: Upload) -> tuple[list[bytes], list[bool]]:
    """The pieces, and what was said after each."""
    said: list[bool] = []
    return [bytes(piece) async for piece in body.pieces(said.append)], said


async def test_small_parts_are_put_together_and_large_ones_are_cut() -> None:
    parts = [LINE] * 1000 + [b"y" * (3 * PIECE)] + [b"", b"z"]
    pieces, said = await sent(upload(*parts))
    assert b"".join(pieces) == b"".join(parts)
    assert set(map(len, pieces[:-1])) == {PIECE}
    assert said == [False] * (len(pieces) - 1) + [True]


async def test_no_more_of_a_body_is_made_ahead_than_a_piece() -> None:
    made = 0

    def lines() -> Iterator[bytes]:
        nonlocal made
        for _ in range(2000):
            made += len(LINE)
            yield LINE

    left = 0
    async for piece in Upload("text/plain", 2000 * len(LINE), lines).pieces(lambda last: None):
        assert made - left <= PIECE + len(LINE)
        left += len(piece)
    assert left == made == 2000 * len(LINE)


@pytest.mark.parametrize("what", ["size", "pieces"])
async def test_others_have_their_turn_between_two_pieces(what: str) -> None:
    turns, body = 0, upload(*[LINE] * 2000)

    async def others() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await anyio.lowlevel.checkpoint()
        before = turns
        if what == "size":
            assert await size_of(body.parts) == body.size
        else:
            await sent(body)
        during = turns - before
        tasks.cancel_scope.cancel()
    assert during >= body.size // PIECE


async def test_a_form_is_as_long_as_it_says_and_made_again_the_same() -> None:
    body = form("a.jsonl", 3 * len(LINE), lambda: [LINE] * 3, purpose="batch")
    first, second = [await sent(body) for _ in range(2)]
    assert first == second
    assert len(b"".join(first[0])) == body.size
    assert b"".join([LINE] * 3) in b"".join(first[0])

"""What is asked of a sink of either kind: what people see of it before anything is sent."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from ..errors import SluicedError
from ..sinks.settings import ConfiguredSink
from .stand import AnyStand


def possible(
    disturbance: AbstractAsyncContextManager[None] | None, otherwise: str
) -> AbstractAsyncContextManager[None]:
    """Skips the test where the stand cannot be disturbed so."""
    if disturbance is None:
        pytest.skip(f"the stand {otherwise}")
    return disturbance


class CommonContract:
    """A part of both suites."""

    pytestmark = pytest.mark.anyio

    async def test_a_probe_reaches_it_and_changes_nothing(
        self, stand: AnyStand[ConfiguredSink]
    ) -> None:
        await stand.settings().build(stand.line).probe()
        assert await stand.untouched()

    async def test_a_probe_says_what_is_wrong(self, stand: AnyStand[ConfiguredSink]) -> None:
        async with possible(stand.gone(), "cannot go away"):
            with pytest.raises(SluicedError) as caught:
                await stand.settings(timeout="5s").build(stand.line).probe()
        assert caught.value.hint, "what is to be done about it"

    async def test_a_preview_shows_every_record_and_sends_none(
        self, stand: AnyStand[ConfiguredSink]
    ) -> None:
        sink = stand.settings().build(stand.line)
        text = "\n".join(sink.preview(stand.batch(4711, 4712)))
        assert "4711" in text
        assert "4712" in text
        assert await stand.untouched()

    async def test_whether_a_record_may_be_sent_is_said_beforehand(
        self, stand: AnyStand[ConfiguredSink]
    ) -> None:
        async with stand.sink() as sink:
            assert [sink.objection(record) for record in stand.records(1, 2)] == [None, None]

"""Windows cut by the clock, and times at which records are released; on virtual time.

The world of the tests begins on Tuesday, 14 November 2023, at 22:13:20 UTC.
"""

from __future__ import annotations

import anyio
import pytest
from trio.testing import MockClock

from fakes import P0, FakeSink, Log, Rig, after, batch_of, deliver, hang, until
from sluiced.metadata import Entry, encode
from sluiced.outcome import Again
from sluiced.schedule import Active, Align
from sluiced.units import Duration
from sluiced.window import WindowSettings

pytestmark = pytest.mark.anyio

TO_QUARTER = 100  # seconds from the start to 22:15:00
OPEN = Active.parse("22:00-22:15 UTC")
SHUT = Active.parse("22:15-22:30 UTC")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def rig(count: int = 0, *, then: object = deliver, **window: object) -> Rig:
    window = {"max_records": 10, "max_age": Duration(3600)} | window
    log = Log(P0)
    log.append(*[b"{}"] * count)
    settings = WindowSettings(**window)  # type: ignore[arg-type]
    return Rig(FakeSink(then=then), log, window=settings)  # type: ignore[arg-type]


def reasons(r: Rig) -> list[str]:
    return [request.batch.closed_by for request in r.sink.requests]


# --- align ----------------------------------------------------------------------------------------


async def test_a_multiple_on_the_clock_closes_what_is_open() -> None:
    r = rig(3, align=Align.parse("15m"))
    async with r.running():
        await anyio.sleep(TO_QUARTER - 0.1)
        assert r.sink.requests == []
        await until(lambda: r.committed == 3, within=0.6)
    assert reasons(r) == ["align"]
    assert r.count("batches_total", closed_by="align", outcome="delivered") == 1


async def test_no_batch_has_records_of_both_sides_of_a_multiple() -> None:
    r = rig(align=Align.parse("15m"), max_records=1000)
    async with r.running():
        for _ in range(1000):
            await anyio.sleep(0.2)
            r.log.append(b"{}")
        await anyio.sleep(1)
        before, *_ = r.sink.offsets
    at_the_multiple = int(TO_QUARTER / 0.2)
    assert abs(len(before) - at_the_multiple) <= 2
    assert reasons(r) == ["align", "drain"]


async def test_a_multiple_while_the_api_is_busy_still_parts_the_records() -> None:
    r = rig(3, align=Align.parse("15m"), max_age=Duration(1), then=after(150.0))
    async with r.running():
        await anyio.sleep(2)
        r.log.append(*[b"{}"] * 2)
        await anyio.sleep(TO_QUARTER)
        r.log.append(*[b"{}"] * 2)
        await until(lambda: r.committed == 7)
    assert [len(each) for each in r.sink.offsets] == [3, 2, 2]


# --- active ---------------------------------------------------------------------------------------


async def test_outside_of_the_active_times_records_stay_in_kafka_and_the_member_alive() -> None:
    r = rig(5, active=SHUT)
    async with r.running():
        await anyio.sleep(TO_QUARTER - 1)
        assert not r.pipeline.inflow.ready()
        assert r.pipeline.ledger.position(P0) == 0
        assert anyio.current_time() - r.pipeline.inflow.last_turn < 1, "it goes on asking the group"
        assert r.status.state() == ("waiting", "until 22:15 UTC")
        assert r.status.ready() is None
        assert r.status.healthy() == "waiting until 22:15 UTC"
        assert not r.status.gauges().active
        assert r.status.gauges().state == "waiting"
        assert r.status.report()["schedule"] == {
            "active": "22:15-22:30 UTC",
            "align": None,
            "open": False,
            "changes_at": "2023-11-14T22:15:00.000Z",
        }
        r.log.append(*[b"{}"] * 5)
        await until(lambda: r.committed == 10, within=2.5)
        assert r.status.state() == ("running", "")
        assert r.status.healthy() == "ok"
        assert r.status.gauges().active


async def test_what_is_open_when_the_time_is_over_goes_out_at_once() -> None:
    r = rig(13, active=OPEN)
    async with r.running():
        await until(lambda: r.committed == 10)
        await anyio.sleep(TO_QUARTER - 10)
        assert r.committed == 10
        await anyio.sleep(11)
        assert r.committed == 13
        assert reasons(r) == ["records", "drain"]
        r.log.append(b"{}")
        await anyio.sleep(3600)
        assert (r.committed, r.pipeline.ledger.position(P0)) == (13, 13)


async def test_a_batch_that_the_api_does_not_take_before_the_end_is_tried_until_it_does() -> None:
    down = Again("connection", "connection refused")
    r = rig(10, active=OPEN, then=lambda _: down)
    async with r.running():
        await anyio.sleep(TO_QUARTER + 60)
        assert r.status.state()[0] == "outage", "its release is not finished"
        r.sink.then = deliver
        await until(lambda: r.committed == 10)
        assert r.status.state()[0] == "waiting"


async def test_what_hangs_at_the_api_beyond_the_end_is_not_waiting() -> None:
    r = rig(10, active=OPEN, then=hang)
    async with r.running():
        await anyio.sleep(TO_QUARTER + 60)
        assert r.status.state() == ("running", "")
        assert not r.status.gauges().active


async def test_a_stop_outside_of_the_active_times_is_clean() -> None:
    r = rig(5, active=SHUT)
    async with r.running():
        await anyio.sleep(5)
    assert (r.error, r.sink.requests) == (None, [])


async def test_a_halt_outside_of_the_active_times_is_told_first() -> None:
    r = rig(5, active=SHUT)
    async with r.running():
        await anyio.sleep(1)
        r.halt.set("a person must look")
        assert r.status.state()[0] == "halted"


async def test_the_times_may_change_in_a_running_daemon() -> None:
    r = rig(10, active=SHUT)
    async with r.running():
        await anyio.sleep(1)
        r.pipeline.buffer.adopt(WindowSettings(max_records=10, active=OPEN))
        await until(lambda: r.committed == 10, within=1)
        r.pipeline.buffer.adopt(WindowSettings(max_records=10))
        r.log.append(*[b"{}"] * 10)
        await anyio.sleep(TO_QUARTER)
        assert r.committed == 20, "without times there is no end"


# --- a restart outside of the active times --------------------------------------------------------


async def test_a_planned_batch_is_finished_and_nothing_beyond_it() -> None:
    """It was released before, and may have been sent."""
    r = rig(9, active=SHUT, max_age=Duration(0.5))
    r.source.committed[P0] = 2
    batch = batch_of(3, start=2)
    r.source.metadata[P0] = encode(2, [Entry(2, 4, batch.id)])
    async with r.running():
        await until(lambda: r.committed == 5, within=5)
        await anyio.sleep(TO_QUARTER - 10)
        assert [request.batch.id for request in r.sink.requests] == [batch.id]
        assert r.committed == 5
        assert r.status.state()[0] == "waiting", "what was read beyond the plan waits as well"
        await anyio.sleep(12)
        assert r.committed == 9
        assert len(r.sink.taken) == 7


async def test_what_was_read_beyond_a_plan_counts_as_memory_while_it_waits() -> None:
    r = rig(9, active=SHUT)
    r.source.committed[P0] = 0
    batch = batch_of(5)
    r.source.metadata[P0] = encode(0, [Entry(0, 4, batch.id)])
    async with r.running():
        await until(lambda: r.committed == 5)
        held = r.pipeline.ledger.position(P0) - 5
        assert r.status.gauges().buffered_records == held > 0
        assert r.pipeline.memory.occupied() > 0

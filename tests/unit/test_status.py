from __future__ import annotations

from math import isnan

import anyio
import msgspec
import pytest
from trio.testing import MockClock

from fakes import EPOCH, P0, P1, FakeSink, Log, Rig, after, hang, until
from sluiced import __version__
from sluiced.burial import DeadLetterSettings
from sluiced.history import BATCHES
from sluiced.outcome import Again, Refused
from sluiced.units import Duration, Size
from sluiced.window import WindowSettings

pytestmark = pytest.mark.anyio

DOWN = Again("connection", "connection refused")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def rig(*script: object, then: object = None, **others: object) -> Rig:
    sink = FakeSink(*script, **({} if then is None else {"then": then}))  # type: ignore[arg-type]
    window = WindowSettings(max_records=10, max_age=Duration(2), max_bytes=Size(4096))
    others.setdefault("drain", 1.0)
    return Rig(sink, Log(P0, P1), window=window, **others)  # type: ignore[arg-type]


async def test_it_starts_runs_halts_and_drains() -> None:
    r = rig(then=after(5.0))
    assert r.status.state() == ("starting", "no partitions have been assigned yet")
    async with r.running():
        await anyio.sleep(1.0)
        assert r.status.state() == ("running", "")
        assert r.status.ready() is None
        r.halt.set("too many were refused")
        assert r.status.state() == ("halted", "too many were refused")
        assert r.status.ready() == "halted: too many were refused"
        assert r.status.live() is None, "a restart would not cure it"
        r.pipeline.resume()
        assert r.status.ready() is None
        r.log.append(b"1")
        await anyio.sleep(3.0)
        r.stop.set()
        await anyio.sleep(0.1)
        assert r.status.state()[0] == "draining"
        assert r.status.ready() is not None
        assert r.status.live() is None


async def test_an_outage_is_not_ready_but_alive_and_passes() -> None:
    r = rig(*[DOWN] * 20)
    async with r.running():
        r.log.append(b"1")
        await until(lambda: r.status.state()[0] == "outage")
        assert r.status.ready() == "outage: connection refused"
        assert r.status.live() is None
        assert not r.status.gauges().sink_up
        await until(lambda: r.status.state()[0] == "running")
        assert r.status.gauges().sink_up


async def test_a_rebalance_that_takes_as_long_as_its_drains_may_is_no_standstill() -> None:
    r = rig(then=after(280.0), drain=300.0)
    fetch, rebalancing = r.source.fetch, False

    async def held_up(*asked: object) -> object:
        if rebalancing:  # as aiokafka does until the partitions are given out anew
            await anyio.sleep_forever()
        return await fetch(*asked)  # type: ignore[arg-type]

    r.source.fetch = held_up  # type: ignore[method-assign, assignment]
    async with r.running(), anyio.create_task_group() as tasks:
        r.log.append(b"1")
        await until(lambda: r.sink.busy)
        rebalancing = True
        tasks.start_soon(r.source.revoke)
        await until(lambda: not r.sink.busy)
        assert r.status.live() is None
        await anyio.sleep(3600.0)
        assert r.status.live() is not None, "but for ever no rebalance lasts"


async def test_after_a_revocation_it_is_starting_again() -> None:
    r = rig()
    async with r.running():
        await anyio.sleep(1.0)
        await r.source.revoke()
        assert r.status.state()[0] == "starting"
        assert r.status.gauges().checkpoints == {}
        assert r.status.gauges().log_starts == {}


async def test_a_batch_without_a_sign_of_life_is_told_by_its_id() -> None:
    r = rig(hang)
    async with r.running():
        r.log.append(b"1")
        await anyio.sleep(200.0)
        assert r.status.live() is None
        await anyio.sleep(100.0)
        assert r.sink.requests[0].batch.id in (r.status.live() or "")
        assert r.status.ready() == r.status.live()


async def test_a_batch_that_is_tried_again_and_again_is_alive() -> None:
    r = rig(then=DOWN)
    async with r.running():
        r.log.append(b"1")
        for _ in range(100):
            await anyio.sleep(100.0)
            assert r.status.live() is None


async def test_a_batch_that_waits_for_a_person_is_alive() -> None:
    r = rig(Refused("400"), dead_letter=DeadLetterSettings(on_reject="halt"))
    async with r.running():
        r.log.append(b"1")
        await until(lambda: r.halt.reason)
        await anyio.sleep(2_000.0)
        assert r.pipeline.outflow.flights
        assert r.status.live() is None


async def test_a_drain_that_takes_its_time_is_alive() -> None:
    r = rig(*[DOWN] * 1000, drain=600.0)
    async with r.running():
        r.log.append(b"1")
        await anyio.sleep(10.0)
        r.stop.set()
        await anyio.sleep(400.0)
        assert r.ended_at is None
        assert r.status.live() is None


async def test_a_fetch_that_does_not_return_is_told() -> None:
    r = rig()

    async def stuck(*args: object) -> list[object]:
        await anyio.sleep_forever()
        return []

    async with r.running():
        await anyio.sleep(1.0)
        r.source.fetch = stuck  # type: ignore[assignment, method-assign]
        await anyio.sleep(170.0)
        assert r.status.live() is None
        await anyio.sleep(20.0)
        assert "nothing was fetched" in (r.status.live() or "")


async def test_a_task_that_died_is_told() -> None:
    r = rig(ZeroDivisionError("bug"))
    async with r.running():
        r.log.append(b"1")
        await until(lambda: r.pipeline.tasks.fatal)
    assert r.status.live() == "a task has died: ZeroDivisionError"


async def test_the_gauges_show_what_is_held_and_for_how_long() -> None:
    r = rig(hang)
    async with r.running():
        r.log.append(*[b"12"] * 10)
        await anyio.sleep(3.0)
        r.log.append(b"12", b"12", tp=P1)
        await anyio.sleep(7.0)
        gauges = r.status.gauges()
        assert (gauges.buffered_records, gauges.buffered_bytes) == (2, 4)
        assert gauges.in_flight_batches == 1
        assert gauges.oldest_unflushed_seconds == pytest.approx(10.0, abs=0.1)
        assert gauges.memory_limit_bytes == r.pipeline.memory.limit
        assert gauges.checkpoints == {P0: 0, P1: 0}
        assert gauges.lags == {P0: 10, P1: 2}
        assert gauges.log_starts == {P0: 0, P1: 0}
        assert gauges.memory_used_bytes == r.pipeline.memory.occupied() > 0
        assert gauges.checkpoint_age_seconds == pytest.approx(10.0, abs=0.5), "nothing is done yet"
        assert gauges.state == "running"


async def test_the_checkpoint_is_as_old_as_the_last_commit() -> None:
    r = rig()
    async with r.running():
        await anyio.sleep(8.0)
        r.log.append(b"1")
        await until(lambda: r.status.gauges().checkpoints[P0] == 1)
        assert r.status.gauges().checkpoint_age_seconds < 1.0


async def test_an_empty_pipeline_holds_nothing_back() -> None:
    r = rig()
    async with r.running():
        await anyio.sleep(10.0)
        assert r.status.gauges().oldest_unflushed_seconds == 0


async def test_lag_is_never_below_nothing_although_the_end_was_looked_up_a_while_ago() -> None:
    r = rig()
    async with r.running():
        await anyio.sleep(6.0)
        r.log.append(*[b"1"] * 10)
        await until(lambda: r.committed == 10)
        assert r.pipeline.watch.ends[P0] == 0
        assert r.status.gauges().lags[P0] == 0


async def test_what_was_fetched_counts_as_lag_before_the_end_is_looked_up_again() -> None:
    r = rig(hang)
    async with r.running():
        await anyio.sleep(6.0)
        r.log.append(*[b"1"] * 10)
        await until(lambda: r.pipeline.outflow.flights)
        assert r.pipeline.watch.ends[P0] == 0
        assert r.status.gauges().lags[P0] == 10
        [first, _] = r.status.report()["partitions"]
        assert (first["position"], first["end"], first["lag"]) == (10, 10, 10)


async def test_after_a_rebalance_the_end_of_the_log_is_not_known_until_it_is_looked_up() -> None:
    r = rig()
    async with r.running():
        await anyio.sleep(6.0)
        assert r.status.report()["partitions"][0]["end"] == 0
        await r.source.rebalance([P0])
        assert r.status.report()["partitions"][0]["end"] is None
        await anyio.sleep(6.0)
        assert r.status.report()["partitions"][0]["end"] == 0


async def test_the_report_has_all_that_is_promised() -> None:
    r = rig(then=after(8.0))
    async with r.running():
        r.log.append(*[b"12"] * 10)
        await anyio.sleep(9.0)
        r.log.append(*[b"12"] * 13)
        await anyio.sleep(1.5)
        report = r.status.report()
    assert set(report) == {
        "pipeline",
        "version",
        "state",
        "reason",
        "reload",
        "partitions",
        "window",
        "in_flight",
        "jobs",
        "totals",
        "limits",
        "last_error",
        "now",
        "schedule",
        "catch_up_seconds",
        "waiting_seconds",
        "queued_batches",
        "recovering",
        "recent_batches",
        "recent_errors",
    }
    assert (report["pipeline"], report["version"]) == ("pages", __version__)
    assert report["partitions"][0] == {
        "topic": "pages",
        "partition": 0,
        "epoch": 1,
        "position": 23,
        "checkpoint": 10,
        "stopped": False,
        "end": 23,
        "lag": 13,
        "visible_until": "2023-11-14T22:13:20.000Z",
        "delay_seconds": pytest.approx(10.5, abs=0.1),
    }
    assert report["partitions"][1]["visible_until"] is None
    assert report["partitions"][1]["delay_seconds"] == 0, "nothing waits there"
    window = report["window"]
    assert (window["records"], window["bytes"]) == (3, 6)
    assert 1.0 <= window["age_seconds"] <= 1.5
    assert (window["max_records"], window["max_bytes"], window["max_age_seconds"]) == (
        10,
        4096,
        2.0,
    )
    (flight,) = report["in_flight"]
    assert flight["batch"] == r.sink.requests[1].batch.id
    assert (flight["records"], flight["bytes"], flight["attempts"]) == (10, 20, 1)
    assert report["totals"]["delivered"] == 10
    assert flight["closed_by"] == "records"
    assert report["now"].startswith("2023-11-14T22:13:")
    assert report["waiting_seconds"] == pytest.approx(1.5, abs=0.1)
    assert report["jobs"] is None
    assert report["queued_batches"] == 0
    assert report["recovering"] == {"forming": 0, "formed": 0}
    assert {limit["name"] for limit in report["limits"]} == {"max_in_flight", "memory"}
    msgspec.json.encode(report)


async def test_the_time_to_catch_up_follows_from_the_rates_of_the_last_minute() -> None:
    """A request takes 2 s and ten records: five are done in a second, and three come in."""
    r = rig(then=after(2.0))
    async with r.running():
        r.log.append(*[b"1"] * 600)
        for _ in range(60):
            await anyio.sleep(1.0)
            r.log.append(*[b"1"] * 3)
        backlog = r.status.gauges().lags[P0]
        assert backlog > 400
        expected = backlog / 2
        assert r.status.report()["catch_up_seconds"] == pytest.approx(expected, rel=0.1)
        assert r.status.gauges().catch_up_seconds == pytest.approx(expected, rel=0.1)
        await anyio.sleep(expected)
        assert r.status.gauges().lags[P0] < 50


async def test_who_falls_behind_never_catches_up_and_who_has_nothing_left_has() -> None:
    r = rig(then=after(2.0))
    async with r.running():
        await anyio.sleep(11.0)
        assert r.status.report()["catch_up_seconds"] == 0
        r.log.append(*[b"1"] * 600)
        for _ in range(60):
            await anyio.sleep(1.0)
            r.log.append(*[b"1"] * 7)
        assert r.status.report()["catch_up_seconds"] is None
        assert isnan(r.status.gauges().catch_up_seconds)


async def test_who_has_read_everything_has_caught_up_although_something_is_on_its_way() -> None:
    r = rig(then=after(20.0))
    async with r.running():
        r.log.append(*[b"1"] * 10)
        await anyio.sleep(11.0)
        assert r.status.gauges().lags[P0] == 10
        assert r.status.report()["catch_up_seconds"] == 0


async def test_what_is_read_and_waits_for_a_busy_api_has_to_be_caught_up_with_as_well() -> None:
    r = rig(then=after(2.0))
    async with r.running():
        r.log.append(*[b"1"] * 200)
        await anyio.sleep(1.0)
        assert r.status.report()["catch_up_seconds"] is None, "how much there is, is not known yet"
        await anyio.sleep(25)
        assert r.pipeline.ledger.position(P0) == 200
        left = r.status.gauges().lags[P0]
        assert 60 <= left <= 80
        assert r.status.report()["catch_up_seconds"] == pytest.approx(left / 5, rel=0.1)


async def test_how_far_each_partition_is_visible_is_a_gauge() -> None:
    r = rig()
    async with r.running():
        r.log.append(b"1")
        await until(lambda: r.committed == 1)
        timestamp = r.log.records[P0][0].timestamp
        assert r.status.gauges().visible == {P0: timestamp / 1000}


async def test_the_last_error_is_shown_with_its_time() -> None:
    r = rig(DOWN)
    async with r.running():
        r.log.append(b"1")
        await until(lambda: r.committed == 1)
        error = r.status.report()["last_error"]
    assert error["text"] == "connection refused"
    assert error["at"].startswith("2023-11-14T22:13:2")


@pytest.mark.parametrize("timestamp", [10**18, 2**63 - 1, int(EPOCH * 1e6)])
async def test_a_timestamp_that_is_no_time_of_this_world_does_not_spoil_the_page(
    timestamp: int,
) -> None:
    # Producers may set any number; microseconds or nanoseconds for milliseconds is the usual one.
    r = rig()
    async with r.running():
        r.log.append(b"1", timestamp=timestamp)
        await until(lambda: r.committed == 1)
        assert r.status.report()["partitions"][0]["visible_until"] is None


async def test_the_last_batches_are_told_with_what_closed_them_and_how_long_they_took() -> None:
    r = rig(DOWN, Refused("400", "no"), then=after(3.0))
    async with r.running():
        r.log.append(b"1", timestamp=int(EPOCH * 1000) - 60_000)
        await until(lambda: r.committed == 1)
        r.log.append(*[b"12"] * 10, timestamp=-1)
        await until(lambda: r.committed == 11)
        newest, oldest = r.status.report()["recent_batches"]
    assert (oldest["records"], oldest["bytes"], oldest["closed_by"]) == (1, 1, "age")
    assert (oldest["outcome"], oldest["attempts"]) == ("rejected", 2)
    assert oldest["delay_seconds"] == pytest.approx(60 + 2, abs=2), "its window's age, and a retry"
    assert (newest["records"], newest["bytes"], newest["closed_by"]) == (10, 20, "records")
    assert (newest["outcome"], newest["attempts"]) == ("delivered", 1)
    assert newest["seconds"] == pytest.approx(3.0, abs=0.1)
    assert newest["delay_seconds"] is None, "its records have no time"
    assert newest["at"].startswith("2023-11-14T22:13:2")
    assert newest["batch"] == r.sink.requests[-1].batch.id


async def test_what_is_told_of_the_past_is_bounded() -> None:
    errors = [Again("status", f"error {n}") for n in range(9)]
    r = rig(*errors)
    async with r.running():
        r.log.append(*[b"1"] * 300)
        await until(lambda: r.committed == 300)
        report = r.status.report()
    assert len(report["recent_batches"]) == BATCHES
    assert [e["text"] for e in report["recent_errors"]] == [f"error {n}" for n in (8, 7, 6, 5, 4)]


async def test_an_error_that_comes_again_and_again_does_not_hide_the_one_before() -> None:
    r = rig(Again("timeout", "no answer"), *[DOWN] * 30)
    async with r.running():
        r.log.append(b"1")
        await until(lambda: r.committed == 1)
        last, first = r.status.report()["recent_errors"]
    assert (last["reason"], last["text"], last["times"]) == ("connection", DOWN.error, 30)
    assert (first["reason"], first["text"], first["times"]) == ("timeout", "no answer", 1)
    assert last["at"] > first["at"]


async def test_closed_batches_that_wait_behind_a_slow_one_are_counted() -> None:
    r = rig(hang)
    async with r.running():
        r.log.append(*[b"1"] * 25)
        await until(lambda: r.pipeline.outflow.flights)
        await anyio.sleep(1.0)
        assert r.status.report()["queued_batches"] == len(r.pipeline.buffer.waiting) == 1

"""The whole line between a source and a sink in memory, on virtual time.

`anyio.sleep` here lets the time of the virtual clock pass; it waits for nothing real.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
import trio
from trio.testing import MockClock

from fakes import (
    P0,
    P1,
    P2,
    Answer,
    FakeSink,
    Log,
    Rig,
    after,
    at,
    deliver,
    hang,
    judge,
    until,
)
from sluiced.batch import Batch
from sluiced.burial import DeadLetterSettings
from sluiced.errors import BurialError, LostRangeError, SourceError
from sluiced.gate import LimitSettings
from sluiced.intake import RecordSettings
from sluiced.outcome import Again, Fate, Outcome, Refused
from sluiced.record import OVERHEAD, TopicPartition
from sluiced.units import Duration, Size
from sluiced.window import WindowSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def window(
    max_records: int = 10, max_age: float = 2.0, max_bytes: int = 4 * 1024**2, **others: object
) -> WindowSettings:
    return WindowSettings(
        max_records=max_records,
        max_age=Duration(max_age),
        max_bytes=Size(max_bytes),
        **others,  # type: ignore[arg-type]
    )


def log_of(count: int, *tps: TopicPartition, size: int = 2) -> Log:
    """As many records in each partition, of `size` bytes of JSON."""
    log = Log(*tps or (P0,))
    for tp in log.records:
        log.append(*[b"1" * size] * count, tp=tp)
    return log


def rig(
    count: int = 0, *script: object, tps: tuple[TopicPartition, ...] = (P0,), **others: object
) -> Rig:
    sink = FakeSink(*script, then=others.pop("then", deliver))  # type: ignore[arg-type]
    others.setdefault("window", window())
    return Rig(sink, log_of(count, *tps), **others)  # type: ignore[arg-type]


def taken(r: Rig, tp: TopicPartition = P0) -> list[int]:
    """What the API has of a partition, each offset as often as it was delivered."""
    return sorted(o for t, p, o in r.sink.taken.elements() if (t, p) == tp)


class Steps(trio.abc.Instrument):
    """Cancels the scope after so many steps of any task: a loop that never sleeps stops time."""

    def __init__(self, scope: anyio.CancelScope, limit: int) -> None:
        self.scope = scope
        self.left = limit

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


# --- the happy path -------------------------------------------------------------------------------


async def test_everything_is_delivered_once_and_committed_to_the_end() -> None:
    r = rig(95)
    async with r.running():
        await until(lambda: r.committed == 95)
    assert taken(r) == list(range(95))
    assert [len(where) for where in r.sink.offsets] == [10] * 9 + [5]
    assert r.error is None
    assert r.count("records_consumed_total", topic="pages") == 95
    assert r.count("batches_total", closed_by="age", outcome="delivered") == 1


async def test_one_window_over_all_partitions_puts_them_into_one_request() -> None:
    r = rig(3, tps=(P0, P1, P2), window=window(max_records=9))
    async with r.running():
        await until(lambda: r.source.committed == {P0: 3, P1: 3, P2: 3})
    assert len(r.sink.requests) == 1


async def test_a_window_for_each_partition_makes_requests_of_one_partition() -> None:
    r = rig(25, tps=(P0, P1, P2), window=window(span="partition"))
    async with r.running():
        await until(lambda: r.source.committed == {P0: 25, P1: 25, P2: 25})
    assert all(len(request.batch.spans) == 1 for request in r.sink.requests)
    assert taken(r, P1) == list(range(25))


async def test_a_window_goes_out_when_its_first_record_has_reached_the_age() -> None:
    r = rig(window=window(max_age=5.0))
    async with r.running():
        await anyio.sleep(10.0)
        r.log.append(b"1")
        await anyio.sleep(3.0)
        r.log.append(b"2")
        await until(lambda: r.committed == 2)
    assert r.sink.offsets == [[0, 1]]
    assert r.sink.times[0] == pytest.approx(15.0, abs=0.02)


async def test_nothing_is_committed_before_it_is_acknowledged() -> None:
    r = rig(10, after(7.0))
    async with r.running():
        await anyio.sleep(6.9)
        assert r.source.commits == []
        await until(lambda: r.committed == 10)
        assert anyio.current_time() >= 7.0


async def test_gaps_in_the_log_are_committed_past() -> None:
    r = rig(5)
    r.log.skip(7)
    r.log.append(b"1")
    r.log.skip(3)
    async with r.running():
        await until(lambda: r.committed == 16)
    assert taken(r) == [0, 1, 2, 3, 4, 12]


async def test_collapsed_records_are_committed_with_the_one_that_stands_for_them() -> None:
    r = rig(window=window(collapse=True), record=RecordSettings(id="$key"))
    r.log.append(b"1", b"2", b"3", key=b"a")
    r.log.append(b"4", key=b"b")
    async with r.running():
        await until(lambda: r.committed == 4)
    assert taken(r) == [2, 3]
    assert r.count("records_skipped_total", topic="pages", reason="collapsed") == 2


async def test_tombstones_are_skipped_and_committed_past() -> None:
    r = rig()
    r.log.append(None, b"1", None, None)
    async with r.running():
        await until(lambda: r.committed == 4)
    assert taken(r) == [1]
    assert r.count("records_skipped_total", topic="pages", reason="tombstone") == 3


async def test_the_offset_of_a_skipped_record_waits_for_the_records_before_it() -> None:
    r = rig(then=after(60.0))
    r.log.append(b"1", None)
    async with r.running():
        await anyio.sleep(50.0)
        assert r.source.commits == []
        await until(lambda: r.committed == 2)


# --- several at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("span", ["topics", "partition"])
async def test_with_one_in_flight_requests_never_overlap_and_partitions_stay_in_order(
    span: str,
) -> None:
    r = rig(100, tps=(P0, P1), then=after(0.3), window=window(7, span=span))
    async with r.running():
        await until(lambda: r.source.committed == {P0: 100, P1: 100})
    assert r.sink.most_busy == 1
    sent = [at(record) for request in r.sink.requests for record in request.batch.records]
    for tp in (P0, P1):
        assert [c for c in sent if c[:2] == tp] == [(*tp, offset) for offset in range(100)]


async def test_with_retries_in_one_slot_partitions_still_stay_in_order() -> None:
    down = Again("connection", "refused")
    r = rig(50, down, deliver, down, down, deliver)
    async with r.running():
        await until(lambda: r.committed == 50)
    firsts = [where[0] for where in r.sink.offsets]
    assert firsts == sorted(firsts)


async def test_as_many_batches_as_allowed_are_at_the_sink_at_once() -> None:
    r = rig(100, then=after(5.0), max_in_flight=3)
    async with r.running():
        await until(lambda: r.committed == 100)
    assert r.sink.most_busy == 3


def by_first_offset(seconds: dict[int, float]) -> Answer:
    """An API that takes so long for the batch that begins there: trio starts tasks in any order."""

    async def slow(batch: Batch) -> Outcome:
        await anyio.sleep(seconds[batch.records[0].offset])
        return deliver(batch)

    return slow


async def test_what_settles_out_of_order_is_committed_as_a_prefix() -> None:
    r = rig(30, then=by_first_offset({0: 30.0, 10: 10.0, 20: 20.0}), max_in_flight=3)
    async with r.running():
        await anyio.sleep(25.0)
        assert len(r.sink.taken) == 20
        assert r.source.commits == []
        await until(lambda: r.committed == 30)
        assert anyio.current_time() >= 30.0


async def test_a_prefix_is_committed_although_later_batches_hang() -> None:
    slow = by_first_offset({0: 5.0, 10: 3600.0, 20: 5.0})
    r = rig(30, then=slow, max_in_flight=3, drain=10.0)
    async with r.running():
        await anyio.sleep(8.0)
        assert r.committed == 10
    assert r.committed == 10
    assert len(r.sink.taken) == 20


# --- back-pressure --------------------------------------------------------------------------------


@pytest.mark.parametrize("span", ["topics", "partition"])
async def test_while_the_sink_hangs_memory_is_bounded_and_the_source_is_still_polled(
    span: str,
) -> None:
    memory = 300_000
    r = rig(
        3000,
        tps=(P0, P1, P2),
        then=hang,
        window=window(max_records=5000, max_age=3600.0, span=span),
        memory=memory,
        drain=1.0,
    )
    for tp in r.log.records:
        r.log.append(*[b"1" * 1000] * 500, tp=tp)
    peak = 0
    async with r.running():
        for _ in range(600):
            await anyio.sleep(0.1)
            peak = max(peak, r.pipeline.memory.occupied())
        assert len(r.sink.requests) == 1, "full memory closes a window that is not full or old"
        before = len(r.source.fetches)
        await anyio.sleep(60.0)
        calls = r.source.fetches[before:]
    body = r.sink.requests[0].batch.size
    one_fetch = 2000 * (OVERHEAD + 4)
    assert peak <= memory + one_fetch + body
    assert len(calls) >= 200, "a member that does not poll is evicted"
    assert not any(call.ready for call in calls)


async def test_a_fetch_asks_for_no_more_records_than_there_is_room_for() -> None:
    r = rig(window=window(max_records=5000), memory=1_000_000, then=hang, drain=1.0)
    r.log.append(*[b"1" * 7_000] * 500)
    one = 2 * 7_000 + OVERHEAD  # the record, and its part of the request's body
    peak = 0
    async with r.running():
        for _ in range(100):
            await anyio.sleep(0.1)
            peak = max(peak, r.pipeline.memory.occupied())
    assert 900_000 < peak <= 1_000_000 + one
    assert max(fetch.max_records for fetch in r.source.fetches) <= 2000


async def test_how_large_records_are_is_learned_from_those_that_came() -> None:
    r = rig(window=window(max_records=5000), memory=4_000_000, then=hang, drain=1.0)
    r.log.append(*[b"1" * 100_000] * 10)
    one = 2 * 100_000 + OVERHEAD
    peak = 0
    async with r.running():
        await anyio.sleep(1.0)
        r.log.append(*[b"1" * 100_000] * 200)
        for _ in range(100):
            await anyio.sleep(0.1)
            peak = max(peak, r.pipeline.memory.occupied())
    assert 3_000_000 < peak <= 4_000_000 + one


async def test_while_one_batch_is_at_the_sink_no_more_than_the_next_one_is_made_ready() -> None:
    r = rig(1000, hang, drain=1.0)
    async with r.running():
        await anyio.sleep(100.0)
        assert len(r.pipeline.buffer.waiting) >= 1
        assert not r.pipeline.inflow.ready()
        assert [f for f in r.source.fetches if f.at > 50.0]


async def test_in_a_window_each_a_busy_partition_does_not_hold_up_the_fetch_of_the_others() -> None:
    r = rig(0, hang, tps=(P0, P1), window=window(span="partition"), drain=1.0)
    r.log.append(*[b"1"] * 5000, tp=P0)
    async with r.running():
        await anyio.sleep(10.0)
        assert list(r.pipeline.inflow.ready()) == [P1]
        r.log.append(b"1", tp=P1)
        await anyio.sleep(1.0)
        assert r.pipeline.ledger.position(P1) == 1


async def test_a_window_that_is_old_enough_keeps_filling_while_the_sink_is_busy() -> None:
    r = rig(1, after(60.0), window=window(max_age=2.0, max_records=100))
    async with r.running():
        for _ in range(10):
            await anyio.sleep(5.0)
            r.log.append(b"1")
        await until(lambda: r.committed == 11)
    assert r.sink.offsets == [[0], list(range(1, 11))]


async def test_in_a_window_each_a_quiet_partition_keeps_its_age_beside_a_busy_one() -> None:
    r = rig(0, tps=(P0, P1), then=after(1.0), window=window(span="partition", max_age=2.0))
    r.log.append(*[b"1"] * 2000, tp=P0)
    r.log.append(b"1", tp=P1)
    async with r.running():
        await until(lambda: r.source.committed.get(P1) == 1)
        # Its age, the batch that is at the sink then, one before it in the queue, and itself.
        assert anyio.current_time() <= 2.0 + 3 * 1.0 + 0.5


async def test_invalid_records_on_their_way_out_count_against_the_budget_at_once() -> None:
    r = rig(memory=20_000, drain=1.0)
    r.dead_letters.takes = 60.0
    r.log.append(*[b"x" * 20_000] * 10)
    async with r.running():
        await anyio.sleep(30.0)
    asked = [fetch for fetch in r.source.fetches if fetch.ready]
    assert len(asked) == 1


# --- invalid records ------------------------------------------------------------------------------


async def test_invalid_records_are_buried_and_committed_past_only_once_acknowledged() -> None:
    r = rig()
    r.dead_letters.takes = 20.0
    r.log.append(b"1", b"{broken", b"2")
    async with r.running():
        await anyio.sleep(15.0)
        assert taken(r) == [0, 2]
        assert r.committed == 0, "its batch reaches over the record that is not buried yet"
        await until(lambda: r.committed == 3)
        assert anyio.current_time() >= 20.0
    (letter,) = r.dead_letters.letters
    assert (letter.record.offset, letter.reason, letter.attempts, letter.batch) == (
        1,
        "invalid",
        0,
        "",
    )
    assert "not JSON" in letter.error


async def test_what_the_sink_objects_to_is_buried_as_invalid() -> None:
    sink = FakeSink()
    sink.objects_to = {("pages", 0, 1): "the key cannot be a header"}
    r = Rig(sink, log_of(3), window=window())
    async with r.running():
        await until(lambda: r.committed == 3)
    assert r.dead_letters.letters[0].error == "the key cannot be a header"
    assert taken(r) == [0, 2]


async def test_refused_records_are_buried_and_committed_past() -> None:
    fate = judge(lambda r: Fate.REJECTED if r.offset % 10 == 3 else Fate.DELIVERED)
    r = rig(40, then=fate)
    async with r.running():
        await until(lambda: r.committed == 40)
    assert r.dead_letters.offsets == [3, 13, 23, 33]
    assert len(taken(r)) == 36


# --- halts ----------------------------------------------------------------------------------------


async def test_when_dead_letters_fail_it_halts_commits_no_more_and_goes_on_when_told() -> None:
    r = rig(5)
    r.log.append(b"{broken", b"1", b"2")
    r.dead_letters.error = BurialError("the topic is gone")
    async with r.running():
        await anyio.sleep(100.0)
        assert r.halt.reason is not None
        assert (r.committed or 0) <= 5
        commits, requests = len(r.source.commits), len(r.sink.requests)
        position = r.source.positions[P0]
        r.log.append(*[b"3"] * 50)
        await anyio.sleep(1000.0)
        assert r.source.positions[P0] == position
        assert [f for f in r.source.fetches if f.at > 200.0], "it stays in the group"
        assert (len(r.source.commits), len(r.sink.requests)) == (commits, requests)
        r.dead_letters.error = None
        r.pipeline.resume()
        await until(lambda: r.committed == 58)
    assert r.dead_letters.offsets == [5]
    assert taken(r) == [*range(5), *range(6, 58)]


async def test_a_halted_pipeline_with_an_old_window_is_at_rest() -> None:
    r = rig(3, window=window(max_age=2.0), drain=1.0)
    async with r.running():
        await until(lambda: r.pipeline.buffer.windows.records == 3)
        r.halt.set("somebody's trouble")
        with anyio.CancelScope() as scope:
            steps = Steps(scope, limit=20_000)
            trio.lowlevel.add_instrument(steps)
            await anyio.sleep(60.0)
        trio.lowlevel.remove_instrument(steps)
        assert steps.left > 0, "it turns in circles"
        assert not r.pipeline.outflow.flights
        assert r.sink.requests == []
        r.pipeline.resume()
        await until(lambda: r.committed == 3)
    assert r.error is None


async def test_what_was_delivered_before_a_halt_is_committed_after_it() -> None:
    r = rig(10, after(10.0))
    async with r.running():
        await anyio.sleep(5.0)
        r.halt.set("somebody's trouble")
        await anyio.sleep(50.0)
        assert len(r.sink.taken) == 10
        assert r.source.commits == []
        r.pipeline.resume()
        await until(lambda: r.committed == 10)


async def test_what_was_delivered_during_a_halt_is_not_committed_by_a_stop() -> None:
    r = rig(10, after(10.0))
    async with r.running():
        await anyio.sleep(5.0)
        r.halt.set("somebody's trouble")
        await anyio.sleep(50.0)
        assert len(r.sink.taken) == 10
    assert r.source.commits == []


async def test_a_halted_pipeline_stops_at_once_and_commits_nothing() -> None:
    r = rig(20, Refused("400"), dead_letter=DeadLetterSettings(on_reject="halt"), window=window(1))
    async with r.running():
        await until(lambda: r.halt.reason)
        stopped = anyio.current_time()
    assert r.ended_at == pytest.approx(stopped, abs=0.1)
    assert r.source.commits == []
    assert r.error is None


async def test_too_many_invalid_records_halt_before_they_are_buried() -> None:
    settings = DeadLetterSettings(topic="dead", max_ratio=0.5, max_ratio_window=10)
    r = rig(dead_letter=settings, drain=1.0)
    r.log.append(*[b"{broken"] * 6)
    async with r.running():
        await until(lambda: r.halt.reason)
    assert r.dead_letters.letters == []
    assert r.source.commits == []


async def test_an_invalid_record_that_is_to_halt_halts_again_until_it_is_gone() -> None:
    r = rig(dead_letter=DeadLetterSettings(on_reject="halt"), drain=1.0)
    r.log.append(b"{broken")
    async with r.running():
        for _ in range(3):
            await until(lambda: r.halt.reason)
            await anyio.sleep(10.0)
            r.pipeline.resume()
        await until(lambda: r.halt.reason)
    assert r.source.commits == []


async def test_a_rebalance_while_halted_takes_no_time_and_loses_nothing() -> None:
    r = rig(20, Refused("400"), dead_letter=DeadLetterSettings(on_reject="halt"), window=window(1))
    async with r.running():
        await until(lambda: r.halt.reason)
        before = anyio.current_time()
        await r.source.rebalance([P0])
        assert anyio.current_time() - before < 0.1
        await anyio.sleep(10.0)
        assert r.halt.reason is not None
        r.pipeline.resume()
        await until(lambda: r.committed == 20)
    assert taken(r) == list(range(20))


# --- stopping -------------------------------------------------------------------------------------


async def test_stopping_sends_open_windows_and_commits_them() -> None:
    r = rig(7, window=window(max_age=3600.0))
    async with r.running():
        await until(lambda: r.pipeline.buffer.windows.records == 7)
        assert r.sink.requests == []
    assert r.committed == 7
    assert r.count("batches_total", closed_by="drain", outcome="delivered") == 1
    assert r.error is None


async def test_stopping_waits_for_what_is_at_the_sink_and_what_waits_behind_it() -> None:
    r = rig(25, then=after(3.0))
    async with r.running():
        await until(lambda: len(r.pipeline.buffer.waiting) > 0)
    assert r.committed == 25
    assert r.error is None


async def test_after_the_stop_nothing_is_fetched() -> None:
    r = rig(5, then=after(10.0))
    async with r.running():
        await anyio.sleep(5.0)
        r.stop.set()
        r.log.append(*[b"1"] * 100)
    assert r.committed == 5


async def test_at_the_deadline_a_hanging_batch_is_abandoned_and_not_committed() -> None:
    r = rig(25, deliver, hang, drain=30.0)
    async with r.running():
        await anyio.sleep(10.0)
        stopped = anyio.current_time()
    assert r.ended_at is not None
    assert 20.0 <= r.ended_at - stopped <= 30.0
    assert r.committed == 10
    assert r.error is None


async def test_a_slow_commit_does_not_hold_up_the_stop_beyond_the_deadline() -> None:
    r = rig(10, drain=5.0)
    async with r.running():
        await until(lambda: r.sink.requests)
        r.source.commit_takes = 3600.0
        await until(lambda: len(r.sink.taken) == 10)
        await anyio.sleep(0.1)
        stopped = anyio.current_time()
    assert r.ended_at is not None
    assert r.ended_at - stopped <= 5.0


async def test_a_stop_leaves_at_once_what_a_limit_holds_for_longer_than_the_drain() -> None:
    r = rig(25, limits=LimitSettings(requests_per_hour=60), drain=30.0)
    async with r.running():
        await until(lambda: r.gate.taken)
        await anyio.sleep(5.0)
        stopped = anyio.current_time()
    assert r.ended_at is not None
    assert r.ended_at - stopped < 1.0
    assert (r.sink.requests, r.committed, r.error) == ([], 0, None)


async def test_a_stop_sends_what_a_limit_lets_through_within_the_drain_and_leaves_the_rest() -> (
    None
):
    r = rig(40, limits=LimitSettings(requests_per_minute=6), drain=30.0)
    async with r.running():
        await until(lambda: r.gate.taken)
    assert r.ended_at is not None
    assert r.ended_at == pytest.approx(20.1, abs=0.5), "the third would go after 30 s"
    assert r.committed == 20


async def test_a_stop_waits_for_what_is_at_the_sink_though_a_limit_holds_the_rest() -> None:
    limits = LimitSettings(requests_per_minute=1, max_in_flight=2)
    r = rig(25, after(15.0), limits=limits, drain=30.0)
    async with r.running():
        await until(lambda: r.sink.requests and r.gate.taken == 2)
        stopped = anyio.current_time()
    assert r.ended_at is not None
    assert r.ended_at - stopped == pytest.approx(15.0, abs=0.5)
    assert (len(r.sink.requests), len(r.sink.taken)) == (1, 10)


async def test_a_stop_does_not_wait_for_an_api_that_wants_to_be_left_alone_for_longer() -> None:
    r = rig(10, then=lambda _: Again("throttled", "429", "429", 50.0), drain=30.0)
    async with r.running():
        await until(lambda: r.sink.requests)
        await anyio.sleep(1.0)
        stopped = anyio.current_time()
    assert r.ended_at is not None
    assert r.ended_at - stopped < 1.0
    assert (len(r.sink.requests), r.committed) == (1, 0)


async def test_invalid_records_on_their_way_out_are_waited_for() -> None:
    r = rig()
    r.dead_letters.takes = 5.0
    r.log.append(b"{broken")
    async with r.running():
        await until(lambda: r.pipeline.ledger.owed())
    assert r.dead_letters.offsets == [0]
    assert r.committed == 1


async def test_stopping_before_anything_was_assigned_is_quick() -> None:
    r = rig()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(r.run)
        await anyio.sleep(1.0)
        r.stop.set()
    assert r.error is None
    assert anyio.current_time() < 2.0


async def test_cancelling_ends_it_at_once_and_uncommitted() -> None:
    r = rig(10, hang)
    r.source.join(r.pipeline)
    with anyio.move_on_after(5.0):
        await r.pipeline.run(r.stop)
    assert anyio.current_time() == pytest.approx(5.0, abs=0.01)
    assert r.source.commits == []


# --- rebalances -----------------------------------------------------------------------------------


async def test_a_revocation_waits_for_what_is_at_the_sink_drops_the_rest_and_commits() -> None:
    r = rig(1000, after(10.0))
    async with r.running():
        await anyio.sleep(5.0)
        assert r.pipeline.buffer.waiting
        await r.source.revoke()
        assert anyio.current_time() == pytest.approx(10.0, abs=0.1)
        assert r.committed == 10
        assert not r.pipeline.buffer.waiting
        assert r.pipeline.memory.occupied() == 0
        await anyio.sleep(100.0)
        assert len(r.sink.requests) == 1
        r.source.assign([P0])
        await until(lambda: r.committed == 1000)
    assert taken(r) == list(range(1000))


async def test_a_batch_that_outlasts_the_revocation_is_cancelled_and_sent_by_the_next_owner() -> (
    None
):
    r = rig(10, hang, drain=30.0)
    async with r.running():
        await anyio.sleep(1.0)
        await r.source.revoke()
        assert anyio.current_time() == pytest.approx(31.0, abs=0.1)
        assert r.source.commits == []
        r.source.assign([P0])
        await until(lambda: r.committed == 10)
    first, second = r.sink.requests
    assert first.batch.id == second.batch.id


async def test_records_that_come_between_revocation_and_assignment_are_left_alone() -> None:
    r = rig(0, after(10.0))
    async with r.running():
        r.log.append(*[b"1"] * 10)
        await anyio.sleep(1.1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(r.source.revoke)
            await anyio.sleep(0.05)
            r.log.append(*[b"1"] * 10)  # a fetch that began before is still waiting for some
            await anyio.sleep(1.0)
            assert r.source.positions[P0] == 20
            assert r.pipeline.buffer.records == 0
        r.source.assign([P0])
        await until(lambda: r.committed == 20)
    assert taken(r) == list(range(20))


async def test_an_outcome_of_an_epoch_that_is_over_changes_nothing() -> None:
    r = rig(10, after(10.0), hang, drain=1.0)
    async with r.running():
        await anyio.sleep(5.0)
        r.source.assign([P0])  # thrown out and back in, and nobody told us
        await anyio.sleep(10.0)
        assert len(r.sink.taken) == 10
        assert r.source.commits == []
        assert r.count("stale_outcomes_total") == 1
        assert r.pipeline.ledger.owed() == 10
    assert r.source.commits == []


async def test_an_invalid_record_buried_after_its_epoch_is_over_settles_nothing() -> None:
    r = rig(drain=1.0)
    r.dead_letters.takes = 10.0
    r.log.append(b"{broken")
    async with r.running():
        await anyio.sleep(1.0)
        await r.source.revoke()
        r.dead_letters.takes = 3600.0
        r.source.assign([P0])
        await anyio.sleep(60.0)
        assert r.dead_letters.offsets == [0]
        assert r.source.commits == []
        assert r.count("stale_outcomes_total") == 1


async def test_a_partition_that_went_to_someone_else_is_not_fetched_or_reported() -> None:
    r = rig(5, tps=(P0, P1))
    async with r.running():
        await until(lambda: r.source.committed == {P0: 5, P1: 5})
        await r.source.rebalance([P1])
        r.log.append(b"1", tp=P0)
        r.log.append(b"1", tp=P1)
        await until(lambda: r.source.committed[P1] == 6)
        assert r.pipeline.ledger.last_committed().keys() == {P1}
    assert r.source.committed[P0] == 5
    assert r.count("rebalances_total") == 2


async def test_a_revocation_in_the_middle_of_the_drain_ends_both() -> None:
    r = rig(10, after(10.0), window=window(5))
    async with r.running():
        await anyio.sleep(2.0)
        r.stop.set()
        await anyio.sleep(1.0)
        await r.source.revoke()
    assert r.error is None
    assert r.committed == 5
    assert r.ended_at == pytest.approx(10.0, abs=0.1)


# --- commits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["failed", "unknown"])
async def test_a_commit_that_is_not_acknowledged_is_made_again(outcome: str) -> None:
    r = rig(10)
    r.source.outcomes = [outcome, outcome]  # type: ignore[list-item]
    async with r.running():
        await until(lambda: r.pipeline.ledger.last_committed()[P0] == 10)
        assert r.committed == 10
    assert r.count("commits_total", outcome=outcome) == 2
    assert r.source.commits == [{P0: 10}]


async def test_a_commit_that_takes_too_long_is_counted_as_unknown_and_made_again() -> None:
    r = rig(10)
    r.source.commit_takes = 3600.0
    async with r.running():
        await anyio.sleep(35.0)
        assert r.count("commits_total", outcome="unknown") == 3
        r.source.commit_takes = 0.0
        await until(lambda: r.committed == 10)


async def test_while_commits_fail_delivery_goes_on_if_the_sink_needs_no_plan() -> None:
    r = rig(100)
    r.pipeline = r.make("item")
    r.source.outcomes = ["failed"] * 50
    async with r.running():
        await until(lambda: len(r.sink.taken) == 100, within=20.0)
        assert r.committed is None
        await until(lambda: r.committed == 100)


async def test_while_plans_cannot_be_committed_nothing_is_sent() -> None:
    r = rig(100)
    r.source.outcomes = ["unknown"] * 10
    async with r.running():
        await anyio.sleep(9.0)
        assert r.sink.requests == []
        await until(lambda: r.committed == 100)


async def test_one_slow_commit_is_followed_by_one_of_all_that_was_done_meanwhile() -> None:
    r = rig(100, then=after(0.5))
    r.pipeline = r.make("item")
    r.source.commit_takes = 4.0
    async with r.running():
        await until(lambda: r.committed == 100)
    assert len(r.source.commits) <= 4


# --- fatal errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [SourceError("gone", "Look."), LostRangeError("lost"), RuntimeError("bug")]
)
async def test_a_fatal_error_of_the_source_drains_and_is_raised(error: Exception) -> None:
    r = rig(7, window=window(max_age=3600.0))
    async with r.running():
        await until(lambda: r.pipeline.buffer.windows.records == 7)
        r.source.error = error
        await until(lambda: r.ended_at is not None)
        assert r.error is error
    assert r.committed == 7


async def test_a_sink_that_raises_ends_the_daemon_and_nothing_is_committed_past_it() -> None:
    r = rig(30, deliver, ZeroDivisionError("bug"), window=window(10))
    async with r.running():
        await until(lambda: r.ended_at is not None)
    assert isinstance(r.error, ZeroDivisionError)
    assert r.committed == 10


async def test_the_error_that_came_first_is_the_one_that_is_raised() -> None:
    r = rig(30, ZeroDivisionError("first"), then=KeyError("second"), window=window(10))
    async with r.running():
        await until(lambda: r.ended_at is not None)
    assert len(r.sink.requests) > 1
    assert isinstance(r.error, ZeroDivisionError)


async def test_a_dead_letter_writer_that_raises_something_else_ends_the_daemon() -> None:
    r = rig(drain=1.0)
    r.dead_letters.error = ZeroDivisionError("bug")  # type: ignore[assignment]
    r.log.append(b"{broken")
    async with r.running():
        await until(lambda: r.ended_at is not None)
    assert isinstance(r.error, ZeroDivisionError)
    assert r.source.commits == []


async def test_a_fetcher_that_died_in_silence_is_noticed() -> None:
    r = rig(5)
    async with r.running():
        await until(lambda: r.committed == 5)
        r.log.ends[P0] = 50  # the log has more, and nothing of it ever comes
        r.source._behind = lambda tp: False  # type: ignore[method-assign]
        await until(lambda: r.ended_at is not None)
    assert isinstance(r.error, SourceError)
    assert "records beyond 5, and none has come for" in str(r.error)
    assert 300 < anyio.current_time() < 400


async def test_a_source_with_nothing_to_read_is_not_taken_for_dead() -> None:
    r = rig(5)
    async with r.running():
        await anyio.sleep(3600.0)
    assert r.error is None


async def test_a_source_that_is_held_back_is_not_taken_for_dead() -> None:
    r = rig(1000, hang, drain=1.0)
    async with r.running():
        await anyio.sleep(3600.0)
    assert r.error is None


async def test_a_stopped_partition_is_not_taken_for_a_dead_source_and_the_others_go_on() -> None:
    r = rig(5, tps=(P0, P1))
    async with r.running():
        await until(lambda: r.source.committed == {P0: 5, P1: 5})
        r.source.stopped = {P0}
        await anyio.sleep(1.0)
        r.log.append(b"1", tp=P0)
        r.log.append(b"1", tp=P1)
        await anyio.sleep(3600.0)
        assert r.status.state() == ("running", "stopped, because the log is damaged: pages/0")
        assert [p["stopped"] for p in r.status.report()["partitions"]] == [True, False]
        assert r.status.gauges().stopped_partitions == 1
        assert r.status.ready() is None
    assert r.error is None
    assert r.source.committed == {P0: 5, P1: 6}


# --- everything together --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("span", ["topics", "partition"])
async def test_whatever_the_api_answers_each_record_is_delivered_or_buried_once(
    seed: int, span: str
) -> None:
    from random import Random

    dice = Random(seed)

    def moody(batch: Batch) -> Outcome:
        kind = dice.random()
        if kind < 0.15:
            return Again("timeout", "no answer")
        if kind < 0.25:
            return Again("throttled", "slow down", "429", after=dice.random() * 5)
        if kind < 0.3:
            return Refused("400", "bad")
        fates = [Fate.DELIVERED] * 8 + [Fate.RETRY, Fate.REJECTED]
        return judge(lambda record: dice.choice(fates))(batch)

    r = rig(
        60,
        tps=(P0, P1, P2),
        then=moody,
        window=window(dice.randrange(1, 20), span=span),
        max_in_flight=dice.randrange(1, 5),
        seed=seed,
    )
    r.log.append(None, b"{broken", b"1", tp=P1)
    done: Callable[[], bool] = lambda: r.source.committed == r.log.ends  # noqa: E731
    async with r.running():
        await until(done, within=100_000)
    buried = [at(letter.record) for letter in r.dead_letters.letters]
    everything = {at(record) for records in r.log.records.values() for record in records}
    assert sorted([*r.sink.taken.elements(), *buried]) == sorted(everything - {("pages", 1, 60)})
    assert r.error is None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_same_line_runs_on_the_event_loop_of_production() -> None:
    r = rig(45, Again("timeout", "no answer"), window=window(max_age=0.05), max_in_flight=2)
    r.log.append(b"{broken")
    async with r.running():
        await until(lambda: r.committed == 46, within=30.0)
    assert taken(r) == list(range(45))
    assert r.dead_letters.offsets == [45]
    assert r.error is None


async def test_what_the_sink_holds_besides_records_counts_for_the_memory() -> None:
    r = Rig()
    async with r.running():
        await until(lambda: r.pipeline.inflow.ready())
        r.pipeline.memory.held = lambda: r.pipeline.memory.limit
        assert not r.pipeline.inflow.ready()

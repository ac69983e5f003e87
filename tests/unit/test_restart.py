"""What becomes of batches in flight when the daemon dies or partitions move, on virtual time."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from trio.testing import MockClock

from fakes import P0, P1, FakeSink, Log, Rig, after, batch_of, deliver, hang, offsets, until
from sluiced.batch import Batch
from sluiced.intake import RecordSettings
from sluiced.metadata import PREFIX, Entry, decode, encode
from sluiced.outcome import Again, Outcome
from sluiced.record import OVERHEAD, TopicPartition
from sluiced.units import Duration
from sluiced.window import WindowSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def window(max_records: int, max_age: float = 2.0, **others: object) -> WindowSettings:
    return WindowSettings(
        max_records=max_records,
        max_age=Duration(max_age),
        **others,  # type: ignore[arg-type]
    )


def rig(count: int, *tps: TopicPartition, then: object = deliver, **others: object) -> Rig:
    log = Log(*tps or (P0,))
    for tp in log.records:
        log.append(*[b"{}"] * count, tp=tp)
    return Rig(FakeSink(then=then), log, **others)  # type: ignore[arg-type]


async def crash(r: Rig, when: Callable[[], object]) -> None:
    """Runs the daemon until `when` holds, and ends it as SIGKILL would: no drain, no commit."""
    r.source.join(r.pipeline)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(r.pipeline.run, r.stop)
        await until(when)
        tasks.cancel_scope.cancel()
    r.gate._taken = 0


def restart(r: Rig, settings: WindowSettings | None = None) -> None:
    """What comes next is a new process, perhaps with another configuration."""
    r.window = settings or r.window
    r.pipeline = r.make(r.sink.identifies)
    r.sink.then = deliver


def ids(r: Rig) -> list[str]:
    return [request.batch.id for request in r.sink.requests]


@pytest.mark.parametrize("now", [window(3), window(1000), window(7, span="partition")])
async def test_batches_in_flight_at_a_crash_are_sent_again_as_they_were(
    now: WindowSettings,
) -> None:
    r = rig(50, P0, P1, then=hang, window=window(20), max_in_flight=3)
    await crash(r, lambda: len(r.sink.requests) == 3)
    before = {request.batch.id: offsets(request.batch.records) for request in r.sink.requests}
    restart(r, now)
    async with r.running():
        await until(lambda: r.source.committed == {P0: 50, P1: 50})
    again = {q.batch.id: offsets(q.batch.records) for q in r.sink.requests[3:6]}
    assert again == before
    assert set(r.sink.taken.values()) == {1}
    assert len(r.sink.taken) == 100
    assert r.count("recovered_batches_total", outcome="exact") >= 3
    assert r.count("batches_total", closed_by="plan", outcome="delivered") >= 3


async def test_what_was_done_ahead_of_an_open_batch_is_not_sent_again() -> None:
    async def the_first_one_hangs(batch: Batch) -> Outcome:
        return await hang(batch) if batch.records[0].offset == 0 else deliver(batch)

    r = rig(30, then=the_first_one_hangs, window=window(10), max_in_flight=3)
    await crash(r, lambda: r.source.metadata.get(P0, "").endswith(",0+20"))
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 30)
    assert len(r.sink.requests) == 4, "three, and the first one once more"
    assert set(r.sink.taken.values()) == {1}


async def test_a_batch_that_was_closed_by_time_is_formed_again_although_more_has_come() -> None:
    r = rig(7, then=hang, window=window(100, max_age=5.0))
    await crash(r, lambda: r.sink.requests)
    r.log.append(*[b"{}"] * 10)
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 17)
    assert ids(r)[0] == ids(r)[1]
    assert r.sink.offsets[1:] == [list(range(7)), list(range(7, 17))]


async def test_a_plan_that_was_committed_although_nobody_learned_of_it_is_kept() -> None:
    """The daemon died after the commit and before the request."""
    r = rig(5, then=hang, window=window(5))
    r.source.outcomes = ["unknown"] * 1000
    await crash(r, lambda: r.source.metadata.get(P0))
    assert r.sink.requests == []
    r.log.append(*[b"{}"] * 5)
    restart(r, window(100))
    r.source.outcomes = []
    async with r.running():
        await until(lambda: r.committed == 10)
    assert r.sink.offsets == [list(range(5)), list(range(5, 10))]


async def test_a_batch_of_a_rebalance_that_took_a_partition_away_is_taken_apart() -> None:
    r = rig(5, P0, P1, then=hang, window=window(10))
    await crash(r, lambda: r.sink.requests)
    restart(r)
    r.source.join = lambda member: (  # type: ignore[method-assign]
        setattr(r.source, "_member", member),
        r.source.assign([P1]),
    )
    async with r.running():
        await until(lambda: r.source.committed[P1] == 5)
    assert r.sink.requests[1].batch.spans[0].tp == P1
    assert r.count("recovered_batches_total", outcome="split") == 1
    assert r.source.committed[P0] == 0


async def test_a_batch_that_compaction_has_eaten_into_goes_with_what_is_left() -> None:
    r = rig(10, then=hang, window=window(10))
    await crash(r, lambda: r.sink.requests)
    del r.log.records[P0][3:6]
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 10)
    assert r.sink.offsets[1] == [0, 1, 2, 6, 7, 8, 9]
    assert ids(r)[0] != ids(r)[1], "fewer records are another id"
    assert r.count("recovered_batches_total", outcome="changed") == 1


async def test_a_batch_of_which_compaction_has_left_nothing_is_passed() -> None:
    r = rig(10, then=hang, window=window(10))
    await crash(r, lambda: r.sink.requests)
    del r.log.records[P0][:10]
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 10)
    assert len(r.sink.requests) == 1


async def test_a_plan_beyond_the_end_of_the_log_takes_what_is_there_and_waits_for_nothing() -> None:
    r = rig(10, then=hang, window=window(10))
    await crash(r, lambda: r.sink.requests)
    del r.log.records[P0][6:]
    r.log.ends[P0] = 6
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 6)
        r.log.append(*[b"{}"] * 4)
        await until(lambda: r.committed == 10)
    assert r.sink.offsets[1:] == [list(range(6)), list(range(6, 10))]
    assert len(set(ids(r))) == 3, "new records never go under the id of lost ones"


async def test_records_that_were_invalid_then_are_invalid_again_and_no_part_of_the_batch() -> None:
    r = Rig(FakeSink(then=hang), Log(), window=window(4))
    r.log.append(b"1", b"{broken", b"2", None, b"3", b"4")
    await crash(r, lambda: r.sink.requests and r.dead_letters.letters)
    restart(r, window(2))
    async with r.running():
        await until(lambda: r.committed == 6)
    assert r.sink.offsets == [[0, 2, 4, 5]] * 2
    assert ids(r)[0] == ids(r)[1]
    assert r.dead_letters.offsets == [1, 1], "it may come twice, with the same coordinates"


async def test_a_collapsed_batch_is_the_same_again() -> None:
    settings = window(6, collapse=True)
    r = Rig(FakeSink(then=hang), Log(), window=settings, record=RecordSettings(id="/id"))
    r.log.append(*[b'{"id":%d}' % (n % 2) for n in range(6)])
    await crash(r, lambda: r.sink.requests)
    restart(r, window(100))
    async with r.running():
        await until(lambda: r.committed == 6)
    assert r.sink.offsets == [[4, 5], [4, 5]]
    assert ids(r)[0] == ids(r)[1]


@pytest.mark.parametrize("settings", [window(10), window(100), window(100, span="partition")])
async def test_what_a_plan_has_left_out_is_sent_by_itself_and_can_be_planned(
    settings: WindowSettings,
) -> None:
    """Tombstones, say, that were skipped, and by another configuration are sent now."""
    first, third = batch_of(10, start=0), batch_of(10, start=20)

    async def the_third_hangs(batch: Batch) -> Outcome:
        return await hang(batch) if batch.id == third.id else deliver(batch)

    r = rig(40, P0, then=the_third_hangs, window=settings, max_in_flight=2)
    r.source.committed = {P0: 0}
    r.source.metadata = {P0: encode(0, [Entry(0, 9, first.id), Entry(20, 29, third.id)])}

    def planned() -> list[int]:
        return [e.first for e in decode(r.source.committed[P0], r.source.metadata[P0]) if e.id]

    await crash(r, lambda: planned()[-1] == 30)
    assert 20 in planned()
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 40)
    assert r.count("foreign_metadata_total") == 0
    assert {*map(tuple, r.sink.offsets)} == {
        tuple(range(start, start + 10)) for start in range(0, 40, 10)
    }


async def test_a_record_before_what_is_done_shares_no_batch_with_those_behind_it() -> None:
    first = batch_of(10, start=0)
    r = rig(40, window=window(10))
    r.source.committed = {P0: 0}
    r.source.metadata = {P0: encode(0, [Entry(0, 9, first.id), Entry(11, 19)])}
    async with r.running():
        await until(lambda: r.committed == 40)
    assert sorted(r.sink.offsets)[:3] == [list(range(10)), [10], list(range(20, 30))]


async def test_metadata_of_somebody_else_counts_as_absent() -> None:
    r = rig(5, window=window(5))
    r.source.committed, r.source.metadata = {P0: 2}, {P0: "hands off"}
    async with r.running():
        await until(lambda: r.committed == 5)
    assert r.sink.offsets == [[2, 3, 4]]
    assert r.count("foreign_metadata_total") == 1


async def test_a_plan_that_needs_more_memory_than_there_is_now_is_kept_all_the_same() -> None:
    entry = Entry(0, 99, "e" * 32)
    r = rig(200, window=window(10), memory=20 * OVERHEAD)
    r.source.committed, r.source.metadata = {P0: 0}, {P0: encode(0, [entry])}
    async with r.running():
        await until(lambda: r.committed == 200)
    assert r.sink.offsets[0] == list(range(100))
    assert all(len(where) <= 10 for where in r.sink.offsets[1:])


async def test_while_one_partitions_plan_cannot_be_read_the_others_go_on() -> None:
    r = rig(20, P0, P1, window=window(10))
    r.source.committed = {P0: 0, P1: 0}
    r.source.metadata = {P0: encode(0, [Entry(0, 29, "e" * 32)])}
    r.log.ends[P0] = 30  # nothing can be read beyond 20: the log is damaged there
    behind = r.source._behind
    r.source._behind = lambda tp: behind(tp) and r.source.positions[tp] < 20  # type: ignore[method-assign]
    read = r.source._read

    def without_the_end(ready: object, count: int) -> object:
        fetched = read(ready, count)  # type: ignore[arg-type]
        return [f for f in fetched if f.tp != P0]

    r.source._read = without_the_end  # type: ignore[method-assign,assignment]
    async with r.running():
        await until(lambda: r.source.committed[P1] == 20)
    assert r.source.committed[P0] == 0
    assert r.source.metadata[P0].startswith(PREFIX + "0+30=")


async def test_planned_batches_go_before_ordinary_ones_of_the_same_partitions() -> None:
    r = rig(40, P0, P1, then=hang, window=window(10), max_in_flight=1)
    await crash(r, lambda: r.sink.requests)
    restart(r, window(5, span="partition"))
    async with r.running():
        await until(lambda: r.source.committed == {P0: 40, P1: 40})
    for tp in (P0, P1):
        order = [
            record.offset
            for request in r.sink.requests[1:]
            for record in request.batch.records
            if (record.topic, record.partition) == tp
        ]
        assert order == list(range(40))


async def test_a_stop_in_the_middle_of_the_recovery_leaves_the_plan_as_it_was() -> None:
    r = rig(10, P0, P1, then=hang, window=window(20))
    await crash(r, lambda: r.sink.requests)
    plan = dict(r.source.metadata)
    restart(r)
    r.sink.then = hang
    async with r.running():
        await until(lambda: len(r.sink.requests) == 2)
    assert r.source.metadata == plan
    assert r.error is None


async def test_planned_batches_that_were_not_sent_again_before_a_stop_stay_in_the_plan() -> None:
    r = rig(30, then=hang, window=window(10), max_in_flight=3)
    await crash(r, lambda: len(r.sink.requests) == 3)
    plan = dict(r.source.metadata)
    r.gate._slots = 1
    restart(r)
    r.sink.then = hang
    async with r.running():
        await until(lambda: len(r.sink.requests) == 4)
    assert r.source.metadata == plan, "whoever made it had sent all three"


async def test_batches_that_were_never_sent_are_not_left_in_the_plan_by_a_stop() -> None:
    r = rig(50, then=after(3600.0), window=window(10), drain=5.0)
    async with r.running():
        await until(lambda: len(r.pipeline.buffer.waiting) > 0)
        await anyio.sleep(1.0)
    (sent,) = r.sink.requests
    assert r.source.metadata[P0] == encode(0, [Entry(0, 9, sent.batch.id)])


async def test_a_retry_of_a_part_is_no_plan_of_its_own_and_starts_over_after_a_crash() -> None:
    r = rig(10, window=window(10))
    r.sink.script = [Again("timeout", "no answer"), hang]
    await crash(r, lambda: len(r.sink.requests) == 2)
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 10)
    assert len(set(ids(r))) == 1


async def test_a_small_metadata_limit_means_fewer_batches_in_flight_and_loses_no_plan() -> None:
    r = rig(100, then=after(10.0), window=window(10), max_in_flight=8)
    r.source.metadata_limit = 128  # three plans of this kind
    async with r.running():
        await until(lambda: r.committed == 100)
    assert r.sink.most_busy == 3
    assert set(r.sink.taken.values()) == {1}


async def test_plans_are_worked_off_also_where_the_sink_needs_none_any_more() -> None:
    r = rig(30, then=hang, window=window(10))
    await crash(r, lambda: r.sink.requests)
    r.sink.identifies = "item"
    restart(r, window(7))
    async with r.running():
        await until(lambda: r.committed == 30)
    assert ids(r)[1] == ids(r)[0]
    assert r.source.metadata == {P0: ""}

"""Delivery, on virtual time: minutes of waiting take none."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import anyio
import pytest
from trio.testing import MockClock

from fakes import (
    P0,
    Answer,
    FakeRecord,
    FakeSink,
    Rig,
    after,
    batch_of,
    deliver,
    hang,
    judge,
    offsets,
    records_at,
)
from sluiced.attempts import Flight, RetrySettings
from sluiced.batch import Batch, Run
from sluiced.burial import DeadLetterSettings
from sluiced.errors import BurialError
from sluiced.outcome import Again, Answered, Fate, Outcome, Refused, TooLarge, Verdict, answered
from sluiced.record import TopicPartition
from sluiced.units import Duration, Patience

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


BAD = Refused("400", "bad request")
TIMEOUT = Again("timeout", "no answer within 30 s")
DOWN = Again("connection", "connection refused")
OUTAGE = Again("status", "the API does not accept our credentials", "401", outage=True)


def rig(*script: Answer, then: Answer = deliver, seed: int = 0, **settings: object) -> Rig:
    """A rig whose sink gives these answers; `settings` are those of [retry]."""
    dead_letter = settings.pop("dead_letter", None)
    return Rig(
        FakeSink(*script, then=then),
        retry=RetrySettings(**settings),  # type: ignore[arg-type]
        dead_letter=dead_letter,  # type: ignore[arg-type]
        seed=seed,
    )


async def deliver_with(r: Rig, batch: Batch | int = 4) -> Flight:
    flight = Flight(batch_of(batch) if isinstance(batch, int) else batch, anyio.current_time())
    await r.delivery.deliver(flight)
    return flight


def refuse(*guilty: int, answer: Outcome = BAD) -> Callable[[Batch], Outcome]:
    """An API that refuses every request with a guilty record in it, and does not say which."""

    def decide(batch: Batch) -> Outcome:
        return answer if set(guilty) & set(offsets(batch.records)) else deliver(batch)

    return decide


def fates(**by_name: set[int]) -> Callable[[Batch], Outcome]:
    """An API that answers `retry` or `rejected` for some offsets and delivers the others."""

    def fate(record: FakeRecord) -> Fate:
        for name, where in by_name.items():
            if record.offset in where:
                return Fate(name)
        return Fate.DELIVERED

    return judge(fate)


# --- delivered ------------------------------------------------------------------------------------


async def test_a_batch_that_is_taken_is_one_request() -> None:
    r = rig()
    flight = await deliver_with(r, 4)
    assert r.sink.offsets == [[0, 1, 2, 3]]
    assert (flight.attempts, flight.delivered, flight.buried) == (1, 4, 0)
    assert r.count("records_delivered_total", topic="pages") == 4
    assert r.count("batches_total", closed_by="records", outcome="delivered") == 1
    assert r.count("visibility_delay_seconds_count") == 4


async def test_records_are_counted_under_the_topics_they_came_from() -> None:
    news = TopicPartition("news", 0)
    runs = [Run(P0, 1, records_at(P0, [1])), Run(news, 1, records_at(news, [1, 2]))]
    r = rig()
    await deliver_with(r, Batch.of("pages", runs, "records"))
    assert r.count("records_delivered_total", topic="pages") == 1
    assert r.count("records_delivered_total", topic="news") == 2


async def test_the_visibility_delay_is_from_the_timestamp_to_the_answer() -> None:
    r = rig(then=after(3.0))
    await deliver_with(r, 2)
    assert r.count("visibility_delay_seconds_sum") == pytest.approx(6.0, abs=0.1)


# --- split and bisection --------------------------------------------------------------------------


async def test_a_batch_that_is_too_large_is_split_until_it_fits() -> None:
    def at_most_two(batch: Batch) -> Outcome:
        return TooLarge("413", "too large") if len(batch) > 2 else deliver(batch)

    r = rig(then=at_most_two)
    await deliver_with(r, 8)
    assert r.sink.offsets == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 2, 3],
        [0, 1],
        [2, 3],
        [4, 5, 6, 7],
        [4, 5],
        [6, 7],
    ]
    assert r.dead_letters.letters == []


async def test_every_part_of_a_split_has_an_id_of_its_own() -> None:
    r = rig(then=refuse(3))
    await deliver_with(r, 8)
    ids = [request.batch.id for request in r.sink.requests]
    assert len(set(ids)) == len(ids)


async def test_a_record_that_is_too_large_alone_is_buried_as_such() -> None:
    r = rig(then=refuse(2, answer=TooLarge("413", "payload too large")))
    flight = await deliver_with(r, 4)
    (letter,) = r.dead_letters.letters
    assert (letter.record.offset, letter.reason, letter.status) == (2, "too_large", "413")
    assert letter.attempts == 3
    assert (flight.delivered, flight.buried) == (3, 1)


async def test_a_request_that_was_never_sent_is_no_attempt() -> None:
    r = rig(then=refuse(2, answer=TooLarge(error="larger than sink.max_bytes", sent=False)))
    await deliver_with(r, 4)
    (letter,) = r.dead_letters.letters
    assert (letter.reason, letter.attempts, letter.status) == ("too_large", 0, "")


@pytest.mark.parametrize("guilty", [{0}, {15}, {5, 6}, {0, 7, 15}, set(range(16))])
async def test_bisection_buries_the_guilty_and_delivers_all_others(guilty: set[int]) -> None:
    r = rig(then=refuse(*guilty))
    flight = await deliver_with(r, 16)
    assert set(r.dead_letters.offsets) == guilty
    assert {o for _, _, o in r.sink.taken} == set(range(16)) - guilty
    assert set(r.sink.taken.values()) <= {1}
    assert (flight.delivered, flight.buried) == (16 - len(guilty), len(guilty))


async def test_one_guilty_record_among_many_costs_few_requests() -> None:
    r = rig(then=refuse(700))
    await deliver_with(r, 1024)
    assert len(r.sink.requests) == 1 + 2 * 10


async def test_bisection_keeps_the_order_of_what_is_delivered() -> None:
    r = rig(then=refuse(3))
    await deliver_with(r, 8)
    taken = [where for where in r.sink.offsets if 3 not in where]
    assert taken == [[0, 1], [2], [4, 5, 6, 7]]


async def test_a_single_refused_record_is_buried_with_the_words_of_the_api() -> None:
    r = rig(Refused("422", "slug is taken"))
    flight = await deliver_with(r, 1)
    (letter,) = r.dead_letters.letters
    assert (letter.reason, letter.status, letter.error) == ("rejected", "422", "slug is taken")
    assert letter.batch == flight.batch.id
    assert letter.attempts == 1
    assert r.count("batches_total", closed_by="records", outcome="rejected") == 1


# --- partial answers ------------------------------------------------------------------------------


async def test_only_what_the_api_asks_for_again_goes_again_and_under_another_id() -> None:
    r = rig(fates(retry={1, 3}))
    await deliver_with(r, 4)
    assert r.sink.offsets == [[0, 1, 2, 3], [1, 3]]
    first, second = r.sink.requests
    assert first.batch.id != second.batch.id
    assert set(r.sink.taken.values()) == {1}
    assert r.count("retries_total", reason="status") == 1
    assert r.count("batches_total", closed_by="records", outcome="delivered") == 1


async def test_rejected_items_are_buried_with_their_own_error_and_the_request_that_judged() -> None:
    def answer(batch: Batch) -> Outcome:
        good = Verdict(Fate.DELIVERED, "201")
        bad = [Verdict(Fate.REJECTED, "400", f"bad {r.offset}") for r in batch.records]
        verdicts = [v if r.offset % 2 else good for r, v in zip(batch.records, bad, strict=True)]
        return answered(batch, verdicts)

    r = rig(then=answer)
    flight = await deliver_with(r, 4)
    assert [(x.record.offset, x.reason, x.status, x.error) for x in r.dead_letters.letters] == [
        (1, "rejected", "400", "bad 1"),
        (3, "rejected", "400", "bad 3"),
    ]
    assert {x.batch for x in r.dead_letters.letters} == {flight.batch.id}
    assert r.count("batches_total", closed_by="records", outcome="partial") == 1
    assert r.count("records_delivered_total", topic="pages") == 2


async def test_an_item_that_is_asked_for_again_and_again_is_exhausted_at_last() -> None:
    r = rig(then=fates(retry={2}), max_item_attempts=5)
    flight = await deliver_with(r, 4)
    assert r.sink.offsets == [[0, 1, 2, 3], [2], [2], [2], [2]]
    (letter,) = r.dead_letters.letters
    assert (letter.record.offset, letter.reason, letter.attempts) == (2, "exhausted", 5)
    assert letter.status == "retry"
    assert (flight.delivered, flight.buried) == (3, 1)


async def test_pauses_between_requests_for_such_items_grow() -> None:
    pauses: list[list[float]] = []
    for seed in range(200):
        r = rig(then=fates(retry={0}), max_item_attempts=4, seed=seed)
        await deliver_with(r, 1)
        pauses.append([b - a for a, b in pairwise(r.sink.times)])
    for n, ceiling in enumerate([0.25, 0.5, 1.0]):
        drawn = [p[n] for p in pauses]
        assert max(drawn) <= ceiling + 1e-6
        assert max(drawn) > ceiling * 0.9
        assert min(drawn) < ceiling * 0.1


async def test_all_three_fates_in_one_answer_each_get_their_due() -> None:
    r = rig(fates(retry={1}, rejected={2}))
    flight = await deliver_with(r, 4)
    assert r.sink.offsets == [[0, 1, 2, 3], [1]]
    assert r.dead_letters.offsets == [2]
    assert (flight.delivered, flight.buried) == (3, 1)


async def test_an_unknown_answer_between_does_not_count_as_asked_for_again() -> None:
    retry = fates(retry={0})
    r = rig(retry, TIMEOUT, retry, TIMEOUT, deliver, max_item_attempts=3)
    await deliver_with(r, 2)
    assert r.sink.offsets == [[0, 1], [0], [0], [0], [0]]
    assert r.dead_letters.letters == []


async def test_an_answer_of_the_wrong_length_never_gets_past() -> None:
    batch = batch_of(3)
    for count in (0, 2, 4):
        outcome = answered(batch, [Verdict(Fate.DELIVERED)] * count)
        assert isinstance(outcome, Again)
        assert outcome.reason == "unknown"
        with pytest.raises(ValueError, match="one verdict for each"):
            await deliver_with(rig(Answered([Verdict(Fate.DELIVERED)] * count)), batch)


# --- again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["status", "throttled", "timeout", "connection", "unknown"])
async def test_where_nothing_is_known_the_same_batch_goes_again_under_the_same_id(
    reason: str,
) -> None:
    r = rig(*[Again(reason, "trouble")] * 3)  # type: ignore[arg-type]
    flight = await deliver_with(r, 4)
    assert {request.batch.id for request in r.sink.requests} == {flight.batch.id}
    assert len(r.sink.requests) == 4
    assert r.count("retries_total", reason=reason) == 3
    assert r.dead_letters.letters == []


async def test_pauses_between_attempts_double_up_to_the_longest_and_are_drawn_in_full() -> None:
    pauses: list[list[float]] = []
    for seed in range(200):
        r = rig(*[DOWN] * 6, seed=seed, first_delay=Duration(1), max_delay=Duration(8))
        await deliver_with(r, 1)
        pauses.append([b - a for a, b in pairwise(r.sink.times)])
    for n, ceiling in enumerate([1, 2, 4, 8, 8, 8]):
        drawn = [p[n] for p in pauses]
        assert max(drawn) <= ceiling + 1e-6
        assert max(drawn) > ceiling * 0.9
        assert min(drawn) < ceiling * 0.1


async def test_after_thousands_of_attempts_the_pause_is_still_a_number() -> None:
    r = rig(*[DOWN] * 3000)
    await deliver_with(r, 1)
    assert len(r.sink.requests) == 3001


async def test_after_an_answer_the_pauses_start_small_again() -> None:
    r = rig(*[DOWN] * 10, fates(retry={0}), DOWN, first_delay=Duration(1), max_delay=Duration(600))
    await deliver_with(r, 1)
    *_, before, last = r.sink.times
    assert last - before <= 1.0 + 1e-6


async def test_the_wait_that_the_api_asks_for_is_kept_and_not_much_exceeded() -> None:
    r = rig(Again("throttled", "slow down", "429", after=20.0))
    await deliver_with(r, 1)
    first, second = r.sink.times
    assert 20.0 <= second - first <= 20.25 + 1e-6


async def test_an_absurd_wait_is_cut_to_the_longest_pause() -> None:
    r = rig(Again("throttled", "slow down", "429", after=86_400.0), max_delay=Duration(60))
    await deliver_with(r, 1)
    first, second = r.sink.times
    assert 60.0 <= second - first <= 60.25 + 1e-6


@pytest.mark.parametrize("no_wait", [0.0, None, -20.0, math.nan])
async def test_a_wait_of_nothing_does_not_make_a_storm(no_wait: float | None) -> None:
    """Nor does a date that is over, which a wall clock that has jumped makes of every date, nor
    what a sink of another package makes of one."""
    r = rig(*[Again("throttled", "slow down", "429", after=no_wait)] * 12)
    await deliver_with(r, 1)
    assert r.sink.times[-1] > 30.0, "the pauses grow as without a wish"


async def test_a_storm_of_429_takes_time_and_buries_nothing() -> None:
    r = rig(*[Again("throttled", "slow down", "429", after=30.0)] * 200)
    await deliver_with(r, 4)
    assert r.dead_letters.letters == []
    pauses = [b - a for a, b in pairwise(r.sink.times)]
    assert all(30.0 <= pause <= 30.25 + 1e-6 for pause in pauses)
    assert len({round(pause, 6) for pause in pauses}) > 100, "others were told the same"


async def test_an_item_that_is_told_to_slow_down_uses_up_no_attempt() -> None:
    slow_down = Verdict(Fate.RETRY, "429", "too many requests")
    r = rig(*[Answered([slow_down] * 4)] * 50, max_item_attempts=2)
    await deliver_with(r, 4)
    assert r.dead_letters.letters == []
    assert r.sink.times[-1] > 120.0, "and the pauses grow"
    assert r.count("retries_total", reason="throttled") == 50


async def test_items_told_to_slow_down_do_not_save_those_that_are_exhausted() -> None:
    statuses = {0: "503", 1: "429"}

    def answer(batch: Batch) -> Outcome:
        verdicts = [Verdict(Fate.RETRY, statuses[x.offset]) for x in batch.records]
        done = batch.records[0].offset == 1 and len(r.sink.requests) > 20
        return deliver(batch) if done else Answered(verdicts)

    r = rig(then=answer, max_item_attempts=3)
    await deliver_with(r, 2)
    assert r.dead_letters.offsets == [0]
    assert r.sink.taken == {("pages", 0, 1): 1}
    assert r.sink.offsets[:4] == [[0, 1], [0], [0], [1]]


async def test_when_one_batch_is_asked_to_wait_the_others_wait_as_well() -> None:
    r = rig(Again("throttled", "slow down", "429", after=20.0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver_with, r, batch_of(1))
        await anyio.sleep(1.0)
        tasks.start_soon(deliver_with, r, batch_of(1, start=1))
    assert r.sink.offsets[0] == [0]
    assert min(r.sink.times[1:]) >= 20.0


async def test_the_wait_is_kept_by_others_also_where_the_batch_itself_is_given_up() -> None:
    throttled = Again("throttled", "slow down", "429", after=20.0)
    r = rig(throttled, throttled, give_up_after=Patience(1.0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver_with, r, batch_of(1))
        await anyio.sleep(30.0)
        assert r.dead_letters.offsets == [0]
        tasks.start_soon(deliver_with, r, batch_of(1, start=1))
    assert r.sink.times[2] >= r.sink.times[1] + 20.0


async def test_a_wait_that_grows_while_one_waits_is_kept_too() -> None:
    r = rig()
    r.gate.hold(10.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver_with, r, 1)
        await anyio.sleep(5.0)
        r.gate.hold(30.0)
    assert r.sink.times == [pytest.approx(30.0)]


async def test_by_default_nothing_is_ever_given_up() -> None:
    r = rig(*[DOWN] * 5000)
    await deliver_with(r, 4)
    assert anyio.current_time() > 86_400
    assert r.dead_letters.letters == []


async def test_after_the_patience_that_is_set_the_records_are_exhausted() -> None:
    r = rig(then=DOWN, give_up_after=Patience(300))
    flight = await deliver_with(r, 4)
    assert 300 <= anyio.current_time() <= 400
    assert [x.reason for x in r.dead_letters.letters] == ["exhausted"] * 4
    assert {x.attempts for x in r.dead_letters.letters} == {len(r.sink.requests)}
    assert {x.error for x in r.dead_letters.letters} == {"connection refused"}
    assert flight.buried == 4


async def test_wrong_credentials_never_bury_anything_however_little_patience_there_is() -> None:
    r = rig(*[OUTAGE] * 500, give_up_after=Patience(60))
    await deliver_with(r, 4)
    assert anyio.current_time() > 3600
    assert r.dead_letters.letters == []


async def test_an_hour_of_wrong_credentials_does_not_use_up_the_patience() -> None:
    r = rig(DOWN, *[OUTAGE] * 500, DOWN, DOWN, give_up_after=Patience(60))
    await deliver_with(r, 4)
    assert r.dead_letters.letters == []


async def test_a_part_that_comes_late_has_patience_of_its_own() -> None:
    # The first half takes long to be delivered; the second half's first trouble is its first.
    r = rig(TooLarge("413"), after(3600.0), DOWN, give_up_after=Patience(60))
    await deliver_with(r, 4)
    assert r.dead_letters.letters == []


# --- health ---------------------------------------------------------------------------------------


async def test_an_outage_is_told_from_the_third_failure_in_a_row_on_until_an_answer() -> None:
    seen: list[str | None] = []

    def look(outcome: Outcome) -> Callable[[Batch], Outcome]:
        def answer(batch: Batch) -> Outcome:
            seen.append(r.delivery.health.outage)
            return outcome

        return answer

    r = rig(*[look(DOWN)] * 4)
    await deliver_with(r, 1)
    assert seen == [None, None, None, "connection refused"]
    assert r.delivery.health.outage is None
    assert r.delivery.health.last_error is not None
    assert r.delivery.health.last_error[1] == "connection refused"


async def test_failures_with_answers_between_are_no_outage() -> None:
    retry = fates(retry={0})
    outages: list[str | None] = []

    def down(batch: Batch) -> Outcome:
        outages.append(r.delivery.health.outage)
        return DOWN

    r = rig(down, down, retry, down, down, retry, down, down)
    await deliver_with(r, 1)
    assert outages == [None] * 6


async def test_wrong_credentials_are_an_outage_at_once() -> None:
    r = rig(OUTAGE, then=hang)
    with anyio.move_on_after(100):
        await deliver_with(r, 1)
    assert r.delivery.health.outage == "the API does not accept our credentials"


async def test_being_asked_to_slow_down_is_no_outage() -> None:
    r = rig(*[Again("throttled", "slow down", "429", after=1.0)] * 20, then=hang)
    with anyio.move_on_after(1000):
        await deliver_with(r, 1)
    assert len(r.sink.requests) == 21
    assert r.delivery.health.outage is None


async def test_a_refusal_proves_that_the_sink_answers() -> None:
    r = rig(DOWN, DOWN, DOWN, Refused("400"))
    await deliver_with(r, 1)
    assert r.delivery.health.outage is None


async def test_a_request_that_was_never_sent_does_not_end_an_outage() -> None:
    r = rig(DOWN, DOWN, DOWN, TooLarge(sent=False), then=hang)
    with anyio.move_on_after(100):
        await deliver_with(r, 2)
    assert len(r.sink.requests) == 5
    assert r.delivery.health.outage == "connection refused"


# --- halts ----------------------------------------------------------------------------------------


async def test_where_a_refusal_is_to_halt_it_waits_and_tries_again_after_the_lift() -> None:
    r = rig(Refused("400", "bad"), dead_letter=DeadLetterSettings(on_reject="halt"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver_with, r, 1)
        await anyio.sleep(1000)
        assert len(r.sink.requests) == 1
        assert r.halt.reason is not None
        r.halt.lift()
    assert r.sink.offsets == [[0], [0]]
    assert r.dead_letters.letters == []


async def test_after_the_lift_only_the_refused_records_go_again() -> None:
    r = rig(fates(rejected={1, 2}), dead_letter=DeadLetterSettings(on_reject="halt"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver_with, r, 4)
        await anyio.sleep(1)
        r.halt.lift()
    assert r.sink.offsets == [[0, 1, 2, 3], [1, 2]]


async def test_too_many_refusals_halt_before_any_of_them_is_buried() -> None:
    settings = DeadLetterSettings(topic="dead", max_ratio=0.5, max_ratio_window=10)
    r = rig(fates(rejected=set(range(6))), dead_letter=settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver_with, r, 10)
        await anyio.sleep(1000)
        assert r.halt.reason is not None
        assert r.dead_letters.letters == []
        r.halt.lift()
    assert r.sink.offsets[1] == [0, 1, 2, 3, 4, 5]


async def test_deliveries_between_refusals_keep_their_ratio_down() -> None:
    settings = DeadLetterSettings(topic="dead", max_ratio=0.5, max_ratio_window=10)
    r = rig(then=fates(rejected={o for o in range(100) if o % 20 < 5}), dead_letter=settings)
    for start in range(0, 100, 20):
        await deliver_with(r, batch_of(20, start=start))
    assert len(r.dead_letters.letters) == 25


async def test_a_halt_holds_up_every_batch_before_its_next_request() -> None:
    r = rig(DOWN)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver_with, r, 1)
        await anyio.sleep(0.0001)
        r.halt.set("somebody's trouble")
        await anyio.sleep(1000)
        assert len(r.sink.requests) == 1
        r.halt.lift()
    assert len(r.sink.requests) == 2


async def test_a_hold_that_began_during_a_halt_is_kept_after_it() -> None:
    r = rig()
    r.halt.set("somebody's trouble")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver_with, r, 1)
        await anyio.sleep(10.0)
        r.gate.hold(50.0)
        r.halt.lift()
    assert r.sink.times == [pytest.approx(50.0)]


async def test_delivery_does_not_end_before_the_dead_letter_is_acknowledged() -> None:
    r = rig(Refused("400"))
    r.dead_letters.error = BurialError("not acknowledged")
    done = anyio.Event()

    async def run() -> None:
        await deliver_with(r, 1)
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await anyio.sleep(1000)
        assert not done.is_set()
        assert r.halt.reason is not None
        r.dead_letters.error = None
        r.halt.lift()
    assert r.dead_letters.offsets == [0]
    assert len(r.sink.requests) == 1, "the API has judged; only the burial goes again"


async def test_an_exception_in_a_sink_is_a_bug_and_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        await deliver_with(rig(ZeroDivisionError("bug")), 1)


@pytest.mark.parametrize(
    ("first", "longest"), [(Duration(0), Duration(60)), (Duration(2), Duration(1))]
)
async def test_delays_that_make_no_sense_are_refused(first: Duration, longest: Duration) -> None:
    with pytest.raises(ValueError, match="first_delay"):
        RetrySettings(first_delay=first, max_delay=longest)

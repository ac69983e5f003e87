"""The controller, against servers whose best load is known by construction. Virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, inf
from statistics import fmean

import anyio
import pytest
from trio.testing import MockClock

from fakes import FakeSink, Log, Rig, deliver
from loads.models import Line, Model, Seen
from sluiced.adaptive import FIRST_SIZE, Bounds, Controller
from sluiced.batch import Batch
from sluiced.delivery import _push
from sluiced.gate import Gate, LimitSettings
from sluiced.goodput import Landing
from sluiced.outcome import Again, Answered, Fate, Outcome, Refused, TooLarge, Verdict
from sluiced.window import WindowSettings

BOUNDS = Bounds(32, 1000)
LEARNT = 120.0  # seconds after a start or a change
# How far a setting moves away from its middle afterwards, as a factor; a slot is not cut in two.
SLOTS_BAND, SIZE_BAND = 1.6, 1.2

STEADY = {
    "one worker": Model(),
    "eight workers": Model(workers=8),
    "slow": Model(workers=8, per_request=0.2, per_record=0.002),
    "nothing but records": Model(workers=4, per_request=0.005, per_record=0.002),
    "nothing but requests": Model(workers=4, per_request=0.5, per_record=0.0001),
    "413 above 300 records": Model(workers=4, records=300),
    "a cliff at 400 records": Model(workers=4, cliff=400),
    "429 above ten requests": Model(workers=16, concurrent=10),
    "thrashing above five": Model(workers=12, knee=5),
    "a far network": Model(workers=32, per_request=0.001, per_record=0.00002, network=0.2),
}
CHANGING = {
    "more workers": (Model(workers=4), Model(workers=16)),
    "fewer allowed": (Model(workers=16, concurrent=12), Model(workers=16, concurrent=4)),
    "more allowed": (Model(workers=16, concurrent=4), Model(workers=16, concurrent=12)),
    "smaller requests": (Model(workers=4), Model(workers=4, records=200)),
}


def goodput(seen: Sequence[Seen], start: float, end: float) -> float:
    return fmean(look.goodput for look in seen if start < look.at <= end)


@pytest.mark.parametrize("name", STEADY)
def test_within_two_minutes_the_goodput_is_within_a_tenth_of_the_best_fixed_setting(
    name: str,
) -> None:
    model = STEADY[name]
    seen = Line(model, BOUNDS).run(LEARNT + 180)
    assert goodput(seen, LEARNT, LEARNT + 180) >= 0.9 * model.best(*BOUNDS[:2])


@pytest.mark.parametrize("name", CHANGING)
def test_within_two_minutes_of_a_change_as_well(name: str) -> None:
    before, after = CHANGING[name]
    seen = Line(before, BOUNDS, [(LEARNT, after)]).run(2 * LEARNT + 180)
    assert goodput(seen, 60, LEARNT) >= 0.9 * before.best(*BOUNDS[:2])
    assert goodput(seen, 2 * LEARNT, 2 * LEARNT + 180) >= 0.9 * after.best(*BOUNDS[:2])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("model", [Model(workers=8, noise=0.5), Model(workers=8, errors=0.01)])
def test_noise_and_a_few_errors_are_no_reason_to_hide(model: Model, seed: int) -> None:
    seen = Line(model, BOUNDS, seed=seed).run(LEARNT + 300)
    assert goodput(seen, LEARNT, LEARNT + 300) >= 0.85 * model.best(*BOUNDS[:2])


def test_what_was_found_is_kept_within_a_band_by_every_server() -> None:
    outside = []
    servers = {name: (model, model) for name, model in STEADY.items()} | CHANGING
    for name, (before, after) in servers.items():
        # Nothing but a failure's pause is by chance.
        for seed in range(3 if min(before.concurrent, after.concurrent) < inf else 1):
            line = Line(before, BOUNDS, [(LEARNT, after)], seed=seed)
            seen = [look for look in line.run(2 * LEARNT + 300) if look.at > 2 * LEARNT]
            slots, sizes = sorted(s.slots for s in seen), sorted(s.size for s in seen)
            middle = slots[len(slots) // 2]
            if not (
                floor(middle / SLOTS_BAND) <= slots[0] and slots[-1] <= ceil(middle * SLOTS_BAND)
            ):
                outside.append((name, seed, "slots", slots[0], middle, slots[-1]))
            middle = sizes[len(sizes) // 2]
            if not (middle / SIZE_BAND <= sizes[0] and sizes[-1] <= middle * SIZE_BAND):
                outside.append((name, seed, "size", sizes[0], middle, sizes[-1]))
    assert not outside


def test_no_more_slots_are_taken_than_pay() -> None:
    seen = Line(Model(workers=4), BOUNDS).run(300)
    assert max(s.slots for s in seen if s.at > LEARNT) <= 8
    assert sum(s.slots <= 5 for s in seen if s.at > LEARNT) > 90


# --- one thing at a time --------------------------------------------------------------------------


class Hand:
    """Drives a controller by hand: a server that takes `seconds` for each batch."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.controller = Controller(bounds)
        self.now = 0.0

    def rounds(
        self,
        count: int,
        seconds: Callable[[int, float], float],
        filled: int = 1000,
        **landing: object,
    ) -> None:
        """All slots are filled, up to `filled`, and give back what was in them together."""
        c = self.controller
        for _ in range(count):
            slots, size = min(c.slots, filled), c.size
            numbers = [c.launch(self.now, n + 1) for n in range(slots)]
            self.now += seconds(slots, size)
            for n, number in enumerate(numbers):
                c.answered(number, None, self.now)
                landed = {
                    "records": int(min(size, 1000)),
                    "seconds": seconds(slots, size),
                    **landing,
                }
                c.land(Landing(number, **landed), self.now, slots - n - 1)  # type: ignore[arg-type]


def proportional(slots: int, size: float) -> float:
    """A server to which every batch is the same: the more and the larger the better."""
    return 0.1


def test_it_begins_small() -> None:
    controller = Controller(BOUNDS)
    assert (controller.slots, controller.size) == (1, FIRST_SIZE)


def test_what_pays_is_gone_on_with_up_to_the_bounds() -> None:
    hand = Hand()
    hand.rounds(200, proportional)
    assert (hand.controller.slots, hand.controller.size) == (32, 1000)


def test_without_enough_work_nothing_changes() -> None:
    hand = Hand()
    hand.rounds(200, proportional, full=False)
    assert (hand.controller.slots, hand.controller.size) == (1, FIRST_SIZE)


def test_slots_that_nobody_fills_are_no_gain() -> None:
    hand = Hand(Bounds(32, None))
    hand.rounds(200, proportional, filled=2)
    slots = []
    for _ in range(200):
        hand.rounds(1, proportional, filled=2)
        slots.append(hand.controller.slots)
    assert max(slots) <= 3
    assert slots.count(2) > 150


def test_a_number_that_was_too_many_is_let_be_for_a_while() -> None:
    hand = Hand(Bounds(32, None))
    hand.rounds(200, proportional)
    while hand.controller.slots > 22:
        number = hand.controller.launch(hand.now, 1)
        for _ in range(2):
            hand.controller.answered(number, "slow", hand.now)
    slots = []
    for _ in range(600):
        hand.rounds(1, proportional)
        slots.append(hand.controller.slots)
    assert max(slots[:280]) < 32
    assert max(slots) == 32


def test_a_trial_that_is_worse_by_far_is_not_seen_to_its_end() -> None:
    sizes = []

    def cliff(slots: int, size: float) -> float:
        return 10.0 if size > FIRST_SIZE else 0.1

    hand = Hand(Bounds(16, 1000, fixed_slots=True))
    while hand.controller.size > FIRST_SIZE or not any(s > FIRST_SIZE for s in sizes):
        sizes.append(hand.controller.size)
        hand.rounds(1, cliff)
    assert sum(s > FIRST_SIZE for s in sizes) <= 2


def test_when_the_goodput_has_changed_by_itself_it_looks_around_in_larger_steps() -> None:
    hand = Hand(Bounds(32, None))
    hand.rounds(400, lambda slots, size: 0.1 * max(1, slots / 4))
    assert hand.controller.slots in (3, 4, 5)
    slots = []
    for _ in range(60):
        hand.rounds(1, lambda slots, size: 0.05 * max(1, slots / 4))
        slots.append(hand.controller.slots)
    assert max(slots) >= 6


def test_a_batch_of_another_size_tells_nothing_of_this_one() -> None:
    hand = Hand()
    hand.rounds(200, proportional, size=50)
    assert hand.controller.size == FIRST_SIZE
    hand.rounds(200, proportional, size=0)
    assert hand.controller.size == 1000, "but one that was full by its bytes does"


def test_behind_a_budget_nothing_changes() -> None:
    hand = Hand()
    hand.rounds(200, proportional, held=0.05)
    assert (hand.controller.slots, hand.controller.size) == (1, FIRST_SIZE)


def test_a_number_that_is_fixed_stays() -> None:
    hand, slots = Hand(Bounds(3, 1000, fixed_slots=True)), set()
    for _ in range(300):
        hand.rounds(1, proportional)
        slots.add(hand.controller.slots)
    assert (slots, hand.controller.size) == ({3}, 1000)
    hand = Hand(Bounds(32, None))
    hand.rounds(200, proportional)
    assert (hand.controller.slots, hand.controller.size) == (32, inf)


def test_again_and_again_told_to_slow_down_it_does_at_once_and_down_to_one() -> None:
    hand = Hand()
    hand.rounds(200, proportional)
    for _ in range(20):
        number = hand.controller.launch(hand.now, 1)
        for _ in range(3):
            hand.controller.answered(number, "slow", hand.now)
    assert hand.controller.slots == 1
    assert hand.controller.size == 1000, "a 429 says nothing about the size"


def test_where_requests_time_out_one_by_one_they_become_smaller() -> None:
    hand = Hand(Bounds(1, 1000))
    hand.rounds(200, proportional)
    while hand.controller.size > 800:  # whatever is being tried is over first
        number = hand.controller.launch(hand.now, 1)
        for _ in range(2):
            hand.controller.answered(number, "timeout", hand.now)
    assert hand.controller.size == 700


def test_one_error_among_many_answers_changes_nothing() -> None:
    hand = Hand()
    hand.rounds(200, proportional)
    number = hand.controller.launch(hand.now, 1)
    hand.controller.answered(number, "slow", hand.now)
    assert hand.controller.slots == 32


def test_an_answer_to_what_was_sent_before_a_change_is_not_held_against_what_came_after() -> None:
    hand = Hand()
    hand.rounds(200, proportional)
    old = hand.controller.launch(hand.now, 1)
    while (after := hand.controller.slots) >= 27:  # whatever is being tried is over first
        number = hand.controller.launch(hand.now, 1)
        for _ in range(2):
            hand.controller.answered(number, "slow", hand.now)
    assert after == 22
    for _ in range(50):
        hand.controller.answered(old, "slow", hand.now)
    assert hand.controller.slots == after


def test_a_request_that_is_too_large_halves_the_size_and_single_records_do_not() -> None:
    hand = Hand()
    hand.rounds(200, proportional)
    number = hand.controller.launch(hand.now, 1)
    hand.controller.too_large(number, 1000, hand.now)
    assert hand.controller.size == 500
    number = hand.controller.launch(hand.now, 1)
    hand.controller.too_large(number, 1, hand.now)
    assert hand.controller.size == 500


def test_other_bounds_count_at_once() -> None:
    hand = Hand()
    hand.rounds(200, proportional)
    hand.controller.adopt(Bounds(4, 300), hand.now)
    assert (hand.controller.slots, hand.controller.size) == (4, 300)


# --- in the pipeline ------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


AUTO = LimitSettings(max_in_flight="auto", most_in_flight=16)
WINDOW = WindowSettings(max_records="auto")


class Server:
    """A sink with so many workers that refuses what is `concurrent` or more, whole or by items."""

    def __init__(self, workers: int, concurrent: float, *, by_item: bool = False) -> None:
        self.workers = anyio.Semaphore(workers)
        self.inside = 0
        self.concurrent = concurrent
        self.by_item = by_item
        self.refused = 0

    async def __call__(self, batch: Batch) -> Outcome:
        if self.inside >= self.concurrent:
            self.refused += 1
            await anyio.sleep(0.01)
            if self.by_item:
                return Answered([Verdict(Fate.RETRY, "429", "slow down")] * len(batch))
            return Again("throttled", "slow down", "429")
        self.inside += 1
        try:
            async with self.workers:
                await anyio.sleep(0.2 + 0.002 * len(batch))
        finally:
            self.inside -= 1
        return deliver(batch)


def rig(then: object, records: int) -> Rig:
    log = Log()
    log.append(*[b"{}"] * records)
    return Rig(FakeSink(then=then), log, limits=AUTO, most_records=200, window=WINDOW)  # type: ignore[arg-type]


@pytest.mark.anyio
@pytest.mark.parametrize("by_item", [False, True], ids=["whole", "by item"])
async def test_a_pipeline_finds_what_its_sink_bears(by_item: bool) -> None:
    """429 above six requests, of which 200 records each take 0.6 s: 2,000 records a second."""
    server = Server(16, 6, by_item=by_item)
    r = rig(server, 300_000)
    async with r.running():
        await anyio.sleep(LEARNT)
        before, refused = r.count("records_delivered_total", topic="pages"), server.refused
        await anyio.sleep(30)
        found = (r.count("records_delivered_total", topic="pages") - before) / 30
        r.stop.set()
    assert found >= 0.9 * 2000
    assert server.refused - refused < 30, "and it does not knock in vain all the time"


@pytest.mark.anyio
async def test_after_a_long_time_without_records_it_goes_on_with_what_it_had_found() -> None:
    server = Server(16, 6)
    r = rig(server, 140_000)
    async with r.running():
        await anyio.sleep(LEARNT / 2)
        assert r.pipeline.buffer.records, "there has been enough work"
        while r.pipeline.ledger.owed():
            await anyio.sleep(1)
        before = r.count("records_delivered_total", topic="pages")
        slots = r.gate.slots
        await anyio.sleep(600)
        assert abs(r.gate.slots - slots) <= 1, "nothing is learnt from nothing"
        r.source.log.append(*[b"{}"] * 60_000)
        await anyio.sleep(20)
        found = (r.count("records_delivered_total", topic="pages") - before) / 20
        await r.source.revoke()
    assert found >= 0.85 * 2000


@pytest.mark.anyio
async def test_a_window_that_is_open_and_batches_that_are_closed_keep_their_size() -> None:
    def too_large(batch: Batch) -> Outcome:
        return TooLarge("413") if len(batch) > 60 else deliver(batch)

    r = rig(too_large, 2000)
    async with r.running():
        await anyio.sleep(60)
    first, *others = [len(request.batch) for request in r.sink.requests]
    assert first == FIRST_SIZE
    assert others[:4] == [50, 50, 100, 50], "of the next one, closed by then, the size is kept"
    assert set(r.sink.taken.values()) == {1}
    assert r.pipeline.buffer.windows.most_records is not None
    assert r.pipeline.buffer.windows.most_records <= 60


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("budget", "found"),
    [({"requests_per_minute": 60}, 200), ({"records_per_minute": 6000}, FIRST_SIZE)],
    ids=["requests", "records"],
)
async def test_a_budget_of_requests_makes_windows_larger_and_one_of_records_does_not(
    budget: dict[str, int], found: int
) -> None:
    log = Log()
    log.append(*[b"{}"] * 60_000)
    limits = LimitSettings(max_in_flight="auto", **budget)  # type: ignore[arg-type]
    r = Rig(FakeSink(), log, limits=limits, most_records=200, window=WINDOW)
    async with r.running():
        await anyio.sleep(LEARNT)
        sizes = [len(request.batch) for request in r.sink.requests]
        await r.source.revoke()
    assert sizes[0] == FIRST_SIZE
    assert sorted(sizes[-20:])[10] == found


def put_off(batch: Batch) -> Outcome:
    return Answered([Verdict(Fate.RETRY, "429", "slow down")] * len(batch))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "then", [Again("status", "unavailable", "503"), put_off], ids=["whole", "by item"]
)
async def test_a_batch_that_waits_for_another_attempt_keeps_its_slot_and_its_bytes(
    then: object,
) -> None:
    r = rig(then, 2000)
    async with r.running():
        for _ in range(200):
            await anyio.sleep(1)
            flights = r.pipeline.outflow.flights.values()
            assert len(flights) == r.gate.taken <= r.gate.slots
            held = sum(flight.batch.footprint + flight.batch.size for flight in flights)
            assert r.pipeline.memory.occupied() - r.pipeline.buffer.occupied() == held > 0
        assert len({request.batch.id for request in r.sink.requests}) <= 2
        await r.source.revoke()


LATER = [Verdict(Fate.RETRY, status, "") for status in ("429", "503", "408")]
DONE, BAD = Verdict(Fate.DELIVERED), Verdict(Fate.REJECTED, "429")


@pytest.mark.parametrize(
    ("outcome", "push"),
    [
        (Answered([DONE] * 3), None),
        (Answered([DONE, BAD, LATER[2]]), None),
        (Answered([DONE, DONE, LATER[0]]), "slow"),
        (Answered([DONE, DONE, LATER[1]]), "slow"),
        (Again("throttled", "", "429"), "slow"),
        (Again("status", "", "503"), "slow"),
        (Again("timeout", ""), "timeout"),
        (Again("status", "", "401", outage=True), "unclear"),
        (Again("connection", ""), "unclear"),
        (Again("unknown", ""), "unclear"),
        (Refused("400"), None),
    ],
)
def test_what_is_back_pressure_and_what_is_not(outcome: Outcome, push: str | None) -> None:
    assert _push(outcome) == push


def test_a_gate_without_auto_has_the_slots_that_it_was_given() -> None:
    gate = Gate(LimitSettings(max_in_flight=3))
    assert (gate.slots, gate.size) == (3, inf)
    gate.adopt(AUTO, 0.0, 500)
    assert (gate.slots, gate.size) == (1, 100)
    gate.adopt(LimitSettings(max_in_flight=3), 0.0)
    assert (gate.slots, gate.size) == (3, inf)


def test_no_size_is_tried_that_a_members_part_of_a_budget_does_not_allow() -> None:
    gate = Gate(LimitSettings(records_per_minute=600, share="group"), 0.0, 1000)
    assert gate.size == FIRST_SIZE
    gate.share(0.1, 0.0)
    assert gate.size == 60


@pytest.mark.anyio
async def test_no_more_is_fetched_and_cut_at_once_than_there_are_slots_for() -> None:
    r = rig(deliver, 2000)
    async with r.running():
        await anyio.sleep(1)
    assert r.source.fetches[0].max_records == FIRST_SIZE

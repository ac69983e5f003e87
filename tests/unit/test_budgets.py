"""Budgets: what is used in any period, however it slides, and how little of it goes to waste."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from random import Random

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from fakes import P0, P1, P2, Answer, FakeSink, Log, Rig, after, batch_of, deliver, until
from sluiced.attempts import Flight, RetrySettings
from sluiced.batch import Batch
from sluiced.budgets import SERVER, SOON, Budgets, BudgetSettings, Cost, Wait
from sluiced.feedback import Allowance, Feedback
from sluiced.gate import Gate, LimitSettings
from sluiced.outcome import DELIVERED, Again, Answered, Outcome, TooLarge
from sluiced.sliding import PERIODS, Budget
from sluiced.units import Duration, decode
from sluiced.window import WindowSettings

MINUTE = 60.0
KINDS = ("requests", "records", "bytes", "tokens")

unhurried = settings(deadline=None)  # how busy the machine is, is not what is tested
Uses = Sequence[tuple[float, float]]  # when, and how much


def most_within(period: float, uses: Uses) -> float:
    """The most that was used in any window of this length, whenever it begins or ends."""
    times = [at for at, _ in uses]
    sums = [0.0, *accumulate(amount for _, amount in uses)]
    ends = range(1, len(uses) + 1)
    # A window that ends with a use, and does not hold what was used a whole period before.
    return max(
        (sums[n] - sums[bisect_right(times, times[n - 1] - period)] for n in ends), default=0
    )


def least_within(period: float, uses: Uses, until: float) -> float:
    """The least that was used in any window that lies between 0 and `until`."""
    times = [at for at, _ in uses]
    sums = [0.0, *accumulate(amount for _, amount in uses)]
    starts = [0.0, *(at for at in times if at + period <= until)]
    # The emptiest windows begin right after a use.
    return min(
        sums[bisect_right(times, s + period)] - sums[bisect_right(times, s if s else -1.0)]
        for s in starts
    )


def spend(budget: Budget, amounts: Sequence[float], now: float = 0.0) -> list[tuple[float, float]]:
    """Uses these amounts one after the other, each as soon as it may."""
    uses = []
    for amount in amounts:
        while (wait := budget.wait(amount, now)) >= SOON:
            now += wait
        budget.use(amount, now)
        uses.append((now, amount))
    return uses


def budget(limit: float, unit: str = "minute", burst: float = 0.03, now: float = 0.0) -> Budget:
    made = Budget(f"records_per_{unit}", "records", limit, burst, now)
    made.adopt(limit, burst, 1.0, now)
    return made


# --- one budget -----------------------------------------------------------------------------------


@unhurried
@given(
    limit=st.integers(1, 5000),
    unit=st.sampled_from(sorted(PERIODS)),
    burst=st.floats(0.001, 1.0),
    start=st.floats(0, 1e9),
    data=st.data(),
)
def test_in_no_window_of_the_period_more_than_the_limit_is_used(
    limit: int, unit: str, burst: float, start: float, data: st.DataObject
) -> None:
    b, period = budget(limit, unit, burst, start), PERIODS[unit]
    now, uses = start, []
    pauses = st.one_of(st.just(0.0), st.floats(0, 1.5 * period))
    for amount, pause in data.draw(st.lists(st.tuples(st.integers(0, limit), pauses), max_size=60)):
        now += pause
        waits = 0
        while (wait := b.wait(amount, now)) >= SOON:
            now, waits = now + wait, waits + 1
            assert waits < 10, "a wait that is over leads to another one, again and again"
        b.use(amount, now)
        uses.append((now, float(amount)))
    assert most_within(period, uses) <= limit


@unhurried
@given(
    limit=st.integers(1, 10**6),
    unit=st.sampled_from(sorted(PERIODS)),
    parts=st.integers(1, 400),
    burst=st.floats(0.001, 1.0),
)
def test_where_there_is_enough_work_of_what_full_batches_can_use_97_percent_are_used(
    limit: int, unit: str, parts: int, burst: float
) -> None:
    batch, period = max(1, limit // parts), PERIODS[unit]
    fitting = limit // batch
    uses = spend(budget(limit, unit, burst), [batch] * min(3 * fitting, 1200))
    seconds = uses[-1][0] - uses[0][0]
    assert (len(uses) - 1) * batch / seconds * period >= 0.97 * fitting * batch


def test_a_batch_that_is_as_large_as_the_limit_goes_once_in_a_period() -> None:
    times = [at for at, _ in spend(budget(500), [500] * 4)]
    assert [b - a for a, b in pairwise(times)] == [pytest.approx(MINUTE, rel=0.01)] * 3


def test_what_is_more_than_the_limit_goes_alone_and_is_made_up_for_afterwards() -> None:
    uses = spend(budget(100), [10, 350, 10])
    (first, _), (large, _), (last, _) = uses
    assert large - first >= MINUTE, "nothing else was used for a whole period"
    assert large - first >= 3.5 * MINUTE, "and as much time has passed as it takes to give it out"
    assert last - large >= MINUTE
    assert last < 10 * MINUTE


@pytest.mark.parametrize("burst", [0.03, 0.5, 1.0])
def test_what_is_used_at_once_after_a_pause_is_part_of_the_limit(burst: float) -> None:
    uses = spend(budget(1000, burst=burst), [1] * 4000, now=600.0)
    assert most_within(MINUTE, uses) <= 1000
    later = [(at - 720, amount) for at, amount in uses if at > 720]
    assert least_within(MINUTE, later, 90) >= 970, "and is not repeated in every minute"


def test_what_is_more_than_the_limit_does_not_go_beside_anything_else_whatever_was_saved() -> None:
    b = budget(100, burst=1.0)
    (first, _), (large, _) = spend(b, [50, 110], now=600.0)
    assert large - first >= MINUTE


def test_what_may_be_used_at_once_after_a_pause_is_the_burst() -> None:
    b = budget(1000, burst=0.05)
    at_once = 0
    while b.wait(1, 3600.0) < SOON:
        b.use(1, 3600.0)
        at_once += 1
    assert at_once == 50


def test_at_least_one_may_be_used_at_once_however_small_the_burst() -> None:
    b = budget(5, burst=0.01)
    assert b.wait(1, 3600.0) < SOON


def test_a_process_that_has_just_started_has_saved_nothing() -> None:
    b = budget(60, now=1000.0)
    assert b.wait(1, 1000.0) == pytest.approx(1.0, rel=0.01)


def test_a_limit_that_is_lowered_counts_what_was_used_before() -> None:
    b = budget(600)
    now = spend(b, [10] * 30)[-1][0]
    b.adopt(100, 0.03, 1.0, now)
    uses = spend(b, [10], now)
    assert uses[0][0] - now > 10.0, "until 210 of the 300 are a minute old"


def test_a_limit_that_is_raised_counts_at_once() -> None:
    b = budget(60)
    now = spend(b, [1] * 10)[-1][0]
    assert b.wait(1, now) == pytest.approx(1.0, rel=0.01)
    b.adopt(6000, 0.03, 1.0, now)
    assert b.wait(1, now) == pytest.approx(0.01, rel=0.01)


def test_many_small_uses_are_kept_in_little_memory() -> None:
    b = budget(10**6, "day")
    spend(b, [1] * 100_000)
    assert len(b._uses) <= 400


def test_what_turns_out_to_be_less_is_given_back_and_what_is_more_is_made_up_for() -> None:
    b = budget(100, burst=1.0)
    assert b.wait(100, 3600.0) < SOON
    use = b.use(100, 3600.0)
    b.correct(use, -60)
    assert b.used_at(3600.0) == 40
    assert b.wait(60, 3600.0) < SOON
    b.correct(use, 60)
    assert b.wait(1, 3600.0) > 1.0


def test_a_correction_that_comes_after_more_than_a_period_changes_nothing() -> None:
    b = budget(100)
    use = b.use(10, 0.0)
    assert b.used_at(100.0) == 0
    b.correct(use, 50)
    assert b.used_at(100.0) == 0


# --- all budgets ----------------------------------------------------------------------------------


def limits(**settings: object) -> BudgetSettings:
    return msgspec.convert(settings, BudgetSettings, dec_hook=decode)


def cost(records: int = 1, size: int = 0, tokens: int = 0) -> Cost:
    return Cost(records, size, tokens)


def test_the_scarcest_budget_is_what_a_wait_is_put_down_to() -> None:
    b = Budgets(limits(requests_per_minute=60, records_per_second=10, bytes_per_hour="1MiB"))
    wait = b.wait(cost(records=10, size=10), 0.0)
    assert wait.limit == "requests_per_minute"
    assert wait.seconds == pytest.approx(1.0, rel=0.01)
    assert b.wait(cost(records=100), 0.0).limit == "records_per_second"
    assert b.wait(cost(size=2**20), 0.0).limit == "bytes_per_hour"


def test_what_was_used_under_a_limit_that_changes_stays_used() -> None:
    b = Budgets(limits(records_per_minute=600, burst=1.0))
    b.use(cost(600), 0.0)
    b.adopt(limits(records_per_minute=700, requests_per_minute=5, burst=1.0), 1.0)
    assert {x.name: x.used_at(1.0) for x in b} == {
        "records_per_minute": 600,
        "requests_per_minute": 0,
    }


def test_without_budgets_nothing_waits() -> None:
    b = Budgets(limits())
    for _ in range(1000):
        assert b.wait(cost(1000, 10**9, 10**9), 0.0) == (0, "")
        b.use(cost(1000), 0.0)


def test_a_request_that_was_never_sent_costs_nothing() -> None:
    b = Budgets(limits(requests_per_minute=60, records_per_minute=600))
    ticket = b.use(cost(10), 0.0)
    b.settle(ticket, None, 0.0, 60.0, sent=False)
    assert [x.used_at(0.0) for x in b] == [0, 0]


@pytest.mark.parametrize("unit", PERIODS)
@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("busy", [True, False], ids=["always busy", "by turns"])
def test_each_limit_of_each_unit_is_kept_in_every_window_of_ten_periods_and_used(
    what: str, unit: str, busy: bool
) -> None:
    """With others beside it that never hold anything. By turns: idle for up to a period, then as
    much as the burst allows at once and all that goes for up to another."""
    dice, period, limit = Random(7), PERIODS[unit], 600
    loose = {f"{each}_per_{unit}": "1GiB" if each == "bytes" else 10**9 for each in KINDS}
    tight = {f"{what}_per_{unit}": f"{limit}B" if what == "bytes" else limit}
    b = Budgets(limits(**(loose | tight), burst=0.03 if busy else 0.4))
    now, uses = 0.0, []
    while now < 10 * period:
        size = 1 if what == "requests" else dice.randint(1, 4)
        if not busy and dice.random() < 0.01:
            now += dice.uniform(0, period)
        asked = cost(size, size, size)
        while (wait := b.wait(asked, now)).seconds:
            assert wait.limit == f"{what}_per_{unit}"
            now += wait.seconds
        b.use(asked, now)
        uses.append((now, float(size)))
    assert most_within(period, uses) <= limit
    if busy:
        assert least_within(period, uses, 10 * period) >= 0.97 * limit


@settings(unhurried, max_examples=50)
@given(st.integers(0, 2**32), st.sampled_from([1, 40]))
def test_in_a_period_with_restarts_it_is_exceeded_by_one_burst_or_one_batch_at_most(
    seed: int, batch: int
) -> None:
    dice, now, uses = Random(seed), 0.0, []
    for _ in range(6):
        b = Budgets(limits(records_per_minute=600), now)
        now += dice.choice((0.0, 0.0, 90.0))  # with nothing to do
        end = now + dice.uniform(0.0, 40.0)
        while (now := now + b.wait(cost(batch), now).seconds) < end:
            b.use(cost(batch), now)
            uses.append((now, float(batch)))
        now = end
    assert most_within(MINUTE, uses) <= 600 + max(batch, 18)


def test_tokens_are_corrected_by_what_the_answer_reports() -> None:
    b = Budgets(limits(tokens_per_minute=10_000, tokens="/max_tokens"))
    ticket = b.use(cost(tokens=4000), 0.0)
    b.settle(ticket, Feedback(tokens=300), 1.0, 60.0, sent=True)
    assert [x.used_at(1.0) for x in b] == [300]


# --- what the API says ----------------------------------------------------------------------------


def told(*allowances: Allowance, open_requests: int = 0, longest: float = 60.0) -> Budgets:
    b = Budgets(limits())
    ticket = b.use(cost(), 0.0)
    for _ in range(open_requests):
        b.use(cost(tokens=10), 0.0)
    b.settle(ticket, Feedback(allowances), 0.0, longest, sent=True)
    return b


def test_when_nothing_is_left_requests_wait_until_the_reset() -> None:
    b = told(Allowance("requests", 0, reset=20.0))
    assert b.wait(cost(), 5.0) == (15.0, SERVER)
    assert b.wait(cost(), 20.0) == (0, "")


def test_no_more_requests_go_out_than_are_left() -> None:
    b = told(Allowance("requests", 2, reset=20.0))
    for _ in range(2):
        assert b.wait(cost(), 1.0).seconds == 0
        b.use(cost(), 1.0)
    assert b.wait(cost(), 1.0).seconds == 19.0


def test_what_is_under_way_may_not_have_been_counted_yet() -> None:
    b = told(Allowance("requests", 2, reset=20.0), open_requests=2)
    assert b.wait(cost(), 0.0).seconds == 20.0


def test_a_bucket_that_refills_is_not_waited_for_until_it_is_full() -> None:
    b = told(Allowance("requests", 0, reset=60.0, limit=60, refills=True))
    assert b.wait(cost(), 0.0).seconds == pytest.approx(1.0)
    b.use(cost(), 1.0)
    assert b.wait(cost(), 1.0).seconds == pytest.approx(1.0)


def test_tokens_that_are_left_hold_what_would_take_more() -> None:
    b = told(Allowance("tokens", 500, reset=30.0))
    assert b.wait(cost(tokens=500), 0.0).seconds == 0
    b = told(Allowance("tokens", 500, reset=30.0, limit=1000))
    assert b.wait(cost(tokens=501), 0.0) == (30.0, SERVER)


def test_what_is_larger_than_the_apis_own_limit_does_not_wait_for_ever() -> None:
    b = told(Allowance("tokens", 0, reset=60.0, limit=1000, refills=True))
    assert b.wait(cost(tokens=10**6), 0.0).seconds == pytest.approx(60.0)
    assert b.wait(cost(tokens=10**6), 60.0).seconds == 0


def test_what_is_larger_than_the_apis_own_limit_goes_while_all_of_that_is_left() -> None:
    b = told(Allowance("tokens", 1000, reset=60.0, limit=1000))
    assert b.wait(cost(tokens=5000), 0.0).seconds == 0


def test_an_absurd_reset_counts_no_longer_than_the_longest_pause() -> None:
    b = told(Allowance("requests", 0, reset=86_400.0), longest=60.0)
    assert b.wait(cost(), 0.0).seconds == 60.0


def test_a_newer_answer_takes_the_place_of_an_older_one() -> None:
    b = told(Allowance("requests", 0, reset=20.0))
    ticket = b.use(cost(), 1.0)
    b.settle(ticket, Feedback((Allowance("requests", 5, reset=20.0),)), 2.0, 60.0, sent=True)
    assert b.wait(cost(), 2.0).seconds == 0


# --- a member's part ------------------------------------------------------------------------------


class Group:
    """Members that share limits of 6,000 in a period by their partitions, of which there are 12.

    Between two rebalances each does by turns what is worst for a limit: as much as it may, nothing,
    or as much at once as it may, in batches of `sizes`.
    """

    def __init__(self, dice: Random, unit: str, burst: float, sizes: Sequence[int]) -> None:
        self.dice, self.sizes = dice, sizes
        self.settings = limits(**{f"records_per_{unit}": 6000}, share="group", burst=burst)
        self.period = PERIODS[unit]
        self.members: list[Budgets] = []
        self.now = 0.0
        self.uses: list[tuple[float, float]] = []
        self.left = [0.0]  # when a member left

    def rebalance(self, count: int) -> None:
        """Some members leave or are killed, some start; the partitions are given out anew."""
        self.now += self.dice.choice((0.0, 0.01, 0.2)) * self.period
        self.dice.shuffle(self.members)
        staying = self.dice.randint(0, min(count, len(self.members)))
        self.left += [self.now] * max(0, len(self.members) - count)
        started = [Budgets(self.settings, self.now) for _ in range(count - staying)]
        self.members = self.members[:staying] + started
        cuts = sorted(self.dice.sample(range(1, 12), count - 1))
        for member, low, high in zip(self.members, [0, *cuts], [*cuts, 12], strict=True):
            member.share((high - low) / 12, self.now)

    def work(self, seconds: float) -> None:
        end = self.now + seconds
        for member in self.members:
            at = self.now
            while at < end:
                idle = self.dice.choice((0.0, 0.0, self.dice.uniform(0, 1.5) * self.period))
                busy_until = (at := at + idle) + self.dice.uniform(0, 1.5) * self.period
                while at < min(end, busy_until):
                    at = self._use(member, at, end)
        self.now = end

    def _use(self, member: Budgets, at: float, end: float) -> float:
        asked = cost(self.dice.choice(self.sizes))
        while (wait := member.wait(asked, at).seconds) and at < end:
            at += wait
        if at < end:
            member.use(asked, at)
            self.uses.append((at, float(asked.records)))
        return at

    def most(self) -> float:
        return most_within(self.period, sorted(self.uses))


@settings(unhurried, max_examples=30)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["second", "minute", "hour"]),
    st.sampled_from([0.03, 0.2]),
)
def test_members_together_never_exceed_the_limit_while_partitions_move(
    seed: int, unit: str, burst: float
) -> None:
    """Whatever each does, whenever members come, go and are killed; where no batch is larger than
    the burst of the smallest part, and than a minute's worth of it."""
    part = min(burst, 60.0 / PERIODS[unit]) / 12
    largest = int(6000 * part)
    group = Group(Random(seed), unit, burst, [largest, largest // 3])
    for _ in range(8):
        group.rebalance(group.dice.randint(1, 10))
        group.work(group.dice.choice((0.0, 0.02, 0.4, 2.5)) * group.period)
    assert group.most() <= 6000


@settings(unhurried, max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from(["second", "minute"]), st.booleans())
def test_with_large_batches_they_exceed_it_by_one_of_each_member_at_most(
    seed: int, unit: str, full: bool
) -> None:
    """Where all of them are full it is one of each member that has left."""
    group = Group(Random(seed), unit, 0.03, [300] if full else [1, 300])
    for _ in range(8):
        group.rebalance(group.dice.randint(1, 5))
        group.work(group.dice.choice((0.0, 0.02, 0.4, 2.5)) * group.period)
    left = most_within(group.period, [(at, 1.0) for at in group.left[1:]])
    assert group.most() <= 6000 + 300 * (left if full else 5)


def test_a_rebalance_costs_members_that_are_busy_the_burst_and_no_more() -> None:
    first, second = [Budgets(limits(records_per_minute=6000, share="group"), 0.0) for _ in range(2)]
    uses: list[tuple[float, float]] = []
    for start, parts in (
        (0.0, {first: 1.0}),
        (200.0, {first: 0.5, second: 0.5}),
        (400.0, {second: 1.0}),
    ):
        for member, part in parts.items():
            member.share(part, start)
            at = start
            while (at := at + member.wait(cost(20), at).seconds) < start + 200:
                member.use(cost(20), at)
                uses.append((at, 20.0))
    uses.sort()
    assert most_within(MINUTE, uses) <= 6000
    assert least_within(MINUTE, [(at - 3, n) for at, n in uses], 597) >= (0.99 - 0.03) * 6000


def test_what_a_member_has_saved_up_does_not_survive_a_rebalance() -> None:
    b = Budgets(limits(records_per_minute=6000, share="group", burst=0.1), 0.0)
    b.share(0.5, 0.0)
    assert b.wait(cost(300), 3600.0).seconds == 0
    b.share(1.0, 3600.0)
    assert b.wait(cost(100), 3600.0).seconds == pytest.approx(7.0, rel=0.01), "6 s are the burst"


def test_a_member_whose_part_stays_the_same_goes_on_as_before() -> None:
    b = Budgets(limits(records_per_minute=6000, share="group"), 0.0)
    b.share(0.5, 0.0)
    assert b.wait(cost(10), 3600.0).seconds == 0
    b.share(0.5, 3600.0)
    assert b.wait(cost(10), 3600.0).seconds == 0


def test_a_part_of_the_limit_of_a_day_is_not_held_back_for_more_than_a_minute() -> None:
    b = Budgets(limits(records_per_day=86_400_0, share="group", burst=1.0), 0.0)
    assert b.wait(cost(100), 0.0).seconds == pytest.approx(60 + 10, rel=0.01)
    b.share(0.5, 7200.0)
    assert b.wait(cost(100), 7200.0).seconds == pytest.approx(60 + 20, rel=0.01)
    assert b.wait(cost(300), 14_400.0).seconds == 0, "and a minute's worth is what it may save up"
    assert b.wait(cost(301), 14_400.0).seconds > 0


def test_a_limit_that_becomes_the_groups_begins_anew() -> None:
    b = Budgets(limits(records_per_minute=6000), 0.0)
    assert b.wait(cost(100), 3600.0).seconds == 0
    b.adopt(limits(records_per_minute=6000, share="group"), 3600.0)
    assert b.wait(cost(100), 3600.0).seconds == pytest.approx(2.8, rel=0.01)


def test_each_member_for_itself_is_the_default() -> None:
    b = Budgets(limits(records_per_minute=6000), 0.0)
    b.share(0.5, 0.0)
    assert b.least("records") == 6000


# --- in the pipeline ------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def uses_of(sink: FakeSink, what: str) -> Uses:
    amounts = {"requests": lambda b: 1.0, "records": len, "bytes": lambda b: b.size}
    amounts["tokens"] = lambda b: 12 * len(b)
    return [(r.at, float(amounts[what](r.batch))) for r in sink.requests]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settings", "what", "window", "slots"),
    [
        ({"records_per_minute": 6000}, "records", 50, 1),
        ({"records_per_minute": 6000, "burst": 0.5}, "records", 60, 3),
        ({"requests_per_minute": 100}, "requests", 7, 2),
        ({"bytes_per_minute": "48KB"}, "bytes", 40, 2),
        ({"tokens_per_minute": 60_000, "tokens": "/a"}, "tokens", 40, 2),
    ],
    ids=["records", "a large burst", "requests", "bytes", "tokens"],
)
async def test_over_ten_minutes_no_minute_exceeds_the_limit_and_each_uses_97_percent_of_it(
    settings: dict[str, object], what: str, window: int, slots: int
) -> None:
    made = msgspec.convert({**settings, "max_in_flight": slots}, LimitSettings, dec_hook=decode)
    ((_, _, limit),) = made.budgets()
    log = Log()
    log.append(*[b'{"a":12}'] * 62_000)
    r = Rig(FakeSink(then=after(0.2)), log, limits=made, window=WindowSettings(max_records=window))
    async with r.running():
        await anyio.sleep(600)
    uses = [use for use in uses_of(r.sink, what) if use[0] <= 600]
    assert most_within(MINUTE, uses) <= limit
    assert least_within(MINUTE, uses, 600) >= 0.97 * limit
    (name,) = [b.name for b in r.gate.budgets]
    assert 0 < r.count("rate_limit_wait_seconds_total", limit=name) <= 600 * slots


@pytest.mark.anyio
@pytest.mark.parametrize("what", KINDS)
async def test_however_records_come_no_minute_of_ten_exceeds_the_limit(what: str) -> None:
    """Floods after pauses of up to two minutes, drops between them, and requests that fail."""
    given = {
        "requests": {"requests_per_minute": 120},
        "records": {"records_per_minute": 2400},
        "bytes": {"bytes_per_minute": "19200B"},
        "tokens": {"tokens_per_minute": 28_800, "tokens": "/a"},
    }[what]
    made = msgspec.convert(
        {**given, "max_in_flight": 3, "burst": 0.2}, LimitSettings, dec_hook=decode
    )
    ((_, _, limit),) = made.budgets()
    dice, window = Random(11), WindowSettings(max_records=20)

    def moody(batch: Batch) -> Outcome:
        return Again("status", "busy", "503") if dice.random() < 0.1 else deliver(batch)

    r = Rig(FakeSink(then=after(0.2, moody)), limits=made, window=window)
    async with r.running():
        while anyio.current_time() < 600:
            flood = dice.random() < 0.5
            r.log.append(*[b'{"a":12}'] * (dice.randint(100, 4000) if flood else 3))
            await anyio.sleep(dice.uniform(0, 120) if flood else dice.uniform(0, 5))
    uses = uses_of(r.sink, what)
    assert most_within(MINUTE, uses) <= limit
    assert most_within(2.0, uses) >= 0.2 * limit, "the burst was used"


async def deliver_with(r: Rig, batch: Batch) -> Flight:
    flight = Flight(batch, anyio.current_time())
    await r.delivery.deliver(flight)
    return flight


def rig(*script: Answer, then: Answer = deliver, **settings: object) -> Rig:
    made = msgspec.convert(settings, LimitSettings, dec_hook=decode)
    retry = RetrySettings(first_delay=Duration(0.01))
    return Rig(FakeSink(*script, then=then), limits=made, retry=retry)


@pytest.mark.anyio
async def test_every_attempt_costs_and_not_only_the_first() -> None:
    r = rig(*[Again("connection", "refused")] * 20, requests_per_minute=60)
    await deliver_with(r, batch_of(1))
    assert most_within(MINUTE, uses_of(r.sink, "requests")) <= 60
    assert r.sink.times[-1] - r.sink.times[0] >= 20.0


@pytest.mark.anyio
async def test_the_parts_of_a_batch_that_was_split_cost_what_they_hold() -> None:
    r = rig(TooLarge("413"), records_per_minute=60)
    await deliver_with(r, batch_of(10))
    whole, first, second = r.sink.times
    assert first - whole == pytest.approx(5.0, rel=0.01)
    assert second - first == pytest.approx(5.0, rel=0.01)


@pytest.mark.anyio
async def test_who_has_waited_longest_goes_first_however_much_it_wants() -> None:
    r = rig(records_per_minute=600)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver_with, r, batch_of(100))
        for n in range(5):
            await anyio.sleep(0.1)
            tasks.start_soon(deliver_with, r, batch_of(1, start=100 + n))
    assert [len(x.batch) for x in r.sink.requests] == [100, 1, 1, 1, 1, 1]


@pytest.mark.anyio
async def test_a_limit_that_is_raised_while_one_waits_for_it_counts_at_once() -> None:
    r = rig(requests_per_hour=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver_with, r, batch_of(1))
        await anyio.sleep(10)
        assert r.sink.requests == []
        r.gate.adopt(LimitSettings(), anyio.current_time())
    assert r.sink.times[0] <= 11.01


@pytest.mark.anyio
async def test_a_batch_with_more_tokens_than_any_minute_allows_is_split_before_it_is_sent() -> None:
    r = rig(tokens_per_minute=100, tokens="/n", burst=1.0)
    batch = batch_of(4)
    values = [b'{"n":40}'] * 4
    await deliver_with(r, Batch.of("pages", [_run(values)], "records"))
    assert r.sink.offsets == [[0, 1], [2, 3]]
    assert len(batch) == 4


@pytest.mark.anyio
async def test_an_absurd_number_of_tokens_holds_the_line_for_two_periods_at_most() -> None:
    absurd = 2**53 - 1
    r = rig(tokens_per_minute=100, tokens="/n", burst=1.0)
    for n, said in enumerate((absurd, 10)):
        await deliver_with(r, Batch.of("pages", [_run([b'{"n":%d}' % said], start=n)], "records"))
    assert r.sink.times[1] <= 4.2 * MINUTE, "two until it goes, and two to make up for it"

    r = rig(then=Answered([DELIVERED], feedback=Feedback(tokens=absurd)), tokens_per_minute=100)
    for n in range(2):
        await deliver_with(r, batch_of(1, start=n))
    assert r.sink.times[1] - r.sink.times[0] <= 2.3 * MINUTE


@pytest.mark.anyio
async def test_what_has_been_sent_is_not_split_by_a_limit_that_came_later() -> None:
    def fails(batch: Batch) -> Outcome:
        r.gate.adopt(
            LimitSettings(tokens_per_minute=100, tokens="/n", burst=1.0), anyio.current_time()
        )
        return Again("timeout", "no answer")

    r = rig(fails, tokens_per_minute=1000, tokens="/n", burst=1.0)
    await deliver_with(r, Batch.of("pages", [_run([b'{"n":40}'] * 4)], "records"))
    assert r.sink.offsets == [[0, 1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.anyio
async def test_an_answer_without_anything_left_holds_the_next_request() -> None:
    nothing_left = Feedback((Allowance("requests", 0, reset=20.0),))
    r = rig(Answered([DELIVERED], feedback=nothing_left))
    await deliver_with(r, batch_of(1))
    await deliver_with(r, batch_of(1, start=1))
    assert r.sink.times[1] - r.sink.times[0] == pytest.approx(20.0)
    assert r.count("rate_limit_wait_seconds_total", limit=SERVER) == pytest.approx(20.0)


@pytest.mark.anyio
async def test_an_estimate_of_tokens_is_corrected_by_what_was_reported_before() -> None:
    def ten_times_as_many(batch: Batch) -> Outcome:
        verdicts = [DELIVERED] * len(batch)
        return Answered(verdicts, feedback=Feedback(tokens=batch.size * 10 // 4))

    r = rig(then=ten_times_as_many, tokens_per_minute=6000)
    for n in range(80):
        values = [b'{"text":"twenty4"}'] * 20
        await deliver_with(r, Batch.of("pages", [_run(values, start=20 * n)], "records"))
    late = [x for x in r.sink.requests if x.at > 60]
    used = [(x.at, x.batch.size * 10 / 4) for x in late]
    assert most_within(MINUTE, used) <= 6000
    assert len(late) > 20


def _run(values: Sequence[bytes], start: int = 0) -> object:
    from fakes import FakeRecord
    from sluiced.batch import Run

    records = [FakeRecord(P0.topic, 0, start + n, value) for n, value in enumerate(values)]
    return Run(P0, 1, records)


@pytest.mark.anyio
async def test_a_member_takes_the_part_of_the_budget_that_its_partitions_are_of_all() -> None:
    log = Log(P0, P1, P2)
    for tp in (P0, P1, P2):
        log.append(*[b"{}"] * 3000, tp=tp)
    made = LimitSettings(records_per_minute=600, share="group", burst=1.0)
    r = Rig(FakeSink(), log, limits=made, window=WindowSettings(max_records=500))
    r.source.partitions = 6
    async with r.running():
        await until(lambda: r.sink.requests)
        assert [b.limit for b in r.gate.budgets] == [300]
        assert len(r.sink.requests[0].batch) == 300, "a window is no larger than our part"
        await r.source.rebalance([P0])
        assert [b.limit for b in r.gate.budgets] == [100]
        # What was planned before keeps its boundaries.
        await until(lambda: len(r.sink.requests) == 3)
        assert [len(x.batch) for x in r.sink.requests[1:]] == [300, 100]
        await r.source.revoke()
    assert r.error is None


@pytest.mark.anyio
async def test_what_waits_for_a_budget_and_was_never_sent_does_not_hold_up_a_rebalance() -> None:
    r = Rig(limits=LimitSettings(requests_per_hour=60), drain=30.0)
    r.log.append(*[b"{}"] * 2000)
    async with r.running():
        await until(lambda: len(r.sink.requests) == 1)
        await anyio.sleep(5)
        began = anyio.current_time()
        await r.source.rebalance([P0])
        assert anyio.current_time() - began < 1.0
        await until(lambda: len(r.sink.requests) == 4)
    assert r.sink.offsets == [list(range(n, n + 500)) for n in range(0, 2000, 500)]


@pytest.mark.anyio
async def test_what_is_given_up_in_the_moment_in_which_its_wait_is_over_is_not_sent() -> None:
    class GivesUp(Gate):
        """A rebalance begins at the end of a wait, before the one that waited has its turn."""

        def wait(self, cost: Cost, now: float) -> Wait:
            wait = super().wait(cost, now)
            if not wait.seconds:
                flight.scope.cancel()
            return wait

    r = rig()
    r.delivery._gate = r.delivery.attempts.gate = GivesUp(LimitSettings(requests_per_minute=60))
    flight = Flight(batch_of(1), 0.0)
    with flight.scope:
        await r.delivery.deliver(flight)
    assert anyio.current_time() == pytest.approx(1.0, rel=0.01), "it did wait"
    assert r.sink.requests == []
    assert r.delivery._gate.budgets.wait(cost(), anyio.current_time()).seconds == 0


@pytest.mark.anyio
async def test_a_stop_cuts_off_no_request_that_it_could_have_left_alone() -> None:
    """A limit holds more than a drain can send, and the API is at work for most of the time."""
    r = Rig(
        FakeSink(then=after(0.7)),
        limits=LimitSettings(requests_per_second=1, burst=0.001),
        window=WindowSettings(max_records=1),
        drain=10.0,
    )
    r.log.append(*[b"{}"] * 100)
    async with r.running():
        await until(lambda: r.sink.taken)
        stopped = anyio.current_time()
    assert len(r.sink.requests) == len(r.sink.taken) == r.committed
    assert r.sink.times[-1] - stopped >= 5.0, "but it uses its time"
    assert r.ended_at is not None
    assert r.ended_at - stopped < 10.0


@pytest.mark.anyio
async def test_a_batch_that_waits_for_a_limit_for_long_is_not_stuck() -> None:
    r = Rig(limits=LimitSettings(requests_per_day=4), drain=0.1)
    r.log.append(b"{}")
    async with r.running():
        await anyio.sleep(600)
        assert r.sink.requests == []
        assert r.status.live() is None
        state, why = r.status.state()
        assert state == "running"
        assert why == "limits.requests_per_day holds us back, 21108.0 s more"
        assert r.status.ready() is None
        names = {limit["name"]: limit for limit in r.status.report()["limits"]}
        assert names["requests_per_day"] == {
            "name": "requests_per_day",
            "limit": 4,
            "used": 0,
            "holds_seconds": 21_108.0,
        }


@pytest.mark.anyio
async def test_a_pause_that_the_api_has_asked_for_is_told_and_only_as_long_as_it_lasts() -> None:
    r = Rig(
        FakeSink(Again("throttled", "429", "429", after=20.0), then=after(5.0)),
        limits=LimitSettings(requests_per_second=10),
        retry=RetrySettings(first_delay=Duration(0.001)),
    )
    r.log.append(b"{}")
    async with r.running():
        assert r.status.state() == ("running", "")
        await until(lambda: r.sink.requests)
        await anyio.sleep(5.0)
        assert r.status.state() == ("running", "the API has asked us to wait, 15.0 s more")
        await until(lambda: len(r.sink.requests) == 2)
        assert r.status.state() == ("running", ""), "what is at the API is not held back"
        await until(lambda: r.sink.taken)
        assert r.status.state() == ("running", "")
        assert [x.get("holds_seconds") for x in r.status.report()["limits"]] == [None, None, 0.0]


def test_budgets_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"requests_per_minute": 0},
        {"bytes_per_minute": "0B"},
        {"bytes_per_minute": 4000},
        {"burst": 0},
        {"burst": 1.5},
        {"share": "all"},
        {"tokens": "max_tokens"},
    ):
        with pytest.raises(msgspec.ValidationError):
            limits(**wrong)

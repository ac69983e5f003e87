"""A job's life from the window to the checkpoint, on virtual time: a day takes a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs
from trio.testing import MockClock

from fakes import P0, P1, Log, Rig, until, wall
from job_fakes import LATER, NEVER, FakeJob, FakeJobSink, JobRig, Said, Where
from sluiced.attempts import RetrySettings
from sluiced.batch import Batch
from sluiced.burial import DeadLetterSettings
from sluiced.errors import BurialError, SourceError
from sluiced.feedback import Allowance, Feedback
from sluiced.gate import LimitSettings
from sluiced.inflow import POLL
from sluiced.intake import RecordSettings
from sluiced.jobs import seen
from sluiced.jobs.book import Job
from sluiced.metadata import Entry, decode, encode
from sluiced.outcome import DELIVERED, Again, Refused, TooLarge, Verdict
from sluiced.plan import Work
from sluiced.ports import JobResult, Progress, Submitted, Undecided
from sluiced.record import OVERHEAD, TopicPartition
from sluiced.schedule import Active
from sluiced.status import Status
from sluiced.units import Duration, Patience
from sluiced.window import WindowSettings

pytestmark = pytest.mark.anyio

HOUR = 3600.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def window(max_records: int, max_age: float = 2.0) -> WindowSettings:
    return WindowSettings(max_records=max_records, max_age=Duration(max_age))


def rig(count: int, *tps: TopicPartition, size: int = 10, **others: Any) -> JobRig:
    log = Log(*tps or (P0,))
    for tp in log.records:
        for n in range(count):
            log.append(b"{}", tp=tp, key=b"k%d" % n)
    return JobRig(FakeJobSink(), log, window=window(size), **others)


def judged(verdicts: dict[int, Verdict | None]) -> Callable[[Where], Verdict | None]:
    """These offsets get these verdicts once, and all others, and later, are delivered."""
    left = dict(verdicts)
    return lambda where: left.pop(where[1], DELIVERED)


def always(verdicts: dict[int, Verdict | None]) -> Callable[[Where], Verdict | None]:
    return lambda where: verdicts.get(where[1], DELIVERED)


async def crash(r: JobRig, when: Callable[[], object]) -> None:
    """Runs the daemon until `when` holds, and ends it as SIGKILL would."""
    r.source.join(r.pipeline)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(r.pipeline.run, r.stop)
        await until(when, HOUR)
        tasks.cancel_scope.cancel()


def restart(r: JobRig) -> None:
    r.gate._taken = 0
    r.stop = anyio.Event()
    r.pipeline = r.make()


async def long_until(condition: Callable[[], object], within: float) -> None:
    """Like `until`, and looks once in a minute."""
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(60)


Planned = list[tuple[int, int, tuple[str, ...], bool]]


def jobs_in_plan(r: JobRig, tp: TopicPartition = P0) -> Planned:
    entries = decode(r.source.committed.get(tp, 0), r.source.metadata.get(tp, ""))
    return [(e.first, e.last, e.jobs, e.written) for e in entries]


async def test_prompts_become_a_job_and_the_checkpoint_waits_for_its_results() -> None:
    r = rig(25)
    async with r.running():
        await until(lambda: len(r.api.jobs) == 3)
        await anyio.sleep(50)
        assert r.committed == 0
        assert jobs_in_plan(r) == [
            (0, 9, ("job_0",), False),
            (10, 19, ("job_1",), False),
            (20, 24, ("job_2",), False),
        ]
        await until(lambda: r.committed == 25, HOUR)

    assert r.error is None
    assert r.answers.offsets == list(range(25))
    assert {a.key for a in r.answers.answers} == {b"k%d" % n for n in range(25)}
    assert r.answers.answers[0].result.body == b"answer 9"
    assert r.answers.answers[0].job == "job_0"
    assert r.source.metadata[P0] == ""


async def test_a_job_at_work_takes_no_memory_and_no_place_at_the_gate() -> None:
    r = rig(20)
    async with r.running():
        await until(lambda: len(r.api.jobs) == 2)
        await anyio.sleep(20)

        assert r.pipeline.memory.occupied() == 0
        assert r.gate.taken == 0
        assert r.pipeline.outflow.flights == {}


async def test_no_more_jobs_are_at_work_than_the_api_takes() -> None:
    r = rig(50)
    r.api.most_jobs = 2
    async with r.running():
        await anyio.sleep(50)
        assert len(r.api.jobs) == 2
        await until(lambda: r.committed == 50, HOUR)

    starts = sorted(at for at, _, _ in r.api.submissions)
    assert starts[2] >= 60


async def test_jobs_in_an_hour_are_no_more_than_a_budget_says_and_it_is_told_what_holds() -> None:
    r = rig(30, limits=LimitSettings(requests_per_hour=2, burst=0.5))
    async with r.running():
        await long_until(lambda: len(r.api.jobs) == 1, HOUR)
        assert r.status.live() is None
        state, why = r.status.state()
        assert state == "running"
        assert why.startswith("limits.requests_per_hour holds us back, ")
        names = {limit["name"]: limit for limit in r.status.report()["limits"]}
        assert names["requests_per_hour"]["used"] == 1
        assert 0 < names["requests_per_hour"]["holds_seconds"] < HOUR
        await long_until(lambda: r.committed == 30, 3 * HOUR)

    times = [at for at, _, _ in r.api.submissions]
    assert len(times) == 3
    assert max(sum(at <= t < at + HOUR for t in times) for at in times) <= 2
    polls = [at for job in r.api.jobs.values() for at in job.polls]
    assert len(polls) > 3, "to look at a job is none of them"


async def test_a_job_is_looked_at_thousands_of_times_if_need_be() -> None:
    r = rig(10)
    r.api.poll_every, r.api.takes = 0.004, 100.0
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    [job] = r.api.jobs.values()
    assert len(job.polls) > 3000


async def test_a_job_is_looked_at_every_hour_however_long_the_first_pause_is() -> None:
    r = rig(10)
    r.api.poll_every, r.api.takes = HOUR, 2.5 * HOUR
    async with r.running():
        await long_until(lambda: r.committed == 10, 6 * HOUR)

    [job] = r.api.jobs.values()
    assert max(b - a for a, b in pairwise(job.polls)) <= HOUR


async def test_a_batch_whose_job_is_looked_for_once_more_after_a_long_pause_is_not_stuck() -> None:
    r = rig(10)
    r.api.poll_every = HOUR
    r.api.script = ["lost"]
    r.api.find_script = [Undecided()] * 2
    async with r.running():
        await until(lambda: r.api.finds, HOUR)
        for _ in range(30):
            await anyio.sleep(HOUR / 20)
            assert r.status.live() is None
        await long_until(lambda: r.committed == 10, 9 * HOUR)

    assert len(r.api.submissions) == 1


async def test_a_job_is_looked_at_less_and_less_often() -> None:
    r = rig(10)
    r.api.takes = 1000
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    polls = r.api.jobs["job_0"].polls
    pauses = [b - a for a, b in pairwise(polls)]
    assert 2.5 <= pauses[0] <= 5
    assert 25 <= max(pauses) <= 50


async def test_stopping_lets_jobs_be_and_does_not_wait_for_them() -> None:
    r = rig(15)
    async with r.running():
        await until(lambda: len(r.api.jobs) == 2)
        await anyio.sleep(10)
        told = anyio.current_time()

    assert r.ended_at is not None
    assert r.ended_at - told < 1
    assert [jobs for _, _, jobs, _ in jobs_in_plan(r)] == [("job_0",), ("job_1",)]


async def test_a_window_that_a_stop_finds_open_makes_no_job() -> None:
    r = rig(15)
    r.window = window(10, 600)
    r.pipeline = r.make()
    async with r.running():
        await until(lambda: len(r.api.jobs) == 1)
        await anyio.sleep(10)

    assert r.api.offsets == [list(range(10))]
    assert [jobs for _, _, jobs, _ in jobs_in_plan(r)] == [("job_0",)]


async def test_what_a_batch_leaves_in_the_last_moment_of_a_rebalance_waits_for_the_next_owner() -> (
    None
):
    r = rig(16, size=8, drain=8, limits=LimitSettings(max_in_flight=2))
    submit, asked = r.api.submit, []
    slow = [6.0, 7.0]

    async def picky(batch: Batch, name: str) -> Said:
        asked.append(len(batch))
        if len(batch) == 8:
            await anyio.sleep(slow.pop(0))
            return TooLarge("413", "too many")
        return await submit(batch, name)

    r.api.submit = picky  # type: ignore[method-assign]
    async with r.running():
        await until(lambda: len(asked) == 2)
        before = anyio.current_time()
        await r.source.revoke()
        assert anyio.current_time() - before == pytest.approx(7, abs=0.2)
        assert asked == [8, 8]
        r.source.assign([P0])
        await until(lambda: r.committed == 16, HOUR)

    assert [len(offsets) for offsets in r.api.offsets] == [4, 4, 4, 4]
    assert r.answers.offsets == list(range(16))


async def test_a_new_daemon_goes_on_polling_and_submits_nothing_again() -> None:
    r = rig(25)
    await crash(r, lambda: len(jobs_in_plan(r)) == 3 and all(j for *_, j, _ in jobs_in_plan(r)))
    restart(r)
    async with r.running():
        await anyio.sleep(5)
        assert r.pipeline.ledger.owed() == 25
        assert r.pipeline.memory.occupied() == 0
        await until(lambda: r.committed == 25, HOUR)

    assert len(r.api.submissions) == 3
    assert r.answers.offsets == list(range(25))


async def test_a_job_that_version_0_1_has_submitted_is_taken_in_and_not_submitted_again() -> None:
    r = rig(25)
    r.api.jobs["batch_1"] = FakeJob("batch_1", "of old", [(P0, n) for n in range(10)], 0.0)
    r.source.committed[P0] = 0
    r.source.metadata[P0] = f"sluiced1:0+10={'a' * 32}@batch_1"
    async with r.running():
        await until(lambda: r.committed == 25, HOUR)

    assert [len(batch) for _, batch, _ in r.api.submissions] == [10, 5]
    assert r.answers.offsets == list(range(25))


async def test_a_part_of_a_job_of_which_nothing_is_left_is_done_and_nothing_is_called_lost() -> (
    None
):
    r = rig(10)
    r.api.jobs["a"] = FakeJob("a", "of two", [(P0, n) for n in range(10)], 0.0)
    r.source.committed[P0] = 0
    r.source.metadata[P0] = encode(0, [Entry(0, 9, "a" * 32, 2, jobs=("a",), written=True)])
    with capture_logs() as logged:
        async with r.running():
            await until(lambda: r.committed == 10, HOUR)

    assert r.api.submissions == []
    assert "originals_lost" not in [line["event"] for line in logged]


async def test_records_between_jobs_that_were_found_share_no_job_with_those_behind_them() -> None:
    r = rig(25)
    entries = []
    for name, first, last in (("a", 0, 9), ("b", 11, 20)):
        held = [(P0, n) for n in range(first, last + 1)]
        r.api.jobs[name] = FakeJob(name, "of before", held, 0.0)
        entries.append(Entry(first, last, name * 32, jobs=(name,)))
    r.source.committed[P0], r.source.metadata[P0] = 0, encode(0, entries)
    async with r.running():
        await until(lambda: r.committed == 25, HOUR)

    submitted = [[record.offset for record in batch.records] for _, batch, _ in r.api.submissions]
    assert sorted(submitted) == [[10], [21, 22, 23, 24]]
    assert r.answers.offsets == list(range(25))


async def test_outside_its_hours_a_line_reads_past_a_job_and_releases_nothing_beyond_it() -> None:
    r = rig(10)
    await crash(r, lambda: r.api.jobs and jobs_in_plan(r)[0][2])
    for _ in range(5):
        r.log.append(b"{}")
    later = Active.parse("22:15-22:30 UTC")  # in 100 s: see test_hours
    r.window = WindowSettings(max_records=5, max_age=Duration(2), active=later)
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)
        await anyio.sleep(10)
        assert len(r.api.submissions) == 1
        await until(lambda: r.committed == 15, HOUR)

    assert r.api.submissions[1][0] >= 100
    assert r.answers.offsets == list(range(15))


async def test_outside_its_hours_the_state_tells_of_jobs_that_are_looked_after() -> None:
    r = rig(10)
    await crash(r, lambda: r.api.jobs and jobs_in_plan(r)[0][2])
    later = Active.parse("22:15-22:30 UTC")
    r.window = WindowSettings(max_records=5, max_age=Duration(2), active=later)
    restart(r)
    async with r.running():
        await until(lambda: r.pipeline.inflow.member)
        await anyio.sleep(1)
        state, text = Status(r.pipeline, attempt=90.0).state()
        await until(lambda: r.committed == 10, HOUR)
        after, left = Status(r.pipeline, attempt=90.0).state()

    assert state == after == "waiting"
    assert text.endswith("; jobs that are looked after: 1")
    assert "jobs" not in left


async def test_another_sink_in_place_of_one_of_jobs_does_not_start_and_names_them() -> None:
    r = rig(10)
    await crash(r, lambda: r.api.jobs and jobs_in_plan(r)[0][2])
    planned = jobs_in_plan(r)
    r.gate._taken, r.stop = 0, anyio.Event()
    r.pipeline = Rig.make(r)
    with pytest.raises(SourceError, match=r"job_0 \(of pages/0\)") as told:
        r.source.join(r.pipeline)
    assert "sluiced jobs cancel" in told.value.hint
    assert "--to-current" in told.value.hint
    r.stop.set()
    await r.pipeline.run(r.stop)
    assert r.sink.requests == []
    assert jobs_in_plan(r) == planned


async def test_results_that_are_all_of_somebody_else_halt_the_line() -> None:
    r = rig(10)
    r.api.judge = lambda where: None
    r.api.extra = [JobResult(None, DELIVERED, b"whose?")] * 10
    async with r.running():
        await until(lambda: r.halt.reason, HOUR)
        assert "job_0" in (r.halt.reason or "")
        assert "pipeline's name" in (r.halt.reason or "")
        assert len(r.api.submissions) == 1
        r.api.extra, r.api.judge = [], lambda where: DELIVERED
        r.pipeline.resume()
        await until(lambda: r.committed == 10, HOUR)

    assert r.api.offsets == [list(range(10)), list(range(10))]


async def test_a_batch_submitted_right_before_a_crash_is_found_by_its_name_and_adopted() -> None:
    r = rig(10)
    r.api.script = ["hangs"]
    await crash(r, lambda: r.api.jobs)
    assert jobs_in_plan(r) == [(0, 9, (), False)]
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert len(r.api.submissions) == 1
    assert r.count("jobs_total", outcome="adopted") == 1
    assert r.answers.offsets == list(range(10))


async def test_a_batch_planned_before_a_crash_and_never_submitted_is_submitted_once() -> None:
    r = rig(10)
    r.api.script = [Again("connection", "refused")] * 1000
    await crash(r, lambda: r.api.submissions)
    r.api.script = []
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert len(r.api.jobs) == 1
    assert r.answers.offsets == list(range(10))


async def test_a_submission_whose_answer_is_lost_is_not_made_again() -> None:
    r = rig(10)
    r.api.script = ["lost"]
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert len(r.api.submissions) == 1
    assert r.api.finds


@pytest.mark.parametrize("status", ["500", "502", "504"])
async def test_of_a_job_whose_creation_a_gateway_calls_failed_no_second_one_is_made(
    status: str,
) -> None:
    class Behind(FakeJobSink):
        async def submit(self, batch: Batch, name: str) -> Said:
            said = await super().submit(batch, name)
            return said if len(self.submissions) > 1 else Again("status", "no answer", status)

    r = rig(10)
    r.api = Behind()
    r.pipeline = r.make()
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert len(r.api.submissions) == 1
    assert r.answers.offsets == list(range(10))


async def test_an_api_that_is_busy_has_made_no_job_and_is_not_asked_for_one() -> None:
    r = rig(10)
    r.api.script = [Again("status", "overloaded", "529"), Again("throttled", "slow", "429")]
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert len(r.api.submissions) == 3
    assert r.api.finds == []


async def test_while_it_cannot_be_said_whether_a_job_exists_none_is_made() -> None:
    r = rig(10, retry=RetrySettings(give_up_after=Patience(5)))
    r.api.script = ["lost"]
    r.api.find_script = [Undecided("job_of_somebody")] * 5
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert len(r.api.submissions) == 1
    assert len(r.api.finds) == 6
    assert r.dead_letters.letters == []
    assert r.count("retries_total", reason="connection") == 1  # the lost one, and no other


async def test_a_doubt_is_waited_out_and_counted_and_is_neither_an_outage_nor_ever_given_up() -> (
    None
):
    r = rig(10, retry=RetrySettings(give_up_after=Patience(30)))
    r.api.script = ["lost"]
    r.api.find_script = [Undecided("x")] * 12
    async with r.running():
        await until(lambda: len(r.api.finds) > 10, HOUR)
        assert r.jobs.health.outage is None
        assert r.count("jobs_total", outcome="undecided") == 1
        await until(lambda: r.committed == 10, HOUR)

    assert len(r.api.submissions) == 1
    assert r.dead_letters.letters == []


async def test_what_was_looked_for_in_vain_is_submitted_and_counted() -> None:
    r = rig(10)
    r.api.script = [Again("connection", "reset by peer")]
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert r.count("jobs_total", outcome="not_found") == 1
    assert len(r.api.jobs) == 1


async def test_what_a_job_says_later_of_goes_into_a_next_job() -> None:
    r = rig(10)
    r.api.judge = judged({2: LATER, 7: LATER})
    async with r.running():
        await until(lambda: len(r.api.jobs) == 2, HOUR)
        await anyio.sleep(5)
        assert jobs_in_plan(r) == [(0, 9, ("job_0", "job_1"), False)]
        await until(lambda: r.committed == 10, HOUR)

    assert r.api.offsets == [list(range(10)), [2, 7]]
    assert r.answers.offsets == list(range(10))
    assert r.count("job_results_total", outcome="again") == 2


async def test_what_a_job_says_nothing_of_goes_into_a_next_job() -> None:
    r = rig(10)
    r.api.judge = judged({4: None})
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert r.api.offsets == [list(range(10)), [4]]
    assert r.answers.offsets == list(range(10))
    assert r.count("job_results_total", outcome="missing") == 1


async def test_a_new_daemon_learns_from_the_first_job_what_the_second_one_holds() -> None:
    r = rig(10)
    r.api.judge = always({2: LATER, 7: None})
    await crash(r, lambda: len(r.api.jobs) == 2 and jobs_in_plan(r)[0][2] == ("job_0", "job_1"))
    restart(r)
    await crash(r, lambda: len(r.api.jobs) == 3 and len(jobs_in_plan(r)[0][2]) == 3)
    r.api.judge = always({})
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert r.api.offsets == [list(range(10)), [2, 7], [2, 7]]
    assert set(r.answers.counts().values()) == {1}


async def test_a_crash_before_the_next_job_is_submitted_writes_no_result_again() -> None:
    r = rig(10)
    r.api.judge = judged({2: LATER})
    r.api.script = ["job"]
    await crash(r, lambda: P0 in r.source.metadata and r.source.metadata[P0].endswith("@job_0@"))
    restart(r)
    r.api.judge = lambda where: LATER if where[1] == 2 and len(r.api.jobs) == 1 else DELIVERED
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert r.api.offsets == [list(range(10)), [2]]
    assert set(r.answers.counts().values()) == {1}


async def test_results_written_before_a_crash_and_not_committed_are_written_again_the_same() -> (
    None
):
    r = rig(10)
    await crash(r, lambda: P0 in r.source.metadata and jobs_in_plan(r)[0][2])
    restart(r)
    r.source.commit_takes = HOUR
    await crash(r, lambda: r.answers.answers)
    assert r.committed == 0
    r.source.commit_takes = 0.0
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    first, again = r.answers.answers[:10], r.answers.answers[10:]
    assert first == again
    assert len(r.api.submissions) == 1


async def test_a_next_job_submitted_right_before_a_crash_is_adopted() -> None:
    r = rig(10)
    verdicts: dict[int, Verdict | None] = {2: LATER}
    r.api.judge = always(verdicts)
    r.api.script = ["job", "hangs"]
    await crash(r, lambda: len(r.api.jobs) == 2)
    assert jobs_in_plan(r) == [(0, 9, ("job_0",), True)]
    restart(r)
    async with r.running():
        await until(lambda: len(jobs_in_plan(r)[0][2]) == 2, HOUR)
        verdicts.clear()
        await until(lambda: r.committed == 10, HOUR)

    assert r.api.offsets == [list(range(10)), [2]]
    assert set(r.answers.counts().values()) == {1}


async def test_attempts_are_counted_over_restarts_and_end_in_the_dead_letters() -> None:
    r = rig(10, retry=RetrySettings(max_item_attempts=3))
    r.api.judge = always({2: LATER})
    await crash(r, lambda: len(r.api.jobs) == 2)
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert len(r.api.jobs) == 3
    [letter] = r.dead_letters.letters
    assert (letter.record.offset, letter.reason, letter.attempts) == (2, "exhausted", 3)
    assert letter.error == "overloaded"
    assert r.answers.offsets == [n for n in range(10) if n != 2]


async def test_what_is_refused_is_buried_with_its_own_key_and_value() -> None:
    r = rig(10)
    r.api.judge = always({3: NEVER})
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    [letter] = r.dead_letters.letters
    assert letter.record is r.log.records[P0][3]
    assert (letter.reason, letter.status, letter.error) == ("rejected", "400", "no such model")
    assert letter.attempts == 1
    assert r.answers.offsets == [n for n in range(10) if n != 3]


async def test_a_download_that_breaks_off_is_begun_again_and_writes_nothing_twice() -> None:
    r = rig(1200, size=1200)
    r.api.breaks = 2
    async with r.running():
        await until(lambda: r.committed == 1200, HOUR)

    assert set(r.answers.counts().values()) == {1}


async def test_a_result_told_twice_is_written_once_and_one_of_nothing_not_at_all() -> None:
    r = rig(10)
    r.api.extra = [
        JobResult((P0, 3), DELIVERED, b"again"),
        JobResult(None, DELIVERED, b"whose?"),
        JobResult((P0, 77), DELIVERED, b"not in this job"),
    ]
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert set(r.answers.counts().values()) == {1}
    assert r.count("job_results_total", outcome="doubled") == 1
    assert r.count("job_results_total", outcome="unknown") == 2


async def test_results_that_cannot_be_written_halt_the_line() -> None:
    r = rig(10)
    r.answers.error = BurialError("not writable")
    async with r.running():
        await until(lambda: r.halt.reason, HOUR)
        assert r.committed == 0
        r.answers.error = None
        r.pipeline.resume()
        await until(lambda: r.committed == 10, HOUR)

    assert set(r.answers.counts().values()) == {1}


async def test_a_job_of_several_partitions_may_have_several_owners() -> None:
    r = rig(5, P0, P1)
    await crash(r, lambda: P1 in r.source.metadata and "@job_0" in r.source.metadata[P1])
    restart(r)
    r.source.join(r.pipeline)
    r.source.assign([P1])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(r.run)
        await until(lambda: r.source.committed[P1] == 5, HOUR)
        assert r.source.committed[P0] == 0
        await r.source.rebalance([P0])
        await until(lambda: r.source.committed[P0] == 5, HOUR)
        r.stop.set()

    assert len(r.api.submissions) == 1
    assert set(r.answers.counts().values()) == {1}
    assert len(r.answers.answers) == 10
    assert r.count("job_results_total", outcome="unknown") == 0


async def test_a_full_queue_costs_no_attempt() -> None:
    r = rig(10, retry=RetrySettings(max_item_attempts=1))
    full = Progress("failed", queue_full=True, error="enqueued token limit reached")
    r.api.failures = [full] * 3
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert len(r.api.jobs) == 4
    assert r.answers.offsets == list(range(10))
    assert r.dead_letters.letters == []


async def test_of_a_job_that_failed_for_lines_with_a_name_only_the_rest_goes_again() -> None:
    r = rig(10)
    r.api.failures = [Progress("failed", named=True)]
    first = {3: NEVER}
    r.api.judge = lambda where: DELIVERED if len(r.api.jobs) > 1 else first.get(where[1])
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert r.dead_letters.offsets == [3]
    assert r.api.offsets == [list(range(10)), [n for n in range(10) if n != 3]]
    assert r.answers.offsets == [n for n in range(10) if n != 3]


async def test_a_failed_job_whose_lines_have_a_name_costs_the_others_no_attempt() -> None:
    r = rig(10, retry=RetrySettings(max_item_attempts=1))
    r.api.failures = [Progress("failed", named=True)] * 2
    names = [{3: NEVER}, {5: NEVER}]
    r.api.judge = lambda where: (
        DELIVERED if len(r.api.jobs) > 2 else names[len(r.api.jobs) - 1].get(where[1])
    )
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert r.dead_letters.offsets == [3, 5]
    assert {letter.reason for letter in r.dead_letters.letters} == {"rejected"}
    assert len(r.api.jobs) == 3
    assert r.answers.offsets == [n for n in range(10) if n not in (3, 5)]


async def test_of_a_batch_refused_for_a_record_with_a_name_the_others_go_in_one_job() -> None:
    r = rig(10)
    r.api.script = [Refused("400", "line 4: no", named=(3,))]
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    [letter] = r.dead_letters.letters
    assert (letter.record.offset, letter.reason, letter.status) == (3, "rejected", "400")
    assert r.api.offsets == [[n for n in range(10) if n != 3]]
    assert r.answers.offsets == [n for n in range(10) if n != 3]


async def test_a_batch_refused_for_a_record_that_it_does_not_have_is_cut_like_any_other() -> None:
    r = rig(10)
    r.api.script = [Refused("400", "line 11: no", named=(10,))]
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert r.error is None
    assert r.api.offsets == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


@pytest.mark.parametrize("how", ["refused", "failed"])
async def test_the_others_are_no_second_job_where_the_daemon_dies_over_them(how: str) -> None:
    r = rig(10)
    others = [n for n in range(10) if n != 3]
    if how == "refused":
        r.api.script = [Refused("400", "line 4: no", named=(3,)), "hangs"]
    else:
        r.api.failures = [Progress("failed", named=True)]
        r.api.judge = lambda where: NEVER if where[1] == 3 else None
        r.api.script = ["made", "hangs"]
    await crash(r, lambda: r.api.offsets[-1:] == [others])
    r.api.judge = lambda where: DELIVERED
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert r.api.offsets.count(others) == 1
    assert r.count("jobs_total", outcome="adopted") == 1
    assert [n for _, batch, _ in r.api.submissions for n in batch.spans[0].ranges][-1] == (3, 3)


# --- what can be seen of them -------------------------------------------------------------------


async def test_jobs_are_seen_with_how_far_they_are_how_old_and_where_from() -> None:
    r = rig(25)
    r.api.judge = judged({3: LATER})
    async with r.running():
        await until(lambda: len(r.api.jobs) == 3)
        await anyio.sleep(30)
        jobs = r.status.report()["jobs"]
        assert (jobs["working"], jobs["ended"], jobs["waiting"]) == (3, 0, 0)
        assert jobs["oldest_seconds"] == pytest.approx(30, abs=3)
        assert jobs["unseen_seconds"] <= 15
        assert jobs["shown"][0] == {
            "job": "job_0",
            "batch": r.api.submissions[0][1].id,
            "state": "working",
            "status": None,
            "done": 0,
            "total": 10,
            "age_seconds": pytest.approx(30, abs=3),
            "attempt": 1,
            "partitions": ["pages/0"],
        }
        gauges = r.status.gauges()
        assert gauges.jobs == {"working": 3}
        assert gauges.oldest_job_seconds == pytest.approx(30, abs=3)
        await until(lambda: len(r.api.jobs) == 4, HOUR)
        assert [j["attempt"] for j in r.status.report()["jobs"]["shown"] if j["job"] == "job_3"]
        await until(lambda: r.committed == 25, HOUR)
        assert r.status.report()["jobs"]["shown"] == []
        assert r.status.gauges().oldest_job_seconds == 0


async def test_the_age_of_a_job_is_that_at_the_api_also_after_a_restart() -> None:
    r = rig(10)
    r.api.takes = 1000
    r.api.born = wall
    await crash(r, lambda: r.api.jobs and jobs_in_plan(r)[0][2])
    await anyio.sleep(300)
    restart(r)
    r.status = Status(r.pipeline, attempt=90.0)
    async with r.running():
        await anyio.sleep(10)
        assert r.status.report()["jobs"]["oldest_seconds"] == pytest.approx(310, abs=5)


async def test_a_silent_api_is_seen_by_how_long_nothing_was_heard() -> None:
    r = rig(10)
    async with r.running():
        await until(lambda: r.api.jobs)
        r.api.poll_script = [Again("status", "503")] * 1000
        await anyio.sleep(400)
        assert r.status.gauges().job_unseen_seconds > 390


async def test_of_many_jobs_the_oldest_are_shown_and_the_others_counted() -> None:
    jobs = [
        Job(Work(f"{n:032x}", 1, False, {P0: (n, n)}, (f"job_{n}",)), since=float(n))
        for n in range(60)
    ]
    report = seen.report(jobs, 100.0, 0.0)
    assert [each["job"] for each in report["shown"]] == [f"job_{n}" for n in range(50)]
    assert (report["more"], report["working"], report["oldest_seconds"]) == (10, 60, 100.0)


# --- cancelled ----------------------------------------------------------------------------------


async def cancelled(r: JobRig) -> None:
    await until(lambda: r.api.jobs)
    await anyio.sleep(1)
    await r.api.cancel("job_0")


async def test_what_a_cancelled_job_has_not_done_goes_again() -> None:
    r = rig(10)
    async with r.running():
        await cancelled(r)
        await until(lambda: r.committed == 10, HOUR)

    assert r.api.offsets == [list(range(10)), list(range(5, 10))]
    assert r.answers.offsets == list(range(10))


async def test_a_cancelled_job_halts_the_line_where_that_is_wanted_also_after_a_restart() -> None:
    r = rig(10)
    r.api.on_cancel = "halt"
    for _ in range(2):
        async with r.running():
            await (until(lambda: r.halt.reason, HOUR) if r.api.jobs else cancelled(r))
            await until(lambda: r.halt.reason, HOUR)
            assert "cancelled job job_0" in (r.halt.reason or "")
            await anyio.sleep(60)
            assert r.answers.offsets == []
        r.halt.lift()
        restart(r)
    async with r.running():
        await until(lambda: r.halt.reason, HOUR)
        r.pipeline.resume()
        await until(lambda: r.committed == 10, HOUR)

    assert r.api.offsets == [list(range(10)), list(range(5, 10))]
    assert r.answers.offsets == list(range(10))


async def test_what_a_cancelled_job_has_not_done_is_buried_where_that_is_wanted() -> None:
    r = rig(10, dead_letter=DeadLetterSettings(topic="dead", max_ratio=0.1, max_ratio_window=10))
    r.api.on_cancel = "dead-letter"
    async with r.running():
        await cancelled(r)
        await until(lambda: r.committed == 10, HOUR)

    assert len(r.api.jobs) == 1
    assert r.answers.offsets == list(range(5))
    assert r.dead_letters.offsets == list(range(5, 10))
    assert {letter.reason for letter in r.dead_letters.letters} == {"cancelled"}


async def test_a_batch_of_more_tokens_than_a_budget_has_is_cut_and_its_parts_wait() -> None:
    limits = LimitSettings(tokens_per_minute=8, burst=1.0)  # a token is taken to be four bytes
    r = rig(20, size=20, limits=limits)
    async with r.running():
        await until(lambda: r.committed == 20, HOUR)

    assert r.api.offsets == [list(range(10)), list(range(10, 20))]
    first, second = (at for at, _, _ in r.api.submissions)
    assert second - first >= 30


async def test_a_window_is_no_larger_than_a_budget_of_records_lets_through() -> None:
    r = rig(20, size=20, limits=LimitSettings(records_per_minute=8, burst=1.0))
    async with r.running():
        await until(lambda: r.committed == 20, HOUR)

    assert max(map(len, r.api.offsets)) <= 8


async def test_what_the_api_says_of_its_limits_is_kept_by_the_next_submission() -> None:
    r = rig(20)
    none_left = Feedback((Allowance("requests", 0, 40.0),))
    submit = r.api.submit

    async def told(batch: Any, name: str) -> Any:
        said = await submit(batch, name)
        return replace(said, feedback=none_left) if isinstance(said, Submitted) else said

    r.api.submit = told  # type: ignore[method-assign]
    async with r.running():
        await until(lambda: r.committed == 20, HOUR)

    first, second = (at for at, _, _ in r.api.submissions)
    assert second - first >= 40


@pytest.mark.parametrize("how", ["at work", "again"])
async def test_what_it_says_of_them_when_a_job_is_looked_at_is_kept_as_well(how: str) -> None:
    r = rig(15)
    none_left, poll = Feedback((Allowance("requests", 0, 40.0),)), r.api.poll
    looks: list[float] = []

    async def told(job: str) -> Any:
        looks.append(anyio.current_time())
        if how == "again" and len(looks) == 1:
            return Again("throttled", "429", "429", feedback=none_left)
        return replace(await poll(job), feedback=none_left if len(looks) == 1 else None)

    r.api.poll = told  # type: ignore[method-assign]
    async with r.running():
        await until(lambda: r.committed == 15, HOUR)

    first, second = (at for at, _, _ in r.api.submissions)
    assert first == looks[0]
    assert looks[0] + 40 <= second < looks[0] + 41


async def test_a_batch_that_is_refused_is_cut_until_the_guilty_record_stands_alone() -> None:
    r = rig(8, size=8)
    submit = r.api.submit

    async def picky(batch: object, name: str) -> object:
        if any(record.offset == 5 for record in batch.records):  # type: ignore[attr-defined]
            return Refused("400", "something in it is wrong")
        return await submit(batch, name)  # type: ignore[arg-type]

    r.api.submit = picky  # type: ignore[method-assign, assignment]
    async with r.running():
        await until(lambda: r.committed == 8, HOUR)

    assert r.dead_letters.offsets == [5]
    assert r.answers.offsets == [0, 1, 2, 3, 4, 6, 7]
    assert sorted(r.api.offsets) == [[0, 1, 2, 3], [4], [6, 7]]


async def test_a_job_that_failed_for_no_reason_with_a_name_is_cut_likewise() -> None:
    r = rig(8, size=8)
    submit = r.api.submit

    async def picky(batch: object, name: str) -> object:
        if any(record.offset == 5 for record in batch.records):  # type: ignore[attr-defined]
            r.api.failures = [Progress("failed", status="failed", error="model not found")]
        return await submit(batch, name)  # type: ignore[arg-type]

    r.api.submit = picky  # type: ignore[method-assign, assignment]
    async with r.running():
        await until(lambda: r.committed == 8, HOUR)

    assert r.dead_letters.offsets == [5]
    assert r.dead_letters.letters[0].attempts == 1
    assert r.answers.offsets == [0, 1, 2, 3, 4, 6, 7]


async def test_a_batch_is_cut_although_a_job_of_it_has_hidden_what_was_invalid_in_it() -> None:
    """A new daemon reads past what is part of a job, and so knows nothing of the invalid ones."""
    log = Log(P0)
    for value in (b"{}", b"not JSON", b"{}"):
        log.append(value)
    r = JobRig(FakeJobSink(), log, window=window(2))
    r.api.failures = [Progress("failed", queue_full=True, error="enqueued token limit reached")]
    r.api.poll_script = [Again("status", "unavailable", "503")] * 9
    await crash(r, lambda: [jobs for _, _, jobs, _ in jobs_in_plan(r)] == [("job_0",)])
    r.api.script = [Refused("400", "something in it is wrong")]
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 3, HOUR)

    assert r.dead_letters.offsets == [1]
    assert r.answers.offsets == [0, 2]
    assert sorted(r.api.offsets) == [[0], [0, 2], [2]]


async def test_a_batch_is_cut_as_often_as_it_takes_though_the_plan_is_full() -> None:
    r = rig(40, retry=RetrySettings(max_item_attempts=2))
    r.source.metadata_limit = 300
    submit = r.api.submit

    async def small(batch: Any, name: str) -> Any:
        return TooLarge("413", "too many") if len(batch) > 1 else await submit(batch, name)

    r.api.submit = small  # type: ignore[method-assign]
    async with r.running():
        await until(lambda: r.committed == 40, 10 * HOUR)

    assert sorted(r.api.offsets) == [[n] for n in range(40)]
    assert r.answers.offsets == list(range(40))


async def test_a_part_of_a_batch_finds_the_job_of_the_whole() -> None:
    r = rig(5, P0, P1)
    r.api.script = ["hangs"]
    await crash(r, lambda: r.api.jobs)
    await only_the_second(r)

    assert len(r.api.submissions) == 1
    assert r.answers.offsets == [0, 1, 2, 3, 4]


async def test_a_part_of_a_batch_finds_the_next_job_of_the_whole() -> None:
    r = rig(5, P0, P1)
    results = r.api.results

    def of(job: str) -> AsyncIterator[JobResult]:
        r.api.judge = always({2: LATER} if job == "job_0" else {})
        return results(job)

    r.api.results = of  # type: ignore[method-assign]
    r.api.script = ["job", "hangs"]
    await crash(r, lambda: len(r.api.jobs) == 2)
    await only_the_second(r)

    assert len(r.api.submissions) == 2
    assert r.answers.counts()[P1, 2] == 1


async def only_the_second(r: JobRig) -> None:
    """A new daemon has one of two partitions, until it is through with it."""
    restart(r)
    r.source.join(r.pipeline)
    r.source.assign([P1])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(r.run)
        await until(lambda: r.source.committed.get(P1) == 5, HOUR)
        r.stop.set()


@pytest.mark.parametrize("before", [0, 1])
async def test_the_job_of_a_part_is_found_by_whoever_has_all_of_the_batch_again(
    before: int,
) -> None:
    """`before` jobs of the whole have left all of it undone when its partitions come apart."""
    r = rig(5, P0, P1)
    submit, results = r.api.submit, r.api.results

    def of(job: str) -> AsyncIterator[JobResult]:
        late = before and job == "job_0"
        r.api.judge = lambda where: LATER if late else DELIVERED
        return results(job)

    r.api.results = of  # type: ignore[method-assign]

    async def none(batch: Batch, name: str) -> Said:
        if len(r.api.jobs) == before:
            await anyio.sleep_forever()
        return await submit(batch, name)

    def again() -> bool:
        return len(r.api.jobs) == before and jobs_in_plan(r)[:1] == [
            (0, 4, ("job_0",) * before, bool(before))
        ]

    r.api.submit = none  # type: ignore[method-assign]
    await crash(r, again)
    r.api.submit = submit  # type: ignore[method-assign]
    r.api.script = ["hangs"]
    restart(r)
    r.source.join(r.pipeline)
    r.source.assign([P1])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(r.pipeline.run, r.stop)
        await until(lambda: len(r.api.jobs) == before + 1, HOUR)
        tasks.cancel_scope.cancel()
    restart(r)
    async with r.running():
        await until(lambda: r.source.committed == {P0: 5, P1: 5}, HOUR)

    assert [len(job.holds) for job in r.api.jobs.values()] == [10] * before + [5, 5]
    assert set(r.answers.counts().values()) == {1}
    assert len(r.answers.counts()) == 10


async def test_more_or_fewer_attempts_count_from_the_reload_on() -> None:
    r = rig(10)
    r.api.judge = always({2: LATER})
    async with r.running():
        await until(lambda: len(r.api.jobs) == 2, HOUR)
        r.pipeline.adopt_retry(RetrySettings(max_item_attempts=2))
        await until(lambda: r.committed == 10, HOUR)

    assert r.dead_letters.offsets == [2]
    assert len(r.api.jobs) == 2


async def test_more_attempts_than_were_planned_are_made_as_far_as_the_metadata_has_room() -> None:
    r = rig(4, size=1, retry=RetrySettings(max_item_attempts=1))
    r.source.metadata_limit, r.api.prefix = 500, "j" * 44
    r.api.judge = always(dict.fromkeys(range(4), LATER))
    async with r.running():
        await until(lambda: len(r.api.jobs) == 4)
        r.pipeline.adopt_retry(RetrySettings(max_item_attempts=20))
        await until(lambda: r.committed == 4, HOUR)

    assert {letter.reason for letter in r.dead_letters.letters} == {"exhausted"}
    assert 4 < sum(letter.attempts for letter in r.dead_letters.letters) == len(r.api.jobs)


async def test_results_are_not_written_before_kafka_knows_of_their_job() -> None:
    """Or a crash then might make a job anew of what has been written."""
    r = rig(10)
    submit = r.api.submit

    async def and_commits_are_slow_from_then_on(batch: Batch, name: str) -> Said:
        r.source.commit_takes = 200.0
        return await submit(batch, name)

    r.api.submit = and_commits_are_slow_from_then_on  # type: ignore[method-assign]
    async with r.running():
        await until(lambda: r.api.jobs)
        await anyio.sleep(150)
        assert r.answers.answers == []
        r.source.commit_takes = 0.0
        await until(lambda: r.committed == 10, HOUR)


async def test_each_job_of_the_same_records_has_a_name_of_its_own() -> None:
    r = rig(10)
    r.api.judge = judged(dict.fromkeys(range(10), LATER))
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert len({name for _, _, name in r.api.submissions}) == len(r.api.submissions) == 2


async def test_a_half_takes_the_room_in_the_plan_of_what_is_behind_its_batch() -> None:
    """Or it would wait for the end of the other half's job, a day perhaps."""
    r = rig(30, retry=RetrySettings(max_item_attempts=1))
    r.source.metadata_limit, r.api.most_jobs = 300, 2
    r.api.script = [TooLarge("413", "too many")]
    async with r.running():
        await anyio.sleep(r.api.takes / 2)
        assert r.api.offsets == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
        await until(lambda: r.committed == 30, HOUR)


async def test_who_goes_on_after_another_halt_has_not_said_so_of_a_job_that_is_missing() -> None:
    r = rig(10)
    async with r.running():
        await until(lambda: len(r.api.jobs) == 1)
        r.halt.set("the dead-letter topic is full")
        r.api.jobs.clear()
        await anyio.sleep(300)
        r.pipeline.resume()
        await until(lambda: r.halt.reason, HOUR)
        assert "job_0" in (r.halt.reason or "")
        assert len(r.api.submissions) == 1
        r.pipeline.resume()
        await until(lambda: r.committed == 10, HOUR)
    assert len(r.api.submissions) == 2


async def test_who_goes_on_does_so_for_all_jobs_that_are_missing() -> None:
    r = rig(30)
    async with r.running():
        await until(lambda: len(r.api.jobs) == 3)
        await anyio.sleep(1)
        r.api.jobs.clear()
        await anyio.sleep(300)
        r.pipeline.resume()
        await until(lambda: r.committed == 30, HOUR)
    assert r.answers.offsets == list(range(30))


async def test_a_job_that_the_api_does_not_know_halts_the_line_until_a_person_says_go_on() -> None:
    r = rig(10)
    async with r.running():
        await until(lambda: r.api.jobs)
        await anyio.sleep(1)
        r.api.jobs.clear()
        await until(lambda: r.halt.reason, HOUR)
        assert "job_0" in (r.halt.reason or "")
        r.pipeline.resume()
        await until(lambda: r.committed == 10, HOUR)

    assert r.answers.offsets == list(range(10))


async def test_a_batch_waits_until_what_is_invalid_in_its_range_is_buried() -> None:
    r = rig(0, record=RecordSettings())
    r.log.append(b"{}", b"{", b"{}", key=b"k")
    r.dead_letters.takes = 50.0
    await crash(r, lambda: P0 in r.source.metadata and "@job_0" in r.source.metadata[P0])
    assert r.dead_letters.offsets == [1]
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 3, HOUR)

    assert r.dead_letters.offsets == [1]
    assert r.answers.offsets == [0, 2]


async def test_trouble_while_polling_is_waited_out() -> None:
    r = rig(10)
    r.api.poll_script = [Again("status", "oops", "500"), Again("throttled", "slow", "429", 5.0)]
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert r.count("retries_total", reason="status") == 1
    assert r.count("retries_total", reason="throttled") == 1


async def test_what_was_refused_and_has_left_the_log_is_passed_over() -> None:
    r = rig(10)
    r.api.judge = always({3: NEVER})
    r.originals.gone = {(P0, 3)}
    async with r.running():
        await until(lambda: r.committed == 10, HOUR)

    assert r.dead_letters.letters == []


async def test_jobs_found_in_the_plan_are_read_past_though_memory_is_full() -> None:
    r = rig(40, memory=20 * OVERHEAD)
    r.api.most_jobs = 4
    await crash(r, lambda: len(r.api.jobs) == 4 and "@job_3" in r.source.metadata[P0])
    restart(r)
    async with r.running():
        await until(lambda: r.committed == 40, HOUR)

    assert len(r.api.submissions) == 4


async def test_jobs_that_leave_much_at_the_same_time_come_back_as_memory_has_room() -> None:
    limits = LimitSettings(requests_per_minute=12, burst=1 / 12)
    retry = RetrySettings(max_item_attempts=2)
    r = rig(200, memory=20 * OVERHEAD, limits=limits, retry=retry)
    r.api.takes, r.api.poll_every, most = 10 * HOUR, 0.1, 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, r.pipeline.memory.occupied())
            await anyio.sleep(0.1)

    async with r.running(), anyio.create_task_group() as tasks:
        await until(lambda: len(r.api.jobs) == 20, HOUR)
        r.api.takes, r.api.judge = 0.0, judged(dict.fromkeys(range(200), LATER))
        tasks.start_soon(watch)
        await until(lambda: r.jobs.coming_back, HOUR)
        r.log.append(*[b"{}"] * 20)  # for a fetch that is under way, and knows of nothing
        await anyio.sleep(2 * POLL)
        r.log.append(*[b"{}"] * 30)
        await until(lambda: r.committed == 250, HOUR)
        tasks.cancel_scope.cancel()

    one = r.api.submissions[0][1]
    assert 0 < most <= 20 * OVERHEAD + one.footprint + one.size
    again = [place for place, found in enumerate(r.api.offsets) if place >= 20 and found[0] < 200]
    new = [place for place, found in enumerate(r.api.offsets) if found[-1] >= 220]
    assert len(again) == 20
    assert max(again) < min(new), "they go before what is new"


async def test_what_goes_again_has_been_through_the_transform_and_a_dead_letter_has_not() -> None:
    r = rig(4, record=RecordSettings(transform="job_fakes:shouted"))
    verdicts: dict[int, Verdict | None] = {1: LATER, 2: NEVER}
    r.api.judge = judged(verdicts)
    async with r.running():
        await until(lambda: r.committed == 4, HOUR)

    again = [record.value for _, batch, _ in r.api.submissions[1:] for record in batch.records]
    assert again == [b'"LOUD"']
    assert [letter.record.value for letter in r.dead_letters.letters] == [b"{}"]

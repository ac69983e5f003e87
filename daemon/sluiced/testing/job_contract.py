"""The suite for sinks of jobs: what the daemon relies on when it dies at any moment."""

from __future__ import annotations

import pytest

from ..batch import Batch
from ..errors import SluicedError
from ..metadata import JOB_ID
from ..outcome import Again, Fate, Refused, TooLarge
from ..ports import BrokenResultsError, Progress, Submitted
from ..record import TopicPartition
from ..sinks.job_settings import ConfiguredJobs
from .common import CommonContract, possible
from .job_stand import (
    NAME,
    OTHER,
    JobStand,
    Where,
    ended,
    fates,
    found,
    places,
    results,
    submitted,
)
from .stand import PlainRecord, batch_of


class JobContract(CommonContract):
    """The suite. A class that derives from it has a fixture `stand`, new for each test."""

    # --- a job and its results ------------------------------------------------------------------

    async def test_each_record_of_a_batch_has_one_result_whatever_their_order(
        self, stand: JobStand
    ) -> None:
        records = [PlainRecord("pages", n % 3, n, stand.value(n)) for n in range(20)]
        batch = batch_of(records)
        async with stand.sink() as sink:
            job = await submitted(sink, batch)
            assert JOB_ID.fullmatch(job), "an id that can be written into a checkpoint"
            await stand.finish()
            await ended(sink, job)
            of = await results(sink, job)
        assert of.keys() == places(batch)
        assert fates(of) == {Fate.DELIVERED}
        assert {where[1]: stand.number(r.body) for where, r in of.items() if where} == {
            n: n for n in range(20)
        }

    async def test_a_job_is_at_work_until_it_has_ended(self, stand: JobStand) -> None:
        async with stand.sink() as sink:
            job = await submitted(sink, stand.batch(*range(10)))
            await stand.begin()
            progress = await sink.poll(job)
            assert isinstance(progress, Progress)
            assert (progress.state, progress.cancelled) == ("working", False)
            await stand.finish()
            assert not (await ended(sink, job)).cancelled
            assert len(await results(sink, job)) == 10

    async def test_jobs_at_the_same_time_do_not_mix(self, stand: JobStand) -> None:
        one, other = stand.batch(*range(5)), stand.batch(*range(5, 12))
        async with stand.sink() as sink:
            jobs = await submitted(sink, one), await submitted(sink, other, OTHER)
            await stand.finish()
            assert (await results(sink, jobs[0])).keys() == places(one)
            assert (await results(sink, jobs[1])).keys() == places(other)

    async def test_results_that_break_off_say_so_and_can_be_read_anew(
        self, stand: JobStand
    ) -> None:
        broken = possible(stand.broken(), "cannot break off results")
        before: set[Where | None] = set()

        async def read_on() -> None:
            async for result in sink.results(job):
                before.add(result.where)

        async with stand.sink() as sink:
            job = await submitted(sink, stand.batch(*range(10)))
            await stand.finish()
            await ended(sink, job)
            async with broken:
                with pytest.raises(BrokenResultsError):
                    await read_on()
            of = await results(sink, job)
        assert len(before) < 10
        assert before < of.keys() == places(stand.batch(*range(10)))

    async def test_a_refused_record_does_not_hold_up_the_others(self, stand: JobStand) -> None:
        if stand.bad is None:
            pytest.skip("the stand knows of nothing that is refused")
        records = stand.records(*range(20))
        records[13] = PlainRecord(offset=13, value=stand.bad)
        async with stand.sink() as sink:
            of = await self._judged(stand, sink, batch_of(records), "1" * 32)
        refused = {where for where, (fate, _) in of.items() if fate is Fate.REJECTED}
        assert refused == {(TopicPartition("pages", 0), 13)}
        assert all(error for fate, error in of.values() if fate is Fate.REJECTED), "and why"
        assert [fate for fate, _ in of.values()].count(Fate.DELIVERED) == 19

    async def _judged(
        self, stand: JobStand, sink: ConfiguredJobs, batch: Batch, name: str
    ) -> dict[Where | None, tuple[Fate, str]]:
        """What becomes of each record: a batch that is refused whole is cut, as the daemon does."""
        said: object = await sink.submit(batch, f"{name}-1")
        if isinstance(said, Submitted):
            await stand.finish()
            job, said = said.job, await sink.poll(said.job)
            if isinstance(said, Progress) and said.state == "ended":
                of = await results(sink, job)
                return {where: (r.verdict.fate, r.verdict.error) for where, r in of.items()}
        assert isinstance(said, Refused | TooLarge | Progress), said
        if len(batch) == 1:
            return dict.fromkeys(places(batch), (Fate.REJECTED, said.error))
        one, other = batch.halves()
        return await self._judged(stand, sink, one, one.id) | await self._judged(
            stand, sink, other, other.id
        )

    # --- the same batch, submitted or looked for again ------------------------------------------

    async def test_a_submission_is_found_under_its_name(self, stand: JobStand) -> None:
        batch = stand.batch(*range(10))
        async with stand.sink() as sink:
            job = await submitted(sink, batch)
        async with stand.sink() as heir:  # of a daemon that never heard of it
            assert await found(stand, heir, batch) == job
        assert await stand.jobs() == 1

    async def test_a_submission_is_found_though_its_answer_was_lost(self, stand: JobStand) -> None:
        lost, batch = possible(stand.lost(), "cannot lose an answer"), stand.batch(*range(10))
        async with stand.sink() as sink:
            async with lost:
                answer = await sink.submit(batch, NAME)
            assert isinstance(answer, Again), answer
            assert answer.doubtful, "or it is submitted again without a look"
            job = await found(stand, sink, batch)
            assert job is not None
            await stand.finish()
            assert (await results(sink, job)).keys() == places(batch)
        assert await stand.jobs() == 1

    async def test_where_nothing_was_submitted_nothing_is_found(self, stand: JobStand) -> None:
        async with stand.sink() as sink:
            assert await found(stand, sink, stand.batch(*range(10))) is None
        assert await stand.jobs() == 0

    async def test_the_job_of_another_batch_is_not_found(self, stand: JobStand) -> None:
        async with stand.sink() as sink:
            await submitted(sink, stand.batch(*range(10)), OTHER)
            assert await found(stand, sink, stand.batch(*range(10, 20))) is None

    async def test_jobs_that_are_known_are_not_found_again(self, stand: JobStand) -> None:
        batch = stand.batch(*range(10))
        async with stand.sink() as sink:
            job = await submitted(sink, batch)
            await stand.finish()
            assert await found(stand, sink, batch, [job]) is None

    async def test_a_part_of_a_batch_finds_the_job_of_the_whole(self, stand: JobStand) -> None:
        batch = stand.batch(*range(10))
        async with stand.sink() as sink:
            job = await submitted(sink, batch)
            part, _ = batch.halves()
            assert await found(stand, sink, part, whole=False) == job

    async def test_what_is_submitted_twice_under_a_name_is_one_job(self, stand: JobStand) -> None:
        if not stand.once:
            pytest.skip("the sink promises nothing about it")
        batch = stand.batch(*range(10))
        async with stand.sink() as frozen, stand.sink() as heir:
            job = await submitted(heir, batch)
            assert await submitted(frozen, batch) == job
        assert await stand.jobs() == 1

    # --- the end of a job before its time -------------------------------------------------------

    async def test_a_job_that_nobody_knows_is_missing(self, stand: JobStand) -> None:
        async with stand.sink() as sink:
            progress = await sink.poll(OTHER)
        assert isinstance(progress, Progress), progress
        assert progress.state == "missing"

    async def test_a_job_that_is_cancelled_ends_and_what_it_has_not_done_may_go_again(
        self, stand: JobStand
    ) -> None:
        batch = stand.batch(*range(10))
        async with stand.sink() as sink:
            job = await submitted(sink, batch)
            await stand.begin()
            assert await sink.cancel(job) is None
            await stand.finish()
            assert (await ended(sink, job)).cancelled
            of = await results(sink, job)
        done = [where for where, r in of.items() if r.verdict.fate is Fate.DELIVERED]
        assert 0 < len(done) < 10, "what was done by then is taken in"
        assert of.keys() <= places(batch)
        assert fates(of) <= {Fate.DELIVERED, Fate.RETRY}, "no record is to blame for it"

    async def test_a_job_that_has_ended_can_be_cancelled_without_harm(
        self, stand: JobStand
    ) -> None:
        async with stand.sink() as sink:
            job = await submitted(sink, stand.batch(*range(10)))
            await stand.finish()
            assert await sink.cancel(job) is None
            assert not (await ended(sink, job)).cancelled
            assert fates(await results(sink, job)) == {Fate.DELIVERED}

    # --- what cannot be made, or not now --------------------------------------------------------

    async def test_more_than_it_takes_is_not_submitted(self, stand: JobStand) -> None:
        for keys in ({"max_records": 4}, {"max_bytes": "20B"}):
            async with stand.sink(**keys) as sink:
                answer = await sink.submit(stand.batch(*range(5)), NAME)
                assert isinstance(answer, TooLarge), answer
                assert not answer.sent
        assert await stand.jobs() == 0

    async def test_what_cannot_be_reached_says_nothing_of_any_job(self, stand: JobStand) -> None:
        gone, batch = possible(stand.gone(), "cannot go away"), stand.batch(*range(10))
        async with stand.sink(timeout="5s") as sink:
            job = await submitted(sink, batch)
            await stand.finish()
            async with gone:
                assert isinstance(await sink.submit(batch, OTHER), Again)
                assert isinstance(await sink.find(batch, NAME, []), Again), "no reason for another"
                assert isinstance(await sink.poll(job), Again), "it is not missing"
                assert isinstance(await sink.cancel(job), Again)
                with pytest.raises(BrokenResultsError):
                    await results(sink, job)
            assert (await results(sink, job)).keys() == places(batch)
        assert await stand.jobs() == 1

    async def test_it_can_be_replaced_while_jobs_are_at_work(self, stand: JobStand) -> None:
        async with stand.sink() as former:
            job = await submitted(former, stand.batch(*range(10)))
            successor = former.successor(stand.settings(poll="7s", max_jobs=3, on_cancel="halt"))
        await successor.open()
        try:
            assert (successor.poll_every, successor.most_jobs) == (7.0, 3)
            assert successor.on_cancel == "halt"
            await stand.finish()
            await ended(successor, job)
            assert len(await results(successor, job)) == 10
        finally:
            await successor.close()

    # --- what people see of it ------------------------------------------------------------------

    async def test_a_tombstone_is_no_request(self, stand: JobStand) -> None:
        async with stand.sink() as sink:
            assert sink.objection(PlainRecord(value=None))

    async def test_a_tool_that_wants_an_answer_at_once_is_told_that_there_is_none(
        self, stand: JobStand
    ) -> None:
        async with stand.sink() as sink:
            with pytest.raises(SluicedError):
                await sink.send(stand.batch(1))

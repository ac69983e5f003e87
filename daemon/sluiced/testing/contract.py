"""The suite itself. What it finds out, it finds out as the daemon would: by a delivery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import anyio
import pytest
from prometheus_client import CollectorRegistry

from ..attempts import Attempts, Flight, RetrySettings
from ..batch import Batch
from ..burial import Burial, DeadLetterSettings, Halt
from ..delivery import Delivery
from ..gate import Gate, LimitSettings
from ..metrics import Metrics
from ..outcome import DELIVERED, Again, Answered, Fate, Outcome, Refused, TooLarge
from ..ports import DeadLetter
from ..sinks.settings import ConfiguredSink
from ..units import Duration, Patience
from .common import CommonContract, possible
from .stand import PlainRecord, Stand, batch_of

PATIENCE = 30.0  # seconds within which anything here comes to an end
SOON = 2.0  # seconds: the timeout of an attempt that is to run into it, after it has connected


class _Buried:
    """Implements ports.DeadLetters."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        self.letters += letters


async def deliver(sink: ConfiguredSink, batch: Batch, attempts: int = 3) -> list[DeadLetter]:
    """Does with a batch what the daemon does, until every record is delivered or refused.

    Returns the refusals. What is to be tried again is, without much of a pause.
    """
    metrics, buried = Metrics("test", CollectorRegistry()), _Buried()
    burial = Burial(DeadLetterSettings(topic="dead", max_ratio=1.0), buried, Halt(), metrics)
    retry = RetrySettings(Duration(0.01), Duration(0.2), Patience("inf"), attempts)
    retries = Attempts(
        retry,
        Gate(LimitSettings()),
        burial.halt,
        metrics,
        clock=anyio.current_time,
        wall=lambda: 1_767_225_600.0,
        random=Random(0),  # noqa: S311 - jitter
    )
    delivery = Delivery(sink, burial, retries, metrics)
    with anyio.fail_after(PATIENCE):
        await delivery.deliver(Flight(batch, anyio.current_time()))
    return buried.letters


def delivered(outcome: Outcome, batch: Batch) -> bool:
    return isinstance(outcome, Answered) and list(outcome.verdicts) == [DELIVERED] * len(batch)


class SinkContract(CommonContract):
    """The suite. A class that derives from it has a fixture `stand`, new for each test."""

    async def test_every_record_has_a_verdict_and_is_in_effect_once(self, stand: Stand) -> None:
        batch = stand.batch(*range(50))
        async with stand.sink() as sink:
            assert delivered(await sink.send(batch), batch)
        assert await stand.effects() == Counter(range(50))

    async def test_one_record_is_a_batch_too(self, stand: Stand) -> None:
        async with stand.sink() as sink:
            assert delivered(await sink.send(stand.batch(7)), stand.batch(7))
        assert await stand.effects() == Counter([7])

    async def test_records_of_several_partitions_go_together(self, stand: Stand) -> None:
        records = [PlainRecord("pages", n % 3, n, stand.value(n)) for n in range(9)]
        async with stand.sink() as sink:
            assert await deliver(sink, batch_of(records)) == []
        assert await stand.effects() == Counter(range(9))

    async def test_batches_at_the_same_time_do_not_mix(self, stand: Stand) -> None:
        batches = [stand.batch(*range(n * 10, n * 10 + 10)) for n in range(8)]
        refused: list[DeadLetter] = []

        async def send(batch: Batch) -> None:
            refused.extend(await deliver(sink, batch))

        async with stand.sink() as sink, anyio.create_task_group() as tasks:
            for batch in batches:
                tasks.start_soon(send, batch)
        assert refused == []
        assert await stand.effects() == Counter(range(80))

    async def test_the_same_batch_twice_is_one_effect_where_the_sink_says_so(
        self, stand: Stand
    ) -> None:
        batch = stand.batch(*range(10))
        async with stand.sink() as first:
            assert await deliver(first, batch) == []
        async with stand.sink() as second:  # of a daemon that was started again
            if second.identifies == "none":
                pytest.skip("the sink promises nothing about what is sent twice")
            assert await deliver(second, batch) == []
            assert await deliver(second, batch) == []
        assert await stand.effects() == Counter(range(10))

    async def test_what_is_refused_is_told_from_what_is_not(self, stand: Stand) -> None:
        if stand.bad is None:
            pytest.skip("the stand knows of nothing that is refused")
        records = stand.records(*range(20))
        records[13] = PlainRecord(offset=13, value=stand.bad)
        async with stand.sink() as sink:
            outcome = await sink.send(batch_of(records))
            if isinstance(outcome, Answered):
                fates = [verdict.fate for verdict in outcome.verdicts]
                assert fates[13] is Fate.REJECTED
                assert outcome.verdicts[13].error, "whoever looks at the letter wants to know why"
            else:
                assert isinstance(outcome, Refused), outcome
            [letter] = await deliver(sink, batch_of(records))
        assert (letter.record, letter.reason) == (records[13], "rejected")
        assert letter.error
        assert await stand.effects() == Counter(set(range(20)) - {13})

    async def test_nothing_but_what_is_refused(self, stand: Stand) -> None:
        if stand.bad is None:
            pytest.skip("the stand knows of nothing that is refused")
        records = [PlainRecord(offset=n, value=stand.bad) for n in range(4)]
        async with stand.sink() as sink:
            letters = await deliver(sink, batch_of(records))
        assert [letter.record for letter in letters] == records
        assert await stand.effects() == Counter()

    async def test_more_records_than_it_takes_are_not_sent(self, stand: Stand) -> None:
        async with stand.sink(max_records=4) as sink:
            outcome = await sink.send(stand.batch(*range(5)))
            assert isinstance(outcome, TooLarge)
            assert not outcome.sent
            assert await stand.effects() == Counter()
            assert await deliver(sink, stand.batch(*range(5))) == []
        assert await stand.effects() == Counter(range(5))

    async def test_more_bytes_than_it_takes_are_not_sent(self, stand: Stand) -> None:
        async with stand.sink(max_bytes="200B") as sink:
            outcome = await sink.send(stand.batch(*range(1000, 1200)))
            assert isinstance(outcome, TooLarge)
            assert not outcome.sent
        assert await stand.effects() == Counter()

    async def test_a_record_that_is_too_large_by_itself_does_not_hold_up_the_others(
        self, stand: Stand
    ) -> None:
        async with stand.sink(max_bytes="1B") as sink:
            letters = await deliver(sink, stand.batch(1, 2))
        assert [letter.reason for letter in letters] == ["too_large"] * 2

    async def test_what_cannot_be_reached_is_tried_again_until_it_can(self, stand: Stand) -> None:
        gone = possible(stand.gone(), "cannot go away")
        batch = stand.batch(*range(10))
        async with stand.sink(timeout="5s") as sink:
            async with gone:
                outcome = await sink.send(batch)
                assert isinstance(outcome, Again), outcome
                assert outcome.error
            assert await deliver(sink, batch) == []
        assert await stand.effects() == Counter(range(10))

    async def test_it_goes_away_between_two_batches(self, stand: Stand) -> None:
        gone = possible(stand.gone(), "cannot go away")
        async with stand.sink(timeout="5s") as sink:
            assert await deliver(sink, stand.batch(1)) == []
            async with gone:
                pass
            assert await deliver(sink, stand.batch(2)) == []
        assert await stand.effects() == Counter([1, 2])

    async def test_what_does_not_answer_is_given_up_in_time(self, stand: Stand) -> None:
        mute = possible(stand.mute(), "cannot be made not to answer")
        async with stand.sink(timeout=f"{SOON}s") as sink, mute:
            with anyio.fail_after(SOON + 20):
                outcome = await sink.send(stand.batch(1))
            assert isinstance(outcome, Again)
            assert outcome.reason == "timeout"
        async with stand.sink() as sink:
            assert await deliver(sink, stand.batch(1)) == []
            self._once(sink, await stand.effects(), 1)

    async def test_a_request_that_is_cancelled_is_done_wholly_or_not_at_all(
        self, stand: Stand
    ) -> None:
        mute = possible(stand.mute(), "cannot be made not to answer")
        batch = stand.batch(*range(10))
        async with stand.sink() as sink:
            async with mute:
                with anyio.move_on_after(SOON) as scope:
                    await sink.send(batch)
                assert scope.cancelled_caught
            found = await stand.effects()
            assert found in (Counter(), Counter(range(10)))
            assert await deliver(sink, stand.batch(77)) == [], "and the sink is as good as new"
            assert await deliver(sink, batch) == []
            self._once(sink, await stand.effects(), *range(10), 77)

    @staticmethod
    def _once(sink: ConfiguredSink, found: Counter[int], *numbers: int) -> None:
        """All are there, and where the sink can tell what it has done, not one twice."""
        assert found.keys() == set(numbers)
        assert sink.identifies == "none" or found == Counter(numbers)

    async def test_an_answer_that_makes_no_sense_is_no_success(self, stand: Stand) -> None:
        babbling = possible(stand.babbling(), "cannot talk nonsense")
        batch = stand.batch(1, 2, 3)
        async with stand.sink(timeout="5s") as sink:
            async with babbling:
                outcome = await sink.send(batch)
                assert isinstance(outcome, Again), outcome
            assert await deliver(sink, batch) == []
        assert await stand.effects() == Counter([1, 2, 3])

    async def test_it_can_be_replaced_while_it_is_at_work(self, stand: Stand) -> None:
        async with stand.sink() as former:
            successor = former.successor(stand.settings(timeout="20s"))
            await successor.open()
            try:
                assert await deliver(former, stand.batch(1)) == []
                assert await deliver(successor, stand.batch(2)) == []
            finally:
                await successor.close()
        assert await stand.effects() == Counter([1, 2])

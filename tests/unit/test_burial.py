from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from fakes import FakeRecord, Rig
from sluiced.burial import DeadLetterSettings, Halt, Ratio
from sluiced.errors import BurialError
from sluiced.ports import DeadLetter
from sluiced.record import Transformed
from sluiced.units import Duration
from strategies import steady


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def letters(count: int, start: int = 0) -> list[DeadLetter]:
    return [DeadLetter(FakeRecord(offset=start + i), "rejected", "bad slug") for i in range(count)]


def rig(max_ratio: float = 0.5, window: int = 10, **others: object) -> Rig:
    settings = DeadLetterSettings(topic="pages.dead", max_ratio=max_ratio, max_ratio_window=window)
    return Rig(dead_letter=settings, **others)  # type: ignore[arg-type]


@steady
@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(1, 15), st.booleans())),
    st.integers(1, 15),
)
def test_the_ratio_is_that_of_the_last_verdicts_kept_one_by_one(
    window: int, history: list[tuple[int, bool]], more: int
) -> None:
    ratio = Ratio(window)
    verdicts: list[bool] = []
    for count, refused in history:
        ratio.add(count, refused=refused)
        verdicts += [refused] * count
    expected = sum((verdicts + [True] * more)[-window:]) / window
    assert ratio.with_refused(more) == expected


def test_a_cleared_ratio_starts_over() -> None:
    ratio = Ratio(4)
    ratio.add(3, refused=True)
    ratio.clear()
    assert ratio.with_refused(1) == 0.25


@pytest.mark.anyio
async def test_letters_are_buried_in_order_and_counted_by_topic_and_reason() -> None:
    r = rig()
    assert await r.burial.bury(letters(3))
    assert r.dead_letters.offsets == [0, 1, 2]
    assert r.count("records_dead_lettered_total", topic="pages", reason="rejected") == 3
    assert r.halt.reason is None


@pytest.mark.anyio
async def test_it_is_buried_only_once_it_is_acknowledged() -> None:
    r = rig()
    r.dead_letters.takes = 7.0
    await r.burial.bury(letters(1))
    assert anyio.current_time() >= 7.0


@pytest.mark.anyio
async def test_a_letter_that_is_not_acknowledged_halts_and_goes_again_after_the_halt() -> None:
    r = rig()
    r.dead_letters.error = BurialError("the topic is gone", "Create it.")
    buried: list[bool] = []

    async def bury() -> None:
        buried.append(await r.burial.bury(letters(2)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bury)
        await anyio.sleep(1000)
        assert r.halt.reason is not None
        assert "the topic is gone" in r.halt.reason
        assert not buried
        r.halt.lift()
        await anyio.sleep(1000)
        assert r.halt.reason is not None, "it still fails, so it still halts"
        assert not buried
        r.dead_letters.error = None
        r.halt.lift()
    assert buried == [True]
    assert r.dead_letters.offsets == [0, 1]


@pytest.mark.anyio
async def test_up_to_the_ratio_records_are_buried_and_above_it_none_more_is() -> None:
    r = rig(max_ratio=0.5, window=10)
    assert await r.burial.bury(letters(5))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(r.burial.bury, letters(1, start=5))
        await anyio.sleep(1)
        assert r.halt.reason is not None
        assert "60% of the last 10 records were refused" in r.halt.reason
        assert "pages/0/5" in r.halt.reason
        assert r.dead_letters.offsets == [0, 1, 2, 3, 4]
        r.halt.lift()


@pytest.mark.anyio
async def test_after_a_halt_by_ratio_records_are_tried_again_and_the_count_starts_over() -> None:
    r = rig(max_ratio=0.5, window=10)
    await r.burial.bury(letters(5))
    answers: list[bool] = []

    async def bury() -> None:
        answers.append(await r.burial.bury(letters(1, start=5)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bury)
        await anyio.sleep(1)
        r.halt.lift()
    assert answers == [False]
    assert await r.burial.bury(letters(5))


@pytest.mark.anyio
async def test_what_is_invalid_would_be_so_again_and_is_buried_once_a_person_says_go_on() -> None:
    r = rig(max_ratio=0.5, window=10)
    invalid = [replace(letter, reason="invalid") for letter in letters(6)]
    answers: list[bool] = []

    async def bury() -> None:
        answers.append(await r.burial.bury(invalid))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bury)
        await anyio.sleep(1)
        assert r.halt.reason is not None
        assert r.dead_letters.offsets == []
        r.halt.lift()
    assert answers == [True]
    assert r.dead_letters.offsets == [0, 1, 2, 3, 4, 5]


@pytest.mark.anyio
async def test_deliveries_push_refusals_out_of_the_ratio() -> None:
    r = rig(max_ratio=0.5, window=10)
    await r.burial.bury(letters(5))
    r.burial.delivered(9)
    assert await r.burial.bury(letters(4))


@pytest.mark.anyio
async def test_what_comes_back_from_the_dead_letters_is_buried_without_a_brake() -> None:
    again = [("sluiced.redrives", b"1")]
    r = rig(0.5, 10)
    with anyio.fail_after(60):
        for n in range(30):
            record = FakeRecord(offset=n, headers=again)
            assert await r.burial.bury([DeadLetter(record, "rejected", "bad slug")])
        assert await r.burial.bury(letters(5, 100)), "they have used up nothing of the ratio"
    assert r.burial.halt.reason is None
    with anyio.move_on_after(60):
        await r.burial.bury([*letters(1, 200), DeadLetter(record, "rejected", "bad slug")])
    assert r.burial.halt.reason, "new ones are counted also in the company of old ones"


@pytest.mark.anyio
@pytest.mark.parametrize(("after", "given_up"), [(Duration(60), 2), (None, 0)])
async def test_what_dies_again_as_often_as_it_may_come_back_is_given_up(
    after: Duration | None, given_up: int
) -> None:
    r = Rig(dead_letter=DeadLetterSettings(topic="dead", retry_after=after, max_redrives=3))
    counts = [None, b"1", b"2", b"3", b"4", b"many"]
    headers = [() if n is None else (("sluiced.redrives", n),) for n in counts]
    records = [FakeRecord(offset=n, headers=h) for n, h in enumerate(headers)]
    assert await r.burial.bury([DeadLetter(record, "rejected", "no") for record in records])
    assert r.count("redriven_total", outcome="given_up") == given_up


@pytest.mark.anyio
async def test_a_ratio_of_one_never_halts() -> None:
    r = rig(max_ratio=1.0, window=10)
    for _ in range(5):
        assert await r.burial.bury(letters(20))


@pytest.mark.anyio
async def test_where_a_refusal_is_to_halt_nothing_is_buried() -> None:
    r = Rig(dead_letter=DeadLetterSettings(on_reject="halt"))
    answers: list[bool] = []

    async def bury() -> None:
        answers.append(await r.burial.bury(letters(1)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bury)
        await anyio.sleep(1)
        assert r.halt.reason is not None
        assert "bad slug" in r.halt.reason
        assert "on_reject" in r.halt.reason
        r.halt.lift()
    assert answers == [False]
    assert r.dead_letters.letters == []


@pytest.mark.anyio
async def test_while_the_pipeline_is_halted_nothing_more_is_buried() -> None:
    r = rig()
    r.halt.set("someone else's trouble")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(r.burial.bury, letters(1))
        await anyio.sleep(100)
        assert r.dead_letters.letters == []
        r.halt.lift()
    assert r.dead_letters.offsets == [0]


def test_the_first_reason_to_halt_stands_until_it_is_lifted() -> None:
    halt = Halt()
    halt.set("first")
    halt.set("second")
    assert halt.reason == "first"
    halt.lift()
    assert halt.reason is None
    halt.set("second")
    assert halt.reason == "second"


@pytest.mark.anyio
async def test_whoever_waits_for_the_lift_waits_on_if_it_halts_again_at_once() -> None:
    halt = Halt()
    halt.set("first")
    passed = anyio.Event()

    async def wait() -> None:
        await halt.passed()
        passed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(1)
        halt.lift()
        halt.set("second")
        await anyio.sleep(1)
        assert not passed.is_set()
        halt.lift()
        await passed.wait()


@pytest.mark.parametrize(
    ("settings", "why"),
    [({}, "set topic"), ({"topic": "dead", "on_reject": "halt"}, "not both")],
)
def test_there_is_either_a_topic_or_a_halt(settings: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DeadLetterSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_what_a_transform_has_made_is_buried_as_it_came() -> None:
    r = rig()
    came = FakeRecord(offset=3, value=b"as it came")
    made = Transformed.of(came, b"as it was sent")
    assert await r.burial.bury([DeadLetter(made, "rejected", "bad slug")])
    assert [letter.record for letter in r.dead_letters.letters] == [came]

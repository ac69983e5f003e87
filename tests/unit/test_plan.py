from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fakes import P0, P1, P2, records_at
from sluiced.batch import Batch, Run, Span
from sluiced.identity import identity
from sluiced.ledger import Ledger
from sluiced.metadata import (
    LEAST_LIMIT,
    PREFIX,
    Entry,
    ForeignPlanError,
    UnreadablePlanError,
    decode,
    encode,
    jobs_that_fit,
)
from sluiced.plan import Plan, Work
from sluiced.record import TopicPartition
from sluiced.window import collapsed
from strategies import steady

ID = "0123456789abcdef" * 2
OTHER = "f" * 32


# --- the text -------------------------------------------------------------------------------------


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, list[Entry]]:
    """An offset, and entries in order, at or above it."""
    offset = draw(st.integers(0, 2**62))
    entries, end = [], offset
    sizes = st.integers(0, 2**40)
    for gap, length in draw(st.lists(st.tuples(sizes, sizes), max_size=6)):
        first = end + gap
        end = first + length + 1
        if draw(st.booleans()):
            entries.append(Entry(first, end - 1))
        else:
            parts, collapse = draw(st.integers(0, 999)), draw(st.booleans())
            name = draw(st.text("0123456789abcdef", min_size=32, max_size=32))
            entries.append(Entry(first, end - 1, name, parts, collapse))
    return offset, entries


def covered(entries: list[Entry]) -> list[Entry]:
    """With done ranges that touch written as one."""
    out: list[Entry] = []
    for entry in entries:
        if out and not (out[-1].id or entry.id) and out[-1].last + 1 == entry.first:
            out[-1] = Entry(out[-1].first, entry.last)
        else:
            out.append(entry)
    return out


@steady
@given(plans())
def test_what_is_written_is_read_back(plan: tuple[int, list[Entry]]) -> None:
    offset, entries = plan
    text = encode(offset, entries)
    assert text.isascii()
    assert decode(offset, text) == covered(entries)


def test_the_text_is_what_the_documentation_says() -> None:
    entries = [
        Entry(100, 599, ID),
        Entry(600, 1099, OTHER, parts=3),
        Entry(1117, 1616, ID, collapsed=True),
        Entry(1617, 1626),
        Entry(1627, 1636),
    ]
    assert encode(100, entries) == f"sluiced1:0+500={ID},0+500={OTHER}*3,17+500~{ID},0+20"


def test_entries_that_overlap_are_never_written() -> None:
    with pytest.raises(ValueError, match="overlap at 5"):
        encode(0, [Entry(0, 9, ID), Entry(5, 6, OTHER)])


def test_nothing_in_flight_is_no_text() -> None:
    assert encode(7, []) == ""
    assert decode(7, "") == []


@pytest.mark.parametrize("text", ["a note of somebody else", "sluiced1", "sluiced-redrive1:0+5"])
def test_what_is_no_plan_is_foreign(text: str) -> None:
    with pytest.raises(ForeignPlanError):
        decode(0, text)


@pytest.mark.parametrize(
    "text",
    [
        "sluiced2:0+5",
        "sluiced10:",
        PREFIX,
        f"{PREFIX}0+0",
        f"{PREFIX}-1+5",
        f"{PREFIX}0+5,",
        f"{PREFIX}0+5={ID[:-1]}",
        f"{PREFIX}0+5={ID}*",
        f"{PREFIX}0+5@{ID}",
        f"{PREFIX}٣+5",
        f"{PREFIX}0+{'9' * 20}",
    ],
)
def test_a_plan_that_cannot_be_read_is_ours_all_the_same_and_refused(text: str) -> None:
    with pytest.raises(UnreadablePlanError, match=r"of pages/3 .* cannot read"):
        decode(0, text, "pages/3")


@steady
@given(st.text() | st.text().map(PREFIX.__add__))
@example(PREFIX + "0+1")
def test_whatever_stands_there_is_read_or_refused(text: str) -> None:
    try:
        entries = decode(5, text)
    except (ForeignPlanError, UnreadablePlanError):
        return
    assert text == "" or entries


# --- the plan beside a ledger ---------------------------------------------------------------------


class Books:
    """A ledger and a plan of partitions that start at 0, and records taken and batches made."""

    def __init__(self, *tps: TopicPartition, limit: int = 4096) -> None:
        self.ledger = Ledger()
        self.plan = Plan(self.ledger.owes, self.ledger.checkpoint)
        self.plan.limit = limit
        for tp in tps or (P0,):
            self.ledger.assign(tp, 1, 0)

    def take(self, *where: tuple[TopicPartition, int, int]) -> Batch:
        """A batch of offsets `first` to `last` of each partition."""
        runs = []
        for tp, first, last in where:
            self.ledger.take(tp, 1, [(first, last)], last + 1)
            runs.append(Run(tp, 1, records_at(tp, range(first, last + 1))))
        return Batch.of("pages", runs, "records")

    def done(self, batch: Batch) -> None:
        self.ledger.settle(batch.covers)
        self.plan.settled(batch.id)

    def committed(self, tp: TopicPartition = P0) -> tuple[int, list[Entry]]:
        self.plan.tidy()
        text = self.plan.metadata(tp)
        assert len(text) <= self.plan.limit
        return self.plan.offset(tp), decode(self.plan.offset(tp), text)


def test_a_batch_in_flight_is_in_the_metadata_and_gone_once_it_is_done() -> None:
    books = Books()
    batch = books.take((P0, 0, 9))
    assert books.plan.add(batch)
    assert books.committed() == (0, [Entry(0, 9, batch.id)])
    books.done(batch)
    assert books.committed() == (10, [])


def test_what_is_done_ahead_of_an_open_batch_is_written_down_as_done() -> None:
    books = Books()
    first, second, third = (books.take((P0, n, n + 9)) for n in (0, 10, 20))
    for batch in (first, second, third):
        assert books.plan.add(batch)
    books.done(second)
    books.done(third)
    assert books.committed() == (0, [Entry(0, 9, first.id), Entry(10, 29)])
    books.done(first)
    assert books.committed() == (30, [])


def test_what_is_done_behind_a_batch_that_is_stuck_does_not_pile_up() -> None:
    books = Books()
    stuck = books.take((P0, 0, 9))
    assert books.plan.add(stuck)
    for n in range(10, 10_000, 10):
        batch = books.take((P0, n, n + 9))
        assert books.plan.add(batch)
        books.done(batch)
        assert books.committed() == (0, [Entry(0, 9, stuck.id), Entry(10, n + 9)])
    assert len(books.plan._places[P0]) == 2


def test_a_batch_over_several_partitions_is_done_in_all_of_them_at_once_or_in_none() -> None:
    books = Books(P0, P1)
    both = books.take((P0, 0, 3), (P1, 0, 3))
    assert books.plan.add(both)
    books.ledger.take(P0, 1, [(4, 4)], 5)
    books.ledger.settle(both.covers)
    books.ledger.settle([])
    assert books.committed(P1)[1] == [Entry(0, 3, both.id, 2)], "nobody said that it has ended"
    books.plan.settled(both.id)
    assert [books.committed(tp) for tp in (P0, P1)] == [(4, []), (4, [])]


def test_an_unburied_record_within_a_batch_keeps_it_open_in_every_partition() -> None:
    books = Books(P0, P1)
    books.ledger.take(P0, 1, [(0, 2)], 3)
    runs = [Run(P0, 1, records_at(P0, [0, 2])), Run(P1, 1, records_at(P1, [0, 1]))]
    books.ledger.take(P1, 1, [(0, 1)], 2)
    batch = Batch.of("pages", runs, "records")
    assert books.plan.add(batch)
    books.done(batch)
    assert books.ledger.checkpoint(P1) == 2
    assert books.committed(P1) == (0, [Entry(0, 1, batch.id, 2)])
    books.ledger.settle([Span(P0, 1, ((1, 1),))])
    assert [books.committed(tp) for tp in (P0, P1)] == [(3, []), (2, [])]


def test_a_plan_that_does_not_fit_is_not_entered_until_there_is_room() -> None:
    books = Books(P0, P1, limit=100)
    fitting, second, third = (books.take((P0, n, n + 9), (P1, n, n + 9)) for n in (0, 10, 20))
    assert books.plan.add(fitting)
    assert books.plan.add(second)
    assert not books.plan.add(third)
    assert not books.plan.knows(third.id)
    assert books.committed(P1)[1] == [Entry(0, 9, fitting.id, 2), Entry(10, 19, second.id, 2)]
    books.done(fitting)
    books.plan.tidy()
    assert books.plan.add(third)


@steady
@given(st.lists(st.integers(0, 5), max_size=60), st.integers(LEAST_LIMIT, 400))
def test_whatever_ends_in_whatever_order_the_metadata_never_outgrows_its_limit(
    steps: list[int], limit: int
) -> None:
    books = Books(P0, P1, limit=limit)
    flying: list[Batch] = []
    for number, step in enumerate(steps):
        if step < 3:
            batch = books.take((P0, number, number), *([(P1, number, number)] if step else []))
            if books.plan.add(batch):
                flying.append(batch)
            else:
                books.ledger.settle(batch.covers)
        elif flying:
            books.done(flying.pop(step % len(flying)))
        for tp in (P0, P1):
            offset, entries = books.committed(tp)
            assert [e.id for e in entries if e.id] == [
                b.id for b in sorted(flying, key=lambda b: b.records[0].offset) if tp in tps_of(b)
            ]
            assert offset <= books.ledger.checkpoint(tp)
    for batch in flying:
        books.done(batch)
    assert [books.committed(tp)[1] for tp in (P0, P1)] == [[], []]


def tps_of(batch: Batch) -> set[TopicPartition]:
    return {span.tp for span in batch.spans}


def test_a_collapsed_batch_covers_what_gave_way_and_is_marked() -> None:
    books = Books()
    books.ledger.take(P0, 1, [(0, 4)], 5)
    records = records_at(P0, range(5), b'{"id":1}')
    batch = collapsed(Batch.of("pages", [Run(P0, 1, records)], "records"), identity("/id"))
    assert books.plan.add(batch)
    assert books.committed() == (0, [Entry(0, 4, batch.id, collapsed=True)])


def test_what_is_withdrawn_leaves_no_trace() -> None:
    books = Books(P0, P1)
    sent, never = books.take((P0, 0, 4)), books.take((P0, 5, 9), (P1, 0, 4))
    assert books.plan.add(sent)
    assert books.plan.add(never)
    books.plan.remove(never.id)
    assert [books.committed(tp)[1] for tp in (P0, P1)] == [[Entry(0, 4, sent.id)], []]


# --- what a former run has left -------------------------------------------------------------------


def restored() -> tuple[Books, Work]:
    books = Books(P0, P1, P2)
    work = Work(ID, 2, False, {P0: (0, 9), P1: (5, 9)})
    books.plan.restore([work], {P0: [(10, 19)]})
    return books, work


def test_a_restored_plan_is_written_as_it_was_found() -> None:
    books, _ = restored()
    assert books.committed(P0) == (0, [Entry(0, 9, ID, 2), Entry(10, 19)])
    assert books.committed(P1) == (0, [Entry(5, 9, ID, 2)])


def test_a_batch_formed_again_as_it_was_may_be_sent_at_once() -> None:
    books = Books(P0, P1)
    batch = books.take((P0, 0, 9), (P1, 0, 9))
    work = Work(batch.id, 2, False, {P0: (0, 9), P1: (0, 9)})
    books.plan.restore([work], {})
    assert not books.plan.durable(batch.id)
    books.plan.replace(work, batch)
    assert books.plan.durable(batch.id)
    books.done(batch)
    assert [books.committed(tp) for tp in (P0, P1)] == [(10, []), (10, [])]


def test_a_batch_formed_otherwise_takes_the_old_ones_place_and_must_be_committed_first() -> None:
    books, work = restored()
    books.ledger.take(P0, 1, [(0, 9)], 20)
    less = Batch.of("pages", [Run(P0, 1, records_at(P0, range(2, 9)))], "plan")
    books.plan.replace(work, less)
    assert not books.plan.durable(less.id)
    assert books.plan.waiting()
    assert books.committed(P0) == (0, [Entry(0, 9, less.id), Entry(10, 19)])
    assert books.committed(P1)[1] == []


def test_a_batch_formed_otherwise_takes_no_more_room_than_the_one_that_was_planned() -> None:
    books = Books(P0)
    works = [Work(f"{i:032x}", 1, False, {P0: (i * 1000, i * 1000 + 999)}) for i in range(20)]
    books.plan.restore(works, {})
    before = books.plan.metadata(P0)
    for work in works:
        first, last = work.spans[P0]
        books.ledger.take(P0, 1, [(first + 150, last - 150)], last + 1)
        left = records_at(P0, range(first + 150, last - 149))
        books.plan.replace(work, Batch.of("pages", [Run(P0, 1, left)], "plan"))
        assert len(books.plan.metadata(P0)) <= len(before)
    assert {entry.id for entry in books.committed(P0)[1]}.isdisjoint(work.id for work in works)


def test_a_planned_batch_of_which_nothing_is_left_holds_nothing_up() -> None:
    books, work = restored()
    books.plan.replace(work, None)
    books.ledger.take(P0, 1, [], 20)
    assert books.committed(P0) == (20, [])
    assert books.committed(P1) == (0, [])


@pytest.mark.parametrize("reached", [10, 14, 20])
def test_a_checkpoint_within_what_a_former_run_has_done_is_told_from_there(reached: int) -> None:
    books, work = restored()
    books.plan.replace(work, None)
    books.ledger.take(P0, 1, [], reached)
    rest = [Entry(reached, 19)] if reached < 20 else []
    assert books.committed(P0) == (reached, rest)


# Jobs


def test_what_version_0_1_wrote_is_read_for_ever() -> None:
    """Jobs are at work for a day and more, and whoever comes meanwhile may be a newer version.
    Never change this text: where the format changes, add one."""
    text = (
        f"sluiced1:0+10={ID}@batch_68a1,0+5,2+10={OTHER}*3@msgbatch_01@msgbatch_02@,"
        f"0+7~{ID}*2,0+1={OTHER}"
    )
    assert decode(100, text) == [
        Entry(100, 109, ID, jobs=("batch_68a1",)),
        Entry(110, 114),
        Entry(117, 126, OTHER, 3, jobs=("msgbatch_01", "msgbatch_02"), written=True),
        Entry(127, 133, ID, 2, collapsed=True),
        Entry(134, 134, OTHER),
    ]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (Entry(0, 9, "0" * 32, jobs=("batch_1",)), "0+10=" + "0" * 32 + "@batch_1"),
        (Entry(0, 9, "0" * 32, jobs=("a.b-c_D", "2")), "0+10=" + "0" * 32 + "@a.b-c_D@2"),
        (Entry(0, 9, "0" * 32, 3, jobs=("x",), written=True), "0+10=" + "0" * 32 + "*3@x@"),
    ],
)
def test_the_jobs_of_a_batch_follow_its_entry(entry: Entry, text: str) -> None:
    assert encode(0, [entry]) == "sluiced1:" + text
    assert decode(0, "sluiced1:" + text) == [entry]


@pytest.mark.parametrize("tail", ["@", "@@", "@a@@", "@a b", "@" + "x" * 65, "@ä"])
def test_ids_of_jobs_that_cannot_be_are_refused(tail: str) -> None:
    with pytest.raises(UnreadablePlanError):
        decode(0, "sluiced1:0+10=" + "0" * 32 + tail)


@pytest.mark.parametrize(("attempts", "fit"), [(5, 14), (2, 29), (1, 45)])
def test_so_many_jobs_of_a_partition_fit_as_check_says(attempts: int, fit: int) -> None:
    assert jobs_that_fit(attempts) == fit
    books = Books(P0)
    books.plan.jobs = attempts
    taken = 0
    while True:
        ends = (taken * 50_000, taken * 50_000 + 49_999)  # of what else is between, compaction
        books.ledger.take(P0, 1, [(end, end) for end in ends], ends[1] + 1)
        batch = Batch.of("pages", [Run(P0, 1, records_at(P0, ends))], "records")
        if not books.plan.add(batch):
            break
        taken += 1
    assert taken == fit


def test_more_attempts_than_when_they_were_planned_never_outgrow_the_metadata() -> None:
    books = Books(P0, limit=400)
    books.plan.jobs = 1
    works = []
    for n in range(10):
        batch = books.take((P0, n * 10, n * 10 + 9))
        if books.plan.add(batch):
            works.append(books.plan.work(batch.id))
    books.plan.jobs = 9
    again = 0
    for attempt in range(9):
        for work in works:
            if not work.written and work.jobs:
                if not books.plan.may_go_again(work):
                    continue
                books.plan.goes_again(work)
                again += 1
            books.plan.submitted(work, f"{attempt}" + "x" * 47)
            assert len(books.plan.metadata(P0)) <= 400

    assert len(works) == 4
    assert again == 0
    books.plan.settled(works[0].id)
    books.ledger.settle([Span(P0, 1, ((0, 9),))])
    books.plan.tidy()
    assert books.plan.may_go_again(works[1])


def test_room_is_kept_for_all_the_jobs_that_a_batch_may_become() -> None:
    books = Books(P0, limit=700)
    books.plan.jobs = 3
    works = []
    for n in range(10):
        batch = books.take((P0, n * 10, n * 10 + 9))
        if books.plan.add(batch):
            works.append(books.plan.work(batch.id))
    for attempt in range(3):
        for work in works:
            books.plan.submitted(work, f"{attempt}" + "x" * 47)
            books.plan.goes_again(work)
    assert len(works) == 3
    assert len(books.plan.metadata(P0)) <= 700


def test_a_batch_whose_partitions_have_been_revoked_is_not_cut_any_more() -> None:
    books = Books()
    batch = books.take((P0, 0, 9))
    assert books.plan.add(batch)
    work = books.plan.work(batch.id)
    books.plan.clear()
    assert not books.plan.cut(work, *batch.halves())

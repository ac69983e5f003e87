"""Makes progress durable: one commit at a time, and always of the newest state.

A commit carries what is done and what is planned together. A plan is wanted at once, since its
batch may not be sent before it is durable; news of what is done can wait a moment for the next
plan, so that a steady stream costs about one commit a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import anyio
import structlog

from .batch import Batch, Span
from .bell import Bell
from .burial import Halt
from .freshness import Freshness
from .ledger import Ledger
from .metadata import Entry, ForeignPlanError, decode
from .metrics import Metrics
from .plan import Plan, Work
from .ports import Assignment, Checkpoint, CommitOutcome, Mark
from .record import Range, TopicPartition, without
from .recovery import Formed, regrouped

log = structlog.get_logger("sluiced.committer")

COMMIT_TIMEOUT = 10.0  # seconds; a commit that takes longer is unknown, and made again
COMMIT_RETRY = 1.0  # seconds before a commit that failed is made again
LINGER = 0.1  # seconds that news of what is done waits for a plan to go along with


class Committer:
    """Keeps the ledger and the plan, and commits what they say.

    With `plans` a batch may be sent only once it is in a commit's metadata; without, at once.
    `committed` is called when batches may have become free to go, or found room in the plan.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        metrics: Metrics,
        halt: Halt,
        *,
        plans: bool,
        clock: Callable[[], float],
        committed: Callable[[], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._metrics = metrics
        self._halt = halt
        self._plans = plans
        self._clock = clock
        self._committed = committed
        self.ledger = Ledger()
        self.plan = Plan(self.ledger.owes, self.ledger.checkpoint)
        self.freshness = Freshness()
        self._stored: dict[TopicPartition, tuple[int, str]] = {}  # what Kafka is known to hold
        self.moved_at = clock()  # when an acknowledged commit last moved a checkpoint
        self._turn = anyio.Lock()
        self._news = Bell()
        self._news_since: float | None = None
        self._urgent = False

    # --- what the pipeline tells --------------------------------------------------------------

    def assigned(
        self, partitions: Mapping[TopicPartition, Assignment]
    ) -> tuple[Sequence[Work], Mapping[TopicPartition, Sequence[Range]]]:
        """Opens the books of these partitions. Returns the works that are to be formed again, and
        what a former run has done beyond its checkpoint. Raises UnreadablePlanError, and then no
        book is open, so that nothing is ever committed over what it is about."""
        plans = {tp: self._decoded(tp, assignment) for tp, assignment in partitions.items()}
        self.plan.clear()
        self.plan.limit = self._checkpoint.metadata_limit  # known once there is a broker
        self._stored.clear()
        for tp, assignment in partitions.items():
            self.ledger.assign(tp, assignment.epoch, assignment.position)
            if not assignment.fresh:
                self._stored[tp] = (assignment.position, assignment.metadata)
        works, done, apart = regrouped(plans, {tp: a.end for tp, a in partitions.items()})
        self.plan.restore(works, done)
        if apart:
            log.warning("planned_batches_taken_apart", batches=apart)
            self._metrics.recovered("split", apart)
        self._ring()
        return works, done

    def _decoded(self, tp: TopicPartition, assignment: Assignment) -> list[Entry]:
        try:
            return decode(assignment.position, assignment.metadata, str(tp))
        except ForeignPlanError as error:
            log.warning(
                "foreign_metadata",
                partition=str(tp),
                error=str(error),
                hint="Another program commits for this group: give it a group of its own.",
            )
            self._metrics.foreign_metadata()
            return []

    def revoked(self) -> None:
        """All partitions are gone; a rebalance takes them all."""
        tps = list(self.ledger.last_committed())
        self.ledger.revoke(tps)
        self.freshness.forget(tps)
        self.plan.clear()
        self._stored.clear()

    def took(self) -> None:
        """The ledger has taken offsets, and perhaps a gap that is owed to nobody."""
        self._ring()

    def settle(self, spans: Iterable[Span]) -> None:
        """These offsets are done."""
        for _ in range(self.ledger.settle(spans)):
            self._metrics.stale_outcome()
        self._ring()

    def settle_batch(self, batch: Batch) -> None:
        """Every record of the batch is done."""
        if all(self.ledger.epoch(span.tp) == span.epoch for span in batch.covers):
            self.plan.settled(batch.id)
        self.settle(batch.covers)
        for tp, record in batch.newest():
            self.freshness.settled(tp, record.offset, record.timestamp)

    def settle_work(self, work: Work) -> None:
        """All that is still owed within the range of this work is done: a job's, see `jobs`."""
        work.settled = True
        self._urgent = True  # a crash before this is committed writes a job's results again
        self.settle(
            Span(tp, self.ledger.epoch(tp) or 0, tuple(owed))
            for tp, span in work.spans.items()
            if (owed := self.ledger.owed_within(tp, *span))
        )

    def settle_besides(self, batch: Batch, work: Work) -> None:
        """What is still owed within the range of this work is done, but for the batch's own: none
        of it was left when the work became a job, which has come to nothing since."""
        own = {span.tp: span.ranges for span in batch.covers}
        self.settle(
            Span(tp, self.ledger.epoch(tp) or 0, rest)
            for tp, span in work.spans.items()
            if (rest := without(self.ledger.owed_within(tp, *span), own.get(tp, ())))
        )

    def changed(self) -> None:
        """The plan says something else than before."""
        self._ring()

    def recovered(self, formed: Formed) -> None:
        """A planned batch has been formed again, if anything is left of it."""
        if self.plan.jobs and formed.batch is not None:
            self.plan.keep(formed.work, formed.batch, self._clock())
        else:
            self.plan.replace(formed.work, formed.batch, self._clock())
        if not formed.exact:
            log.warning(
                "planned_batch_changed",
                planned=formed.work.id,
                batch=formed.batch.id if formed.batch else None,
                spans={str(tp): f"{a}-{b}" for tp, (a, b) in formed.work.spans.items()},
            )
        if formed.exact or not formed.work.apart:
            self._metrics.recovered("exact" if formed.exact else "changed", 1)
        self._ring()

    def propose(self, batches: Iterable[Batch]) -> None:
        """Plans these closed batches in their order, as far as the metadata has room."""
        if not self._plans:
            return
        full: set[TopicPartition] = set()
        for batch in batches:
            tps = {span.tp for span in batch.covers}
            if self.plan.knows(batch.id):
                continue
            if full.isdisjoint(tps) and self.plan.add(batch, self._clock()):
                self._ring()
            else:
                full |= tps

    def may_send(self, batch: Batch) -> bool:
        """Whether the batch could be formed again if the daemon died after sending it."""
        return self.plan.durable(batch.id) if self._plans else True

    def withdraw(self, batches: Iterable[Batch]) -> None:
        """These batches will not be sent."""
        for batch in batches:
            self.plan.remove(batch.id)

    def _ring(self) -> None:
        if self._news_since is None:
            self._news_since = self._clock()
        self._news.ring()

    # --- the one that commits -----------------------------------------------------------------

    async def run(self) -> None:
        """Commits for ever; see the module's text."""
        while True:
            await self._halt.passed()
            wait = self._wait()
            if wait is None or wait > 0:
                await self._news.heard(wait)
            elif await self.commit(COMMIT_TIMEOUT) != "ok":
                await anyio.sleep(COMMIT_RETRY)

    def _wait(self) -> float | None:
        """Seconds until there is something to commit; None if nothing is known that might be."""
        if self._news_since is None:
            return None
        if not self._plans or self._urgent or self.plan.waiting():
            return 0
        return self._news_since + LINGER - self._clock()

    async def commit(self, timeout: float) -> CommitOutcome:
        """Commits the newest state, if it is news. At most one commit is under way at a time."""
        deadline = self._clock() + timeout
        with anyio.move_on_after(timeout) as turn:
            await self._turn.acquire()
        if turn.cancelled_caught:
            return "unknown"
        try:
            return await self._commit_newest(deadline - self._clock())
        finally:
            self._turn.release()

    async def _commit_newest(self, timeout: float) -> CommitOutcome:
        if self._halt.reason:
            return "ok"
        self._news_since, self._urgent = None, False
        marks = self._marks()
        carried = self.plan.waiting()
        if marks:
            for tp in marks:
                self._stored.pop(tp, None)  # until it is known, anything may stand there
            outcome = await self._checkpoint.commit(marks, timeout)
            self._metrics.committed(outcome)
            if outcome != "ok":
                log.warning("commit_not_acknowledged", outcome=outcome)
                self._ring()
                return outcome
            self._acknowledged(marks)
        for work in carried:
            work.durable = True
            self._metrics.planned(self._clock() - work.since)
        if marks or carried:
            self._committed()
        return "ok"

    def _marks(self) -> dict[TopicPartition, Mark]:
        """What to commit, of each partition where Kafka is not known to hold it."""
        self.plan.tidy()
        marks = {}
        for tp in self.ledger.last_committed():
            offset, metadata = self.plan.offset(tp), self.plan.metadata(tp)
            if self._stored.get(tp) != (offset, metadata):
                marks[tp] = Mark(self.ledger.epoch(tp) or 0, offset, metadata)
        return marks

    def _acknowledged(self, marks: Mapping[TopicPartition, Mark]) -> None:
        for tp, mark in marks.items():
            if self.ledger.epoch(tp) == mark.epoch:
                if mark.offset > self.ledger.last_committed()[tp]:
                    self.moved_at = self._clock()
                self._stored[tp] = (mark.offset, mark.metadata)
                self.ledger.committed(tp, mark.epoch, mark.offset)
                self.freshness.advance(tp, mark.offset)

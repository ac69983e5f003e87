"""The line: its parts and who they are joined to, its membership in the group, and its drain."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import anyio
import structlog

from .attempts import RetrySettings
from .bell import Bells
from .buffer import Buffer
from .burial import Burial
from .committer import Committer
from .delivery import Delivery
from .errors import SourceError
from .gate import Gate
from .identity import Identify
from .inflow import Inflow
from .intake import Intake
from .invalid import Invalid
from .jobs import Jobs
from .memory import Memory
from .metrics import Metrics
from .outflow import Outflow
from .plan import Work
from .ports import Assignment, Checkpoint, Source
from .record import TopicPartition
from .recovery import Recovery
from .tasks import Tasks
from .units import Duration, Settings
from .watch import Watch
from .window import Windows

log = structlog.get_logger("sluiced.pipeline")

LOOK_AGAIN = 0.2  # seconds after which a drain looks whether a limit still lets anything through
BEGINNING = 0.75  # of a drain: so long batches are begun; those at the sink then have the rest
COMMITTING = (5.0, 0.25)  # seconds, and part of the drain, that the commit after it has at most


class ShutdownSettings(Settings, frozen=True):
    """[shutdown]"""

    drain: Duration = Duration(30)

    def __post_init__(self) -> None:
        if self.drain <= 0:
            raise ValueError("drain must be more than 0s")


def committing(drain: float) -> float:
    """Seconds that the commit at the end of a drain may take beyond it."""
    return min(COMMITTING[0], COMMITTING[1] * drain)


class Pipeline:
    """Makes the line of its parts, and empties it. Implements ports.Member.

        source -> Inflow -> Buffer -> Outflow -> sink
                     `----> Invalid -----------> dead letters

    None of them knows who comes before it: room and news go back by way of `Memory` and `Bells`.
    All of them tell the committer what is done, and only it knows the checkpoint.

    `memory` is the budget in bytes for records buffered and in flight, and for what the sink holds
    besides, as `held` tells. `plans` is whether a batch must be in the checkpoint's metadata before
    it is sent; batches that are found there are formed again in any case. `clock` gives seconds
    that only go forward.
    """

    def __init__(
        self,
        name: str,
        *,
        source: Source,
        checkpoint: Checkpoint,
        intake: Intake,
        windows: Windows,
        identify: Identify,
        gate: Gate,
        delivery: Delivery | Jobs,
        burial: Burial,
        metrics: Metrics,
        plans: bool,
        held: Callable[[], int] = lambda: 0,
        memory: int,
        drain: float,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.source = source
        self.intake = intake
        self.gate = gate
        self.delivery = delivery
        self.jobs = jobs = delivery if isinstance(delivery, Jobs) else None
        self.burial = burial
        self.metrics = metrics
        self.drain = drain
        self._committing = committing(drain)
        self.clock = clock

        self.tasks = tasks = Tasks()
        self._bells = bells = Bells(None if jobs is None else jobs.moved)
        self.committer = Committer(
            checkpoint, metrics, burial.halt, plans=plans, clock=clock, committed=bells.moved
        )
        self.ledger = self.committer.ledger
        self.freshness = self.committer.freshness
        self.buffer = Buffer(windows)
        self.recovery = Recovery(name, identify)
        self._invalid = Invalid(burial, self.committer, tasks, bells)
        self.outflow = Outflow(
            self.buffer,
            self.committer,
            gate,
            delivery,
            burial.halt,
            metrics,
            tasks,
            bells,
            clock=clock,
        )
        parts = (self.buffer, self.recovery, self.outflow, self._invalid)
        self.memory = Memory(memory, held, *(part.occupied for part in parts))
        self.inflow = Inflow(
            source,
            intake,
            self._invalid,
            self.recovery,
            self.buffer,
            self.outflow,
            self.committer,
            jobs,
            gate,
            burial.halt,
            self.memory,
            metrics,
            tasks,
            bells,
            clock=clock,
            wall=delivery.wall,
        )
        self.watch = Watch(source, self.ledger, self.inflow.ready, clock)
        if jobs is not None:
            jobs.join(
                self.committer,
                start=lambda job: tasks.start(partial(jobs.live, job)),
                queue=self.outflow.queue_again,
                changed=bells.gone,
                room=self.inflow.room,
            )

    async def run(self, stop: anyio.Event) -> None:
        """Runs until `stop` is set or something fatal happens, then drains and returns.

        Raises the fatal error, after the drain.
        """
        loops = (self.inflow.run, self.outflow.run, self.committer.run, self.watch.run)
        await self.tasks.run(loops, stop, self._drain_and_commit)

    # --- membership ---------------------------------------------------------------------------

    def assigned(self, partitions: Mapping[TopicPartition, Assignment]) -> None:
        works, done = self.committer.assigned(partitions)
        if self.jobs is None and (at_work := [work for work in works if work.jobs]):
            raise _orphaned(at_work)
        self.inflow.assigned(works, done)
        if ours := len(partitions):
            self.outflow.share(ours / max(ours, self.source.partitions))
        self.outflow.open()
        self.metrics.rebalanced()
        log.info("assigned", partitions=sorted(map(str, partitions)), planned_batches=len(works))

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Lets what is at the sink finish, within the drain's deadline; forgets the rest."""
        self.inflow.revoked()
        self._begin_no_more()
        if not self.burial.halt.reason:
            await self._emptied(self.drain)
        await self.outflow.leave()
        self._drop()  # what a job has left to be submitted again meanwhile
        await self.committer.commit(self._committing)
        self.committer.revoked()
        self.watch.forget()
        if partitions:
            log.info("revoked", partitions=sorted(map(str, partitions)))

    # --- the drain ----------------------------------------------------------------------------

    async def _drain_and_commit(self) -> None:
        """The one way to stop: what is open goes out, within one deadline, and is committed.

        Some time before it nothing more is begun, else a request that has just been made would be
        cut off there, and made again by whoever comes next.
        """
        log.info("draining", in_flight=len(self.outflow.flights), seconds=self.drain)
        if self.jobs is None:
            self.inflow.close_all("drain")
        else:
            self._drop()  # a window that is cut off would make a job of its own
            self._bells.work.ring()
        for part in (BEGINNING, 1 - BEGINNING):
            if not self.burial.halt.reason:
                await self._emptied(self.drain * part)
            self._begin_no_more()
        await self.outflow.leave()
        outcome = await self.committer.commit(self._committing)
        log.info("drained", commit=outcome, left_for_next_time=self.ledger.owed())

    def _begin_no_more(self) -> None:
        """What has not been sent yet will not be. Nor will be what a batch at the sink leaves to be
        sent once more."""
        self.outflow.close()
        self._drop()

    def _drop(self) -> None:
        """Forgets what has not been sent. It will be read again, under no plan of ours; but what
        was found in a plan may have been sent by whoever made it, and stays there."""
        self.committer.withdraw(self.buffer.waiting)
        self.buffer.drop()
        self.recovery.drop()

    async def _emptied(self, timeout: float) -> None:
        """Waits in vain for nothing: what a limit holds for longer than that is left at once."""
        end = self.clock() + timeout
        with anyio.move_on_after(timeout):
            while self._invalid.leaving or (
                self.outflow.leaving() and not self.outflow.held_beyond(end)
            ):
                await self._bells.left.heard(LOOK_AGAIN)

    # --- other settings -----------------------------------------------------------------------

    def adopt_retry(self, retry: RetrySettings) -> None:
        self.delivery.attempts.settings = retry
        if self.jobs is not None:
            self.committer.plan.jobs = retry.max_item_attempts

    def resume(self) -> None:
        """Goes on after a halt, or with other settings."""
        self.burial.halt.lift()
        self._bells.work.ring()


def _orphaned(works: Sequence[Work]) -> SourceError:
    """What to say to somebody who has put another sink in the place of one of jobs."""
    named = [f"{work.jobs[-1]} (of {', '.join(map(str, sorted(work.spans)))})" for work in works]
    more = f", and {len(named) - 5} more" if len(named) > 5 else ""
    return SourceError(
        f"the checkpoint tells of jobs, and [sink] makes none: {', '.join(named[:5])}{more}",
        "Put the former [sink] and [results] back until `sluiced jobs list` shows none; `sluiced "
        "jobs cancel` makes that soon. To give the jobs up and send their records anew, stop the "
        "whole group and reset its offsets to where they are, which drops what is noted with them: "
        "kafka-consumer-groups --reset-offsets --to-current --execute.",
    )

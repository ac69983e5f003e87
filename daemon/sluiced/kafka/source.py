"""The stream, and the checkpoint that belongs to it: one member of a consumer group.

aiokafka calls back in the middle of a rebalance, hands out records of an assignment before it has
told of it, and reports its own dead tasks to nobody. This module turns that into what the core is
promised: runs of records under an epoch, positions that are set before the first fetch, errors
that are raised.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import anyio
import structlog
from aiokafka import ConsumerRebalanceListener, OffsetAndMetadata
from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
)

from ..errors import LostRangeError, PositionsError, SluicedError, SourceError
from ..metadata import DEFAULT_LIMIT
from ..ports import CommitOutcome, Fetched, Mark, Member, Positions
from ..record import TopicPartition
from . import unpacking
from .client import KafkaSettings, bounded, describe, explain
from .commits import Commits
from .consumer import START_TIMEOUT, consumer
from .offsets import lost_range, metadata_limit, where_to_start

log = structlog.get_logger("sluiced.kafka")

STOP_TIMEOUT = 10.0  # seconds for aiokafka to leave the group and close
SETUP_RETRY = 1.0  # seconds between attempts to learn where to start


class KafkaSource(ConsumerRebalanceListener):
    """Implements ports.Source and ports.Checkpoint.

    `memory` is what aiokafka's own fetch buffers may take, in bytes; `drain` is how long the
    member takes at most when partitions are revoked, in seconds. `positions` is the sink of the
    moment, where that one keeps the checkpoint.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        memory: int,
        drain: float,
        positions: Callable[[], Positions] | None = None,
    ) -> None:
        self._settings = settings
        self._positions_of = positions
        self._memory = memory
        unpacking.limit(memory)
        self._drain = drain
        self._consumer: Any = None
        self._commits: Commits
        self._member: Member
        self._epoch = 0
        self._generation = -1
        # Partition and the offset after the last record that was handed out, of this epoch.
        self._positions: dict[TopicPartition, int] = {}
        self._to_set_up: frozenset[TopicPartition] | None = None
        self.stopped: set[TopicPartition] = set()  # see ports.Source
        self._trouble: BaseException | None = None
        self.metadata_limit = DEFAULT_LIMIT
        self.partitions = 0  # likewise

    # --- life ---------------------------------------------------------------------------------

    async def start(self, member: Member) -> None:
        """Joins the group. Raises SourceError when topics are missing or the cluster is."""
        self._member = member
        self.partitions = await self._partitions()
        self.metadata_limit = await metadata_limit(self._settings)
        self._consumer = consumer(
            self._settings, memory=self._memory, drain=self._drain, partitions=self.partitions
        )
        self._commits = Commits(self._consumer)
        self._consumer.subscribe(list(self._settings.topics), listener=self)
        try:
            with anyio.fail_after(START_TIMEOUT):
                await self._consumer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            raise SourceError(
                f"the group {self._settings.group_id} cannot be joined: {explain(error)}",
                "Check that the cluster is up and that the user may read the topics and the group.",
            ) from None

    async def stop(self) -> None:
        """Leaves the group, unless the member is static. Never raises, and takes 10 s at most."""
        if self._consumer is not None:
            await bounded(self._consumer.stop(), STOP_TIMEOUT, "leaving the group")

    async def _partitions(self) -> int:
        found = await describe(self._settings, self._settings.topics)
        if missing := sorted(set(self._settings.topics) - found.keys()):
            raise SourceError(
                f"kafka.topics: {', '.join(missing)} does not exist, or may not be read",
                "Create it, or correct the name.",
            )
        return sum(found.values())

    def _partitions_now(self) -> int:
        """As the rebalance has found them: a topic may have got more."""
        known = [self._consumer.partitions_for_topic(t) or () for t in self._settings.topics]
        return max(self.partitions, sum(map(len, known)))

    # --- fetching -----------------------------------------------------------------------------

    async def fetch(
        self, ready: Collection[TopicPartition], max_records: int, timeout: float
    ) -> Sequence[Fetched]:
        """See ports.Source. Positions that aiokafka moved in vain are always moved back."""
        self._check()
        if self._to_set_up is not None:
            await self._set_up()
        live = [tp for tp in ready if tp in self._positions and tp not in self.stopped]
        epoch = self._epoch
        try:
            # A coordination error waits here until it is taken, and the group stands still.
            self._consumer._coordinator.check_errors()
            if not live:
                await anyio.sleep(timeout if ready else 0)
                return ()
            got = await self._consumer.getmany(
                *[KafkaTopicPartition(*tp) for tp in live],
                timeout_ms=int(timeout * 1000),
                max_records=max_records,
            )
        except KafkaError as error:
            await self._failed(error, live)
            return ()
        if epoch != self._epoch or not self._positions:
            return ()  # of an assignment that we have not set up: its positions will be set anew
        return [self._fetched(tp, epoch, got.get(tp, ())) for tp in live if self._moved(tp)]

    def _moved(self, tp: TopicPartition) -> bool:
        return self._position(tp) != self._positions[tp]

    def _position(self, tp: TopicPartition) -> int:
        """Where aiokafka goes on; past control records, which hold no record of ours."""
        state = self._consumer._subscription.subscription.assignment.state_value(tp)
        return int(state.position) if state.has_valid_position else self._positions[tp]

    def _fetched(self, tp: TopicPartition, epoch: int, records: Sequence[Any]) -> Fetched:
        end = self._positions[tp] = self._position(tp)
        return Fetched(tp, epoch, records, end)

    def _check(self) -> None:
        """Raises what happened where nobody could raise it."""
        if self._trouble is not None:
            raise self._trouble
        for name, task in (
            ("fetcher", self._consumer._fetcher._fetch_task),
            ("group coordination", self._consumer._coordinator._coordination_task),
        ):
            if task.done():
                why = "" if task.cancelled() else f": {task.exception()!r}"
                raise SourceError(
                    f"aiokafka's {name} task has ended{why}",
                    "The daemon ends so that it is started afresh.",
                )

    async def _failed(self, error: KafkaError, live: Sequence[TopicPartition]) -> None:
        """getmany raised. What it had taken from other partitions by then is lost to us."""
        self._rewind()
        if isinstance(error, NoOffsetForPartitionError | IllegalStateError):
            return  # raised before our seek, which has cured it; or a rebalance has begun
        if isinstance(error, OffsetOutOfRangeError):
            raise await self._lost(error)
        if isinstance(error, CorruptRecordException | RecordTooLargeError):
            await self._isolate(error, live)
        elif isinstance(error, GroupAuthorizationFailedError | TopicAuthorizationFailedError):
            raise SourceError(
                f"the user may not read: {explain(error)}",
                "Grant READ on the topics and on the group.",
            ) from error
        elif error.retriable:
            log.warning("fetch_failed", error=explain(error))
            await anyio.sleep(SETUP_RETRY)
        else:
            raise SourceError(
                f"the stream cannot be read: {explain(error)}",
                "The daemon ends so that it is started afresh. Where kafka.group_instance_id is "
                "set, see that no other daemon has the same one.",
            ) from error

    def _rewind(self) -> None:
        for tp, position in self._positions.items():
            if self._moved(tp):
                self._consumer.seek(KafkaTopicPartition(*tp), position)

    async def _isolate(self, error: KafkaError, live: Sequence[TopicPartition]) -> None:
        """Stops the partition whose bytes are damaged; the others go on."""
        named = [tp for tp in live if str(KafkaTopicPartition(*tp)) in str(error)] or list(live)
        for tp in named:
            self.stopped.add(tp)
            log.error(
                "partition_stopped",
                partition=str(tp),
                offset=self._positions[tp],
                error=explain(error),
                hint="The log holds a damaged batch. Move the group past it, or repair the log.",
            )

    async def _lost(self, error: OffsetOutOfRangeError) -> SluicedError:
        for tp, offset in (error.args[0] if error.args else {}).items():
            named = TopicPartition(*tp)
            kept = self._keeper is not None
            return await lost_range(self._consumer, self._settings, named, offset, in_sink=kept)
        return LostRangeError(f"a checkpoint is outside the log: {explain(error)}")

    # --- rebalances ---------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Collection[KafkaTopicPartition]) -> None:
        """Awaited by aiokafka, whose own handling of an exception is a log line."""
        self._to_set_up = None
        try:
            await self._member.revoked([TopicPartition(*tp) for tp in revoked])
        except Exception as error:
            self._trouble = error
        finally:
            self._epoch += 1  # from here on no commit of what was ours is sent
            self._positions = {}
            self._generation = -1

    def on_partitions_assigned(self, assigned: Collection[KafkaTopicPartition]) -> None:
        """Only notes it: where to start is learned in the next fetch, while heartbeats go on."""
        self._epoch += 1
        self._positions = {}
        self.stopped = set()
        self._generation = self._consumer._coordinator.generation
        self._to_set_up = frozenset(TopicPartition(*tp) for tp in assigned)

    async def _set_up(self) -> None:
        """Learns and sets the position of every partition, then tells the member."""
        epoch, tps = self._epoch, self._to_set_up or frozenset()
        try:
            assignments = await where_to_start(
                self._consumer, self._settings, epoch, tps, self._keeper
            )
        except (KafkaError, TimeoutError, PositionsError) as error:
            why = str(error) if isinstance(error, PositionsError) else explain(error)
            log.warning("positions_unknown", error=why)
            await anyio.sleep(SETUP_RETRY)
            return
        if epoch != self._epoch or self._to_set_up is None:
            return  # another rebalance came in between
        self._to_set_up = None
        self._positions = {tp: a.position for tp, a in assignments.items()}
        self.partitions = self._partitions_now()
        try:
            for tp, a in assignments.items():
                self._consumer.seek(KafkaTopicPartition(*tp), a.position)
        except IllegalStateError:
            self._positions = {}  # a rebalance has begun; it will tell
            return
        self._member.assigned(assignments)

    # --- checkpoints --------------------------------------------------------------------------

    @property
    def _keeper(self) -> Positions | None:
        """The sink, where it keeps the checkpoint and Kafka's offsets only follow."""
        return None if self._positions_of is None else self._positions_of()

    async def commit(self, marks: Mapping[TopicPartition, Mark], timeout: float) -> CommitOutcome:
        """See ports.Checkpoint. Sent under the generation of the assignment, or not at all."""
        generation = self._generation
        current = {
            tp: mark
            for tp, mark in marks.items()
            if mark.epoch == self._epoch and tp in self._positions
        }
        if not current:
            return "failed"
        if self._keeper is not None:
            started, kept = anyio.current_time(), False
            with anyio.move_on_after(timeout):
                kept = await self._keeper.advance(current)
            if not kept:
                return "failed"
            timeout -= anyio.current_time() - started
        offsets = {
            KafkaTopicPartition(*tp): OffsetAndMetadata(mark.offset, mark.metadata)
            for tp, mark in current.items()
        }
        outcome = await self._commits.send(offsets, generation, timeout)
        return "failed" if outcome == "ok" and len(current) < len(marks) else outcome

    async def ends(self, timeout: float) -> Mapping[TopicPartition, int]:
        """See ports.Source."""
        return await self._offsets(self._consumer.end_offsets, timeout)

    async def starts(self, timeout: float) -> Mapping[TopicPartition, int]:
        """See ports.Source."""
        return await self._offsets(self._consumer.beginning_offsets, timeout)

    async def _offsets(self, ask: Any, timeout: float) -> dict[TopicPartition, int]:
        if not self._positions:
            return {}
        try:
            with anyio.fail_after(timeout):
                found = await ask([KafkaTopicPartition(*tp) for tp in self._positions])
        except (KafkaError, TimeoutError) as error:
            log.debug("offsets_unknown", error=explain(error))
            return {}
        return {TopicPartition(*tp): offset for tp, offset in found.items()}

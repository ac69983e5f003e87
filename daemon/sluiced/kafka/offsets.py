"""Where partitions start: committed offsets with their metadata, and the ends of the log."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import anyio
import structlog
from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.commit import OffsetFetchResponse_v2, OffsetFetchResponse_v3

from ..errors import LostRangeError, SourceError
from ..metadata import DEFAULT_LIMIT, LEAST_LIMIT
from ..ports import Assignment, Positions
from ..record import TopicPartition
from .client import CONNECT_TIMEOUT, KafkaSettings, bounded, explain

log = structlog.get_logger("sluiced.kafka")

METADATA_LIMIT = "offset.metadata.max.bytes"

_send = AIOKafkaClient.send


async def _checked(client: AIOKafkaClient, *args: Any, **others: Any) -> Any:
    """aiokafka passes over the error that stands above a whole answer. Of a coordinator that was
    just elected, and loads the group yet, it would learn that nothing was ever committed: all would
    start over, or at the end of the log."""
    answer = await _send(client, *args, **others)  # type: ignore[no-untyped-call]
    fetched = isinstance(answer, OffsetFetchResponse_v2 | OffsetFetchResponse_v3)
    if fetched and answer.error_code:
        raise for_code(answer.error_code)()
    return answer


def guard() -> None:
    """Puts this in the place of aiokafka's own function, for the whole process."""
    AIOKafkaClient.send = _checked  # type: ignore[assignment, method-assign]


async def metadata_limit(settings: KafkaSettings) -> int:
    """How many bytes of metadata an offset commit may carry for a partition.

    Brokers tell only those who may describe their configuration, and some do not know the question:
    then Kafka's default is assumed. Raises SourceError where no plan would fit.
    """
    limit = DEFAULT_LIMIT
    admin = AIOKafkaAdminClient(**settings.client(), request_timeout_ms=10_000)
    try:
        with anyio.fail_after(CONNECT_TIMEOUT):
            await admin.start()
            node = next(iter(admin._client.cluster.brokers())).nodeId
            about = ConfigResource(ConfigResourceType.BROKER, node, {METADATA_LIMIT: None})
            answers: list[Any] = await admin.describe_configs([about])
            for _, _, _, _, entries in answers[0].resources:
                limit = next((int(e[1]) for e in entries if e[0] == METADATA_LIMIT), limit)
    except (KafkaError, OSError, TimeoutError, ValueError, StopIteration) as error:
        log.debug("metadata_limit_unknown", assumed=limit, error=explain(error))
    finally:
        await bounded(admin.close(), 5.0, "closing the admin client")
    if limit < LEAST_LIMIT:
        raise SourceError(
            f"the broker's {METADATA_LIMIT} is {limit}, which has no room for a plan",
            f"Set it to {DEFAULT_LIMIT}, Kafka's default, or to {LEAST_LIMIT} at least.",
        )
    return limit


async def where_to_start(
    consumer: Any,
    settings: KafkaSettings,
    epoch: int,
    tps: Collection[TopicPartition],
    keeper: Positions | None = None,
) -> dict[TopicPartition, Assignment]:
    """Where each partition starts under this epoch: where the `keeper` says, if there is one and
    it knows, or else where the group has committed. Bounded by 30 s and the keeper's own patience.

    Raises LostRangeError where a checkpoint has fallen off the log; KafkaError, TimeoutError and
    PositionsError where it cannot be learned now.
    """
    kafka_tps = [KafkaTopicPartition(*tp) for tp in tps]
    if not kafka_tps:
        return {}
    with anyio.fail_after(30):
        committed = await consumer._coordinator.fetch_committed_offsets(kafka_tps)
        firsts = await consumer.beginning_offsets(kafka_tps)
        planned = [tp for tp, mark in committed.items() if mark.metadata]
        fresh = [tp for tp in kafka_tps if tp not in committed]
        latest = fresh if settings.start_at == "latest" else []
        ends = await consumer.end_offsets([*planned, *latest]) if planned or latest else {}
    assignments = {}
    for kafka_tp in kafka_tps:
        tp, mark = TopicPartition(*kafka_tp), committed.get(kafka_tp)
        end = ends.get(kafka_tp, 0)
        if mark is None:
            start = ends[kafka_tp] if latest else firsts[kafka_tp]
            assignments[tp] = Assignment(epoch, start, fresh=True)
        else:
            assignments[tp] = Assignment(epoch, mark.offset, mark.metadata or "", end)
    kept: Mapping[TopicPartition, int] = {}
    if keeper is not None:
        kept = await keeper.claim(epoch, {tp: a.position for tp, a in assignments.items()})
        for tp, position in kept.items():
            # What Kafka says is another offset, or one with a plan that is for another sink.
            assignments[tp] = Assignment(epoch, position, fresh=True)
    for tp, assignment in assignments.items():
        if assignment.position < firsts[KafkaTopicPartition(*tp)]:
            raise await lost_range(consumer, settings, tp, assignment.position, in_sink=tp in kept)
    return assignments


async def lost_range(
    consumer: Any, settings: KafkaSettings, tp: TopicPartition, offset: int, *, in_sink: bool
) -> LostRangeError:
    """What to tell about a checkpoint outside the log. `in_sink` where the sink keeps it."""
    kafka_tp = KafkaTopicPartition(*tp)
    first = (await consumer.beginning_offsets([kafka_tp]))[kafka_tp]
    end = (await consumer.end_offsets([kafka_tp]))[kafka_tp]
    group = settings.group_id
    set_it = (
        f"set the position of group {group} for {tp} to {first} in the sink's own checkpoint "
        "(docs/sinks.md shows how)"
        if in_sink
        else f"set the offset of group {group} for {tp} to {first} with "
        "kafka-consumer-groups --reset-offsets"
    )
    if offset > end:
        return LostRangeError(
            f"{tp}: the checkpoint {offset} lies beyond the end of the log, {end}: the topic "
            "was made anew or truncated",
            f"To deliver what is there, {set_it}, and start again.",
        )
    return LostRangeError(
        f"{tp}: records {offset} to {first - 1} were deleted from the log before they were "
        "delivered",
        f"If they can be done without, {set_it}, and start again. A longer retention of the topic "
        "prevents this.",
    )

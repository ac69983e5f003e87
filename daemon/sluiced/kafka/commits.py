"""One commit of offsets with their metadata, under the generation that they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import anyio
import structlog
from aiokafka import OffsetAndMetadata
from aiokafka.errors import IllegalStateError, KafkaError, OffsetMetadataTooLargeError

from ..errors import SourceError
from ..metadata import DEFAULT_LIMIT
from ..ports import CommitOutcome
from .client import explain
from .offsets import METADATA_LIMIT

log = structlog.get_logger("sluiced.kafka")

LOOK_TIMEOUT = 5.0  # seconds to read a commit back


class Commits:
    """Sends commits of a consumer's group, one attempt each."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._looked = False

    async def send(
        self, offsets: Mapping[Any, OffsetAndMetadata], generation: int, timeout: float
    ) -> CommitOutcome:
        """Bounded by `timeout`. Raises SourceError where the metadata is longer than the broker
        takes."""
        task = asyncio.ensure_future(self._attempt(offsets, generation))
        try:
            await asyncio.wait([task], timeout=timeout)
        finally:
            abandoned = task.cancel()  # it may have landed all the same
        if abandoned:
            return "unknown"
        if (error := task.exception()) is None:
            await self._look(offsets)
            return "ok"
        if isinstance(error, OffsetMetadataTooLargeError):
            raise SourceError(
                f"the broker refuses {max(len(o.metadata) for o in offsets.values())} bytes of "
                "metadata with an offset commit, and did not tell its limit",
                f"Let the user describe the cluster's configuration, or set the brokers' "
                f"{METADATA_LIMIT} to {DEFAULT_LIMIT}.",
            )
        if not isinstance(error, KafkaError | OSError | TimeoutError):
            raise error  # a bug
        log.warning("commit_failed", error=explain(error))
        surely = isinstance(error, KafkaError) and not error.retriable
        return "failed" if surely else "unknown"

    async def _attempt(self, offsets: Mapping[Any, OffsetAndMetadata], generation: int) -> None:
        """aiokafka's own commit() repeats for ever, and takes the generation that it has when it
        sends: after an eviction that is none, which an empty group accepts."""
        coordinator = self._consumer._coordinator
        await coordinator.ensure_coordinator_known()
        if generation < 0 or coordinator.generation != generation:
            raise IllegalStateError("the membership that this commit belongs to is over")
        assignment = self._consumer._subscription.subscription.assignment
        # No await stands between the check and the making of the request inside this call.
        await coordinator._do_commit_offsets(assignment, offsets)

    async def _look(self, offsets: Mapping[Any, OffsetAndMetadata]) -> None:
        """Reads the first plan back, once: some brokers speak Kafka's protocol and drop metadata,
        and then nobody would know before a crash that batches cannot be formed again."""
        planned = [tp for tp, offset in offsets.items() if offset.metadata]
        if self._looked or not planned:
            return
        try:
            with anyio.fail_after(LOOK_TIMEOUT):
                found = await self._consumer._coordinator.fetch_committed_offsets(planned)
        except (KafkaError, TimeoutError) as error:
            log.debug("plan_not_read_back", error=explain(error))
            return
        self._looked = True
        if not any(mark.metadata for mark in found.values()):
            log.error(
                "plans_not_kept",
                error="the broker keeps no metadata with offset commits",
                hint="After a crash what was in flight is sent again in other batches under other "
                "ids. Rely on ids of items, or use a broker that keeps it, as Apache Kafka does.",
            )

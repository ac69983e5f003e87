"""What a group has committed, where its coordinator has just been elected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import GroupLoadInProgressError, KafkaError, NotCoordinatorForGroupError
from aiokafka.protocol.commit import OffsetFetchResponse_v3 as Answer

from sluiced.kafka import KafkaSettings
from sluiced.kafka.offsets import where_to_start
from sluiced.record import TopicPartition

pytestmark = pytest.mark.anyio

TP = TopicPartition("pages", 0)
THERE = Answer(0, [("pages", [(0, 100, "", 0)])], 0)
NOTHING = Answer(0, [("pages", [(0, -1, "", 0)])], 0)


def refusal(error: type[KafkaError]) -> Answer:
    """As Kafka words it from version 2 of the request on: above an empty list of topics."""
    return Answer(0, [], error.errno)


class Connection:
    """To a broker that gives these answers, one after the other."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)

    def connected(self) -> bool:
        return True

    async def send(self, request: object, expect_response: bool) -> Answer:
        return self.answers.pop(0)


class Consumer:
    """As much of one as is asked where to start."""

    def __init__(self, coordinator: GroupCoordinator) -> None:
        self._coordinator = coordinator

    async def beginning_offsets(self, tps: list[KafkaTopicPartition]) -> Mapping[Any, int]:
        return dict.fromkeys(tps, 0)

    async def end_offsets(self, tps: list[KafkaTopicPartition]) -> Mapping[Any, int]:
        return dict.fromkeys(tps, 500)


@asynccontextmanager
async def consumer(*answers: Answer) -> AsyncIterator[Consumer]:
    client = AIOKafkaClient()
    client._conns[1, ConnectionGroup.COORDINATION] = Connection(*answers)

    async def found(*asked: object) -> int:
        return 1

    client.coordinator_lookup = found
    coordinator = GroupCoordinator(
        client, SubscriptionState(), group_id="pages", retry_backoff_ms=1
    )
    try:
        yield Consumer(coordinator)
    finally:
        await coordinator.close()


def settings(start_at: str) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=["localhost"],
        group_id="pages",
        topics=["pages"],
        start_at=start_at,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("start_at", ["earliest", "latest"])
@pytest.mark.parametrize("error", [GroupLoadInProgressError, NotCoordinatorForGroupError])
async def test_a_coordinator_that_does_not_know_the_group_yet_is_asked_again(
    error: type[KafkaError], start_at: str
) -> None:
    async with consumer(refusal(error), refusal(error), THERE) as asked:
        found = (await where_to_start(asked, settings(start_at), 1, [TP]))[TP]
    assert (found.position, found.fresh) == (100, False)


@pytest.mark.parametrize(("start_at", "position"), [("earliest", 0), ("latest", 500)])
async def test_a_group_that_has_committed_nothing_starts_where_the_settings_say(
    start_at: str, position: int
) -> None:
    async with consumer(NOTHING) as asked:
        found = (await where_to_start(asked, settings(start_at), 1, [TP]))[TP]
    assert (found.position, found.fresh) == (position, True)

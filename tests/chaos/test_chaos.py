"""A short storm in every test run; `make chaos` is the long one."""

from __future__ import annotations

import logging
from pathlib import Path
from random import SystemRandom

import pytest

from brokers.kafka import Kafka

from .bulk import Bulk
from .conductor import Conductor, Orders
from .prompts import Prompts
from .schedule import ALL_FAULTS, Storm

pytestmark = pytest.mark.anyio

SHORT = Storm(
    seconds=40, kills=8, freezes=1, restarts=1, joins=1, broker_kills=1, faults=ALL_FAULTS // 2
)

JOBS = Storm(seconds=15, kills=2, freezes=1, restarts=1, joins=1, broker_kills=0, faults=2)


@pytest.mark.timeout(600)
async def test_a_storm_loses_nothing_and_nothing_is_applied_twice(
    own_kafka: Kafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Our own producer and admin complain while the broker is down, which is no news here.
    caplog.set_level(logging.CRITICAL, "aiokafka")
    orders = Orders(SHORT, records=20_000, seed=SystemRandom().randrange(10**6), calm=180)
    verdict = await Conductor(own_kafka, tmp_path, orders, Bulk(), print).run()
    print(verdict.text)
    assert not verdict.violations, verdict.text
    assert verdict.counts["kills"] == SHORT.kills


@pytest.mark.timeout(600)
async def test_in_a_storm_each_prompt_has_one_answer_and_no_job_is_submitted_twice(
    own_kafka: Kafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "aiokafka")
    orders = Orders(JOBS, records=1_500, seed=SystemRandom().randrange(10**6), calm=180)
    verdict = await Conductor(own_kafka, tmp_path, orders, Prompts("openai"), print).run()
    print(verdict.text)
    assert not verdict.violations, verdict.text
    assert verdict.counts["kills"] == JOBS.kills
    assert verdict.counts["jobs"] > 10

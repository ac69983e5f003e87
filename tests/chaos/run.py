"""The long storm: `python -m chaos.run`, with the tests directory on PYTHONPATH.

First with a window for each partition, where nothing at all may be applied twice; then, for a fifth
of the time, with one window over all of them, where duplicates are counted. With --jobs the same
over a provider of batch jobs, and then over another one, which keeps no names for them.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import anyio

from brokers.kafka import Kafka
from brokers.kafka_jars import KafkaUnavailableError, jars

from .bulk import Bulk
from .conductor import Conductor, Orders, Verdict
from .prompts import Prompts
from .schedule import ALL_FAULTS, Storm
from .subject import Subject

LONG = Storm(
    seconds=480,
    kills=50,
    freezes=6,
    restarts=8,
    joins=12,
    broker_kills=3,
    faults=3 * ALL_FAULTS,
)
RECORDS = 200_000
LONG_WITH_JOBS = Storm(
    seconds=300,
    kills=30,
    freezes=4,
    restarts=5,
    joins=7,
    broker_kills=2,
    faults=2 * ALL_FAULTS,
)
PROMPTS = 30_000
CALM = 90.0


@dataclass(frozen=True)
class Programme:
    """What is done by default: a storm, so many records in it, and the subjects that it passes over
    one after the other, each for a share of it."""

    storm: Storm
    records: int
    subjects: Sequence[tuple[Subject, float]]


def programme(*, jobs: bool) -> Programme:
    if not jobs:
        return Programme(LONG, RECORDS, [(Bulk("partition"), 1.0), (Bulk("topics"), 0.2)])
    subjects = [
        (Prompts("openai", "partition"), 1.0),
        (Prompts("openai", "topics"), 0.2),
        (Prompts("anthropic", "partition"), 0.4),
    ]
    return Programme(LONG_WITH_JOBS, PROMPTS, subjects)


def orders(chosen: argparse.Namespace, planned: Programme, share: float) -> Orders:
    """The long storm, or that part of it which was asked for."""
    long = planned.storm
    seconds = (chosen.seconds or long.seconds) * share
    part = seconds / long.seconds
    storm = Storm(
        seconds=seconds,
        kills=max(1, round((chosen.kills or long.kills) * share)),
        freezes=max(1, round(long.freezes * part)),
        restarts=max(1, round(long.restarts * part)),
        joins=max(1, round(long.joins * part)),
        broker_kills=max(1, round(long.broker_kills * part)),
        faults=max(1, round(long.faults * part)),
    )
    records = round((chosen.records or planned.records) * share)
    return Orders(storm, records, chosen.seed, CALM)


def run(kafka_jars: Path, directory: Path, orders: Orders, subject: Subject) -> Verdict:
    """One storm on a broker of its own, told about on stderr as it goes."""
    directory.mkdir(parents=True, exist_ok=True)
    with Kafka(kafka_jars, directory) as kafka:
        return anyio.run(Conductor(kafka, directory, orders, subject, _say).run)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    parser.add_argument("--jobs", action="store_true", help="prompts to providers of batch jobs")
    parser.add_argument("--records", type=int, help="how many are produced")
    parser.add_argument("--kills", type=int, help="of daemons, by SIGKILL")
    parser.add_argument("--seconds", type=float, help="how long it storms")
    parser.add_argument("--only", default="", help='what has this in its name: "topics", "openai"')
    parser.add_argument("--keep", type=Path, help="an empty directory for all logs and the journal")
    return parser.parse_args()


def main() -> int:
    chosen = _arguments()
    planned = programme(jobs=chosen.jobs)
    # Our own producer and admin complain while the broker is down, which is no news here.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        kafka_jars = jars(_say)
    except KafkaUnavailableError as error:
        _say(f"no Apache Kafka: {error}")
        return 2
    began = time.monotonic()
    verdicts = []
    with tempfile.TemporaryDirectory() as scratch:
        for subject, share in planned.subjects:
            if chosen.only in str(subject):
                directory = (chosen.keep or Path(scratch)) / str(len(verdicts))
                its = orders(chosen, planned, share)
                verdicts.append(run(kafka_jars, directory, its, subject))
                print(f"\n{verdicts[-1].text}\n", flush=True)
    print(f"{time.monotonic() - began:.0f} s in all")
    return 1 if any(verdict.violations for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())

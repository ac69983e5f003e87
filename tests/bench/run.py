"""The benchmark: `python -m bench.run`, with the tests directory on PYTHONPATH.

RECORDS and ROUNDS, in the environment or as options, make it shorter or longer. It is a report,
not a test: a missed target does not change the exit code.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pstats
import sys
import tempfile
from pathlib import Path

from brokers.base import unique
from brokers.kafka_jars import KafkaUnavailableError, jars
from brokers.tansu import Tansu
from databases.postgres import programs

from . import postgres, report
from .contestants import BARE, JSON, TEXT, WINDOW, DidNotFinishError, Site, daemon
from .latency import compare
from .produce import fill, page
from .rounds import compete, measure
from .server import Server
from .stalled import Stall, stall

CPU_AT_MOST = {TEXT.name: 1.3, JSON.name: 1.6}
STALLS = [(250_000, 5_000_000_000), (250, 1_000_000_000)]  # bytes: of a record, of all waiting
PARTS = ["speed", "stalled", "latency", "postgres"]
LATENCY_WINDOWS = 500
PROFILE_LINES = 25
QUIET_LOAD = 0.5


def main() -> None:
    options = _options()
    _warn_of_company()
    with tempfile.TemporaryDirectory() as directory, Server() as server:
        if options.profile:
            _profile(server, options.records, options.profile, Path(directory))
            return
        if "speed" in options.only:
            _speed(server, options.records, options.rounds, Path(directory))
        if "stalled" in options.only:
            _stalled(server, Path(directory))
        if "latency" in options.only:
            _latency(Path(directory))
        if "postgres" in options.only:
            _postgres(options.rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    environment = os.environ.get
    parser.add_argument("--records", type=int, default=int(environment("RECORDS", "400000")))
    parser.add_argument("--rounds", type=int, default=int(environment("ROUNDS", "3")))
    parser.add_argument("--only", choices=PARTS, nargs=1)
    parser.add_argument(
        "--profile",
        choices=["text", "json"],
        nargs="?",
        const="json",
        help="instead of measuring, say where the daemon's time goes with this record format",
    )
    options = parser.parse_args()
    options.only = options.only or PARTS
    options.rounds = max(1, options.rounds)
    # Full windows only: the last one would otherwise wait until it is old enough.
    options.records = max(2, -(-options.records // WINDOW)) * WINDOW
    return options


def _site(broker: Tansu, server: Server, records: int, directory: Path) -> Site:
    """The topic, filled."""
    site = Site(broker.bootstrap, unique("bench"), unique("bench-dead"), server.url, directory)

    async def prepare() -> None:
        await broker.create_topic(site.dead_letters)
        await fill(broker, site.topic, map(page, range(records)))

    _say(f"{records:,} records of 250 bytes, {WINDOW:,} to a window")
    asyncio.run(prepare())
    return site


def _speed(server: Server, records: int, rounds: int, directory: Path) -> None:
    with Tansu() as broker:
        site = _site(broker, server, records, directory)
        found = compete([BARE, TEXT, JSON], site, server, records, rounds, _say)
    print(f"\n{report.standings(found, CPU_AT_MOST)}\n", flush=True)


def _stalled(server: Server, directory: Path) -> None:
    found: list[Stall | str] = []
    for record_bytes, waiting in STALLS:
        _say(f"sink stalled, {waiting / 1e9:.0f} GB of {record_bytes:,}-byte records waiting")
        try:
            found.append(stall(record_bytes, waiting, server, directory))
        except DidNotFinishError as error:
            found.append("did not finish")
            _say(str(error))
    print(f"\n{report.stalls(found)}", flush=True)


def _latency(directory: Path) -> None:
    try:
        found_jars = jars()
    except KafkaUnavailableError as error:
        _say(f"no latency without Apache Kafka: {error}")
        return
    _say(f"{LATENCY_WINDOWS} windows, one at a time, on an idle Apache Kafka")
    found = compare(found_jars, directory, LATENCY_WINDOWS)
    print(f"\n{report.latencies(found)}", flush=True)


def _postgres(rounds: int) -> None:
    if programs() is None:
        _say("no PostgreSQL here: apt-get install postgresql")
        return
    _say(f"{postgres.ROWS:,} rows into PostgreSQL, {postgres.BATCH:,} to a transaction")
    found = {upsert: postgres.compare(upsert, rounds) for upsert in (False, True)}
    print(f"\n{report.databases(found[False], found[True])}", flush=True)


def _profile(server: Server, records: int, record_format: str, directory: Path) -> None:
    """cProfile makes calls dearer than they are; read it for the order, not for the figures."""
    target = directory / "profile"
    launcher = ("-m", "bench.profiled", str(target))
    with Tansu() as broker:
        site = _site(broker, server, records, directory)
        command = daemon(site, unique("bench"), record_format=record_format, launcher=launcher)
        measure(server, command, records)
    print(f"garbage collector: {Path(f'{target}.gc').read_text()}; epoll.poll is waiting, not work")
    pstats.Stats(str(target)).sort_stats("tottime").print_stats(PROFILE_LINES)


def _warn_of_company() -> None:
    """The contestants, the broker and the server need two cores for themselves."""
    if (load := os.getloadavg()[0]) > QUIET_LOAD:
        _say(f"load average {load:.1f}: something else is running, and the figures will suffer")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

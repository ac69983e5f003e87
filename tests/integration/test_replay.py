"""`sluiced replay` and `sluiced status` on real brokers."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from brokers.base import Broker, Message
from brokers.kafka import Kafka
from harness.api import Api, Call
from harness.cli import ended, sluiced, start
from harness.daemon import Daemon, until
from harness.stream import Stream, exactly_once, make_stream
from sluiced.batch import batch_id
from sluiced.config import load
from sluiced.kafka.scan import reading
from sluiced.moments import of_ms, rfc3339
from sluiced.tools.replay.ranges import parse
from sluiced.tools.replay.replay import Options, Replay
from sluiced.tools.resend import Refusals, Resender
from sluiced.tools.text import Progress

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stream(broker: Broker, tmp_path: Path) -> Stream:
    return await make_stream(broker, tmp_path)


def named(topic: str, call: Call) -> str:
    """The records of a request, as a batch is named on the command line."""
    offsets: dict[int, list[int]] = {}
    for partition, offset in call.coordinates:
        offsets.setdefault(partition, []).append(offset)
    return ",".join(f"{topic}/{p}/{o[0]}-{o[-1]}" for p, o in offsets.items())


async def delivered(stream: Stream, api: Api, count: int) -> Daemon:
    """A daemon that has delivered so many records and is gone."""
    async with stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == count, f"{count} records")
        assert await daemon.stop() == 0
    return daemon


async def test_a_batch_is_replayed_with_the_same_bytes_and_the_same_key(stream: Stream) -> None:
    await stream.produce(300)
    async with Api() as api:
        daemon = await delivered(stream, api, 300)
        before, checkpoints = list(api.calls), await stream.checkpoints()
        command = (
            *("replay", daemon.path, "--batch-ranges"),
            *(named(stream.topic, call) for call in before),
        )
        plan = await sluiced(*command)
        assert plan.code == 0
        assert plan.lines[0].startswith(f"300 records in {len(before)} batches, ")
        assert all(any(call.key in line for line in plan.lines) for call in before)
        assert plan.lines[-1] == "Nothing was sent; --yes sends it."
        assert len(api.calls) == len(before)

        done = await sluiced(*command, "--yes")
        assert done.code == 0, done.err
        assert done.lines == [f"300 of 300 records delivered again, in {len(before)} batches"]
        again = api.calls[len(before) :]
        assert [(c.key, c.body) for c in again] == [(c.key, c.body) for c in before]
        assert await stream.checkpoints() == checkpoints, "the group has not been touched"


async def test_a_batch_is_found_in_the_log_by_its_id(stream: Stream, tmp_path: Path) -> None:
    await stream.produce(300)
    async with Api() as api:
        daemon = await delivered(stream, api, 300)
        wanted = api.calls[1]
        log = tmp_path / "pages.log"
        log.write_text(daemon.log)
        command = ("replay", daemon.path, "--log", log, "--batch")
        done = await sluiced(*command, wanted.key, "--yes")
        assert done.code == 0, done.err
        assert (api.calls[-1].key, api.calls[-1].body) == (wanted.key, wanted.body)

        calls = len(api.calls)
        unknown = await sluiced(*command, "0" * 32, "--yes")
        assert (unknown.code, '"debug"' in unknown.err) == (1, True)
        daemon.path.write_text(daemon.path.read_text().replace('name = "pages"', 'name = "x"', 1))
        changed = await sluiced(*command, wanted.key, "--yes")
        assert (changed.code, "would make another batch now" in changed.err) == (1, True)
        assert len(api.calls) == calls, "nothing is sent by another name than was asked for"


async def test_ranges_are_replayed_in_windows_of_the_configured_size(stream: Stream) -> None:
    await stream.produce(1000)
    async with Api() as api:
        daemon = await delivered(stream, api, 1000)
        before = len(api.calls)
        topic = stream.topic
        done = await sluiced(
            *("replay", daemon.path, f"{topic}/1/0-149", f"{topic}/1/100-199", f"{topic}/2/7"),
            *("--new-ids", "--yes"),
        )
        assert done.code == 0
        again = api.calls[before:]
        assert [len(call.items) for call in again] == [100, 100, 1]
        twice = Counter({(1, o): 1 for o in range(200)}) + Counter({(2, 7): 1})
        assert api.delivered() == exactly_once(4, 250) + twice
        assert not {c.key for c in again} & {c.key for c in api.calls[:before]}


async def test_a_span_of_time_is_replayed_over_all_partitions(stream: Stream) -> None:
    start = int(time.time()) - 3600
    messages = [
        Message(b'{"n":%d}' % n, partition=n % 4, timestamp_ms=(start + n) * 1000)
        for n in range(100)
    ]
    await stream.broker.produce(stream.topic, messages)
    async with Api() as api:
        daemon = await delivered(stream, api, 100)
        before = len(api.calls)
        done = await sluiced(
            *("replay", daemon.path, "--yes", "--since", rfc3339(of_ms((start + 30) * 1000))),
            *("--until", rfc3339(of_ms((start + 50) * 1000))),
        )
        assert done.code == 0
        found = {item["v"]["n"] for call in api.calls[before:] for item in call.items}
        assert found == set(range(30, 50))


async def test_what_is_refused_is_reported_and_buried_only_if_asked(stream: Stream) -> None:
    values = [b'{"n":0}', b"{", b'{"refuse":2}', b'{"n":3}']
    await stream.broker.produce(stream.topic, [Message(v, partition=0) for v in values])

    async def refuse(call: Call) -> web.Response | None:
        bad = any("refuse" in item["v"] for item in call.items)
        return web.Response(status=400, text="not this one") if bad else None

    frank = {"dead_letter": "max_ratio = 1.0", "blocks": '[sink.response]\nerror = ""'}
    async with Api(refuse) as api:
        daemon = stream.daemon(api, **frank)
        command = ("replay", daemon.path, f"{stream.topic}/0/0-3", "--yes")
        done = await sluiced(*command)
        assert done.code == 1
        assert done.lines[0] == "2 of 3 records delivered again, in 1 batch"
        assert done.lines[1] == "2 records refused:"
        assert any("invalid" in line and "/0/1 " in line for line in done.lines)
        assert any("not this one" in line and "/0/2 " in line for line in done.lines)
        assert await stream.broker.read(stream.dead) == []
        assert (await sluiced(*command, "--dead-letter")).code == 1
    letters = await stream.broker.read(stream.dead)
    assert {x.value for x in letters} == {b"{", b'{"refuse":2}'}


async def test_what_the_log_does_not_hold_is_refused_before_anything_is_sent(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(40)
    await kafka.delete_records(stream.topic, 0, 5)
    async with Api() as api:
        daemon = stream.daemon(api)
        for ranges, advice in (
            (f"{stream.topic}/0/4-6", "only the offsets 5 to 9"),
            (f"{stream.topic}/0/9-10", "only the offsets 5 to 9"),
            (f"{stream.topic}/4/0", "has 4 partitions"),
            ("nowhere/0/0", "nowhere does not exist"),
            ("pages", "is not a range of offsets"),
        ):
            refused = await sluiced("replay", daemon.path, ranges, "--yes")
            assert (refused.code, advice in refused.err) == (1, True), refused
        assert api.calls == []


@pytest.mark.parametrize(
    ("exact", "part"), [(True, "0/0-9"), (False, "0/0-9"), (True, "0/0-4"), (False, "0/0-4")]
)
async def test_what_the_log_loses_before_it_is_sent_is_not_taken_for_delivered(
    exact: bool, part: str, kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(40)
    refusals, stop = Refusals(), anyio.Event()
    async with Api() as api:
        config = load(stream.daemon(api).path)
        resender = Resender(config, stop, 10.0, refusals)
        options = Options([parse(f"{stream.topic}/{part}")], exact=exact)
        async with reading(config.kafka) as reader, resender.opened():
            replay = Replay(config, options, resender, refusals)
            plan = await replay.plan(reader)
            await kafka.delete_records(stream.topic, 0, 5)
            report = await replay.deliver(reader, plan, Progress("replaying"), stop)
        assert not report.complete
        assert api.calls == [], "another batch than the one that was planned"


async def test_the_id_of_a_planned_batch_is_the_daemons(kafka: Kafka, tmp_path: Path) -> None:
    """Gaps of transaction markers and tombstones are no part of it."""
    stream = await make_stream(kafka, tmp_path)
    for n in range(3):
        await kafka.produce(
            stream.topic, [Message(b"%d" % n, partition=0)], transactional_id=f"{stream.topic}-{n}"
        )
    await kafka.produce(
        stream.topic, [Message(None, b"k", partition=0), Message(b"3", partition=0)]
    )
    async with Api() as api:
        daemon = stream.daemon(api)
        plan = await sluiced("replay", daemon.path, "--batch-ranges", f"{stream.topic}/0/0-7")
    span = ((stream.topic, 0), 0, ((0, 0), (2, 2), (4, 4), (7, 7)))
    assert batch_id("pages", [span]) in plan.out  # type: ignore[list-item]
    assert "1 record skipped: tombstones, filtered or collapsed" in plan.lines


async def test_status_shows_a_running_daemon_and_fails_without_one(stream: Stream) -> None:
    await stream.produce(40)
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 40, "40 records")
        by_config = await sluiced("status", daemon.path)
        assert by_config.code == 0
        assert by_config.lines[0].startswith("pages is running, sluiced ")
        assert any(f"{stream.topic}/3" in line for line in by_config.lines)
        assert all(len(line) <= 80 for line in by_config.lines), by_config.out
        by_url = await sluiced("status", f"http://127.0.0.1:{daemon.port}/", "--json")
        assert json.loads(by_url.out)["totals"]["delivered"] == 40
        watching = await start("status", daemon.path, "--watch", "--json")
        assert watching.stdout is not None
        with anyio.fail_after(60):
            seen = [json.loads(await watching.stdout.readline())["now"] for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        assert (await ended(watching)).code == 0
        assert seen[0] < seen[1]

        async def down(_: Call) -> web.Response:
            return web.Response(status=503)

        api.answer = down
        await stream.produce(1)
        await until(lambda: len(daemon.events("sink_outage")) == 1, "an outage")
        outage = await sluiced("status", f"127.0.0.1:{daemon.port}")
        assert outage.code == 1
        assert outage.lines[0].startswith("pages is outage")
        assert any("status: the API answered 503" in line for line in outage.lines)
        api.answer = None
        assert await daemon.stop() == 0
    for option in ((), ("--watch",), ("--json",)):
        gone = await sluiced("status", daemon.path, *option)
        assert (gone.code, gone.out) == (1, "")
        assert f"no daemon can be reached at http://127.0.0.1:{daemon.port}" in gone.err
        assert "Connection refused" in gone.err

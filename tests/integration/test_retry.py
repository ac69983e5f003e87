"""`[dead_letter] retry_after` on real brokers: dead letters come back by themselves, each once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from brokers.base import Broker, Message, unique
from brokers.kafka import Kafka
from harness.api import Api, Call, Picky
from harness.cli import sluiced
from harness.daemon import Daemon, until
from harness.stream import Stream, make_stream
from sluiced.redrive.letter import Letter, parse

pytestmark = pytest.mark.anyio

TRACE = [("trace", b"\x00\xff")]
SOON = 'retry_after = "1s"\nmax_redrives = 2'
# The error in the API's own words. The brake is on: what comes back must not set it off.
FRANK = '[sink.response]\nerror = ""'


@pytest.fixture
async def stream(kafka: Kafka, tmp_path: Path) -> Stream:
    return await make_stream(kafka, tmp_path)


def refusable(count: int) -> list[Message]:
    return [Message(b'{"refuse":%d}' % n, b"k%d" % n, TRACE, n % 4) for n in range(count)]


def retrying(stream: Stream, api: Api, dead_letter: str = SOON) -> Daemon:
    return stream.daemon(api, dead_letter=dead_letter, blocks=FRANK)


class Reluctant:
    """An API that refuses each record once, as soon as that comes alone."""

    def __init__(self) -> None:
        self._refused: set[str] = set()

    async def __call__(self, call: Call) -> web.Response | None:
        new = {str(item["v"]) for item in call.items} - self._refused
        if len(call.items) == 1:
            self._refused |= new
        return web.Response(status=422, text="title is missing") if new else None


async def letters(stream: Stream, count: int) -> list[Letter]:
    """All dead letters, as soon as there are so many."""
    with anyio.fail_after(60):
        while len(found := await stream.broker.read(stream.dead)) < count:
            await anyio.sleep(0.1)
    return [parse(record) for record in found]


async def copies(stream: Stream) -> Counter[bytes | None]:
    return Counter(record.value for record in await stream.broker.read(stream.topic))


async def test_what_an_api_has_refused_is_delivered_by_itself_once_it_takes_it(
    stream: Stream,
) -> None:
    await stream.broker.produce(stream.topic, refusable(8))
    async with Api(Reluctant()) as api, retrying(stream, api) as daemon:
        await until(lambda: len(api.delivered()) == 8, "what was refused")
        _, page = await daemon.get("/metrics")
        assert 'sluiced_redriven_total{outcome="failed",pipeline="pages"} 0.0' in page
        assert await daemon.stop() == 0
        again = await sluiced("dead-letters", "redrive", daemon.path)
        assert again.lines[0].startswith("0 dead letters sent back"), "they share their memory"
    records = await stream.broker.read(stream.topic)
    back = [record for record in records if record.headers != tuple(TRACE)]
    assert sum(event["records"] for event in daemon.events("redriven")) == len(back) == 8
    assert {(r.key, r.value, r.partition) for r in back} == {
        (m.key, m.value, m.partition) for m in refusable(8)
    }
    assert {r.headers for r in back} == {(*TRACE, ("sluiced.redrives", b"1"))}


async def test_what_is_refused_for_ever_ends_after_max_redrives_and_what_is_invalid_never_goes(
    stream: Stream,
) -> None:
    await stream.broker.produce(stream.topic, [*refusable(1), Message(b"{not json", partition=0)])
    async with Api(Picky()) as api, retrying(stream, api) as daemon:
        await letters(stream, 4)
        # Another one goes the same way: by its end the first would have gone on.
        await stream.broker.produce(stream.topic, [Message(b'{"refuse":"too"}', partition=0)])
        found = await letters(stream, 7)
        assert await daemon.stop() == 0
    counts: dict[bytes | None, list[int]] = {}
    for letter in sorted(found, key=lambda letter: letter.redrives):
        counts.setdefault(letter.record.value, []).append(letter.redrives)
    assert counts == {
        b'{"refuse":0}': [0, 1, 2],
        b"{not json": [0],
        b'{"refuse":"too"}': [0, 1, 2],
    }


async def test_a_letter_waits_until_its_time_has_come(stream: Stream) -> None:
    await stream.broker.produce(stream.topic, refusable(3))
    async with Api(Picky()) as api, retrying(stream, api) as daemon:
        found = await letters(stream, 9)  # with those of the last time
        assert await daemon.stop() == 0
    by_value: dict[bytes | None, list[Letter]] = {}
    for letter in sorted(found, key=lambda letter: letter.redrives):
        by_value.setdefault(letter.record.value, []).append(letter)
    assert len(by_value) == 3
    for first, second, *_ in by_value.values():
        assert first.died
        assert second.died
        assert (second.died - first.died).total_seconds() >= 1


async def test_a_daemon_killed_while_it_sends_letters_back_sends_none_twice(
    stream: Stream, kafka: Kafka
) -> None:
    await stream.broker.produce(stream.topic, refusable(400))
    picky = Picky()
    # The letters of one run, and those of the next ones, which send them back.
    async with Api(picky) as api, retrying(stream, api, "max_ratio = 1.0") as first:
        await letters(stream, 400)
        assert await first.stop() == 0
        picky.picky = False
        for wanted in (430, 560):
            async with retrying(stream, api) as daemon:
                with anyio.fail_after(60):
                    # Also what is not committed yet, so as to hit a transaction that is open.
                    while len(await kafka.read(stream.topic, "read_uncommitted")) < wanted:
                        await anyio.sleep(0.001)
                await daemon.kill()
        async with retrying(stream, api) as last:
            await until(lambda: _values(api) >= 400, "all that was refused", 90)
            assert await last.stop() == 0
    assert await copies(stream) == Counter({message.value: 2 for message in refusable(400)})


def _values(api: Api) -> int:
    return len({item["v"]["refuse"] for call in api.accepted for item in call.items})


async def test_daemons_of_one_group_do_not_send_a_letter_back_twice(stream: Stream) -> None:
    await stream.broker.produce(stream.topic, refusable(300))
    picky = Picky()
    async with Api(picky) as api, retrying(stream, api, "max_ratio = 1.0") as first:
        await letters(stream, 300)
        assert await first.stop() == 0
        picky.picky = False
        async with retrying(stream, api) as one:
            await until(lambda: _values(api) >= 50, "the first of them")
            # The partitions are dealt out anew in the middle, and once more when one leaves.
            async with retrying(stream, api) as other:
                await other.ready()
                await until(lambda: _values(api) >= 200, "most of them")
                assert await one.stop() == 0
                await until(lambda: _values(api) >= 300, "all of them")
                assert await other.stop() == 0
    assert await copies(stream) == Counter({message.value: 2 for message in refusable(300)})


async def test_a_topic_that_forgets_sooner_than_letters_go_back_is_warned_of(
    stream: Stream, kafka: Kafka
) -> None:
    async with Api() as api:
        assert await _warned(retrying(stream, api, 'retry_after = "15m"')) == []
        dead, topic = await _warned(retrying(stream, api, 'retry_after = "3d"'))
        assert f"{stream.dead} keeps letters for 7d, and the last time" in dead
        assert "after 9d or more" in dead
        assert f"{stream.topic} keeps records for 7d" in topic
        # From when it died, and not from the record's own time, that is one retry_after each.
        config = {"retention.ms": "600000", "message.timestamp.type": "LogAppendTime"}
        dead_topic = unique("dead")
        await kafka.create_topic(dead_topic, config=config)
        for after, warned in (("9m", 0), ("10m", 1)):
            dead_letter = f'retry_after = "{after}"'
            daemon = stream.daemon(api, dead=dead_topic, dead_letter=dead_letter)
            assert len(await _warned(daemon)) == warned
        for_ever = unique("dead")
        await kafka.create_topic(for_ever, config={"retention.ms": "-1"})
        daemon = stream.daemon(api, dead=for_ever, dead_letter='retry_after = "2d"')
        assert await _warned(daemon) == []


async def _warned(daemon: Daemon) -> list[str]:
    checked = await sluiced("check", daemon.path, "--connect")
    assert checked.code == 0, checked.err
    return [line for line in checked.err.splitlines() if "retry_after" in line]


async def test_a_broker_without_transactions_is_refused_at_the_start(
    tansu: Broker, tmp_path: Path
) -> None:
    stream = Stream(tansu, tmp_path, unique("pages"), unique("group"))
    await tansu.create_topic(stream.topic)
    await tansu.create_topic(stream.dead)
    async with Api() as api, retrying(stream, api) as daemon:
        assert await daemon.ended() == 2
        assert "dead_letter.retry_after needs transactions" in daemon.log
        checked = await sluiced("check", daemon.path, "--connect")
        assert checked.code == 2
        assert "dead_letter.retry_after needs transactions" in checked.err

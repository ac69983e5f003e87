"""`sluiced dead-letters` on real brokers: nothing is lost on the way back, nothing goes twice."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from brokers.base import Broker, Message, unique
from brokers.kafka import Kafka
from harness.api import Api, Call, Picky
from harness.cli import Ended, ended, sluiced, start
from harness.daemon import Daemon, until
from harness.stream import Stream, make_stream
from sluiced.redrive.letter import parse

pytestmark = pytest.mark.anyio

TRACE = [("trace", b"\x00\xff")]
# An hour ago. Brokers delete what is older than the topic's retention, going by this.
START = int(time.time() * 1000) - 3_600_000
WIDTH = 80


@pytest.fixture
async def stream(broker: Broker, tmp_path: Path) -> Stream:
    return await make_stream(broker, tmp_path)


def refusable(count: int) -> list[Message]:
    return [
        Message(b'{"refuse":%d}' % n, b"k%d" % n, TRACE, n % 4, START + n) for n in range(count)
    ]


# No brake, and the API's own words as the error.
FRANK = {"dead_letter": "max_ratio = 1.0", "blocks": '[sink.response]\nerror = ""'}


async def buried(stream: Stream, daemon: Daemon, count: int) -> None:
    """Lets the daemon refuse what is in the topic, until there are so many letters."""
    await daemon.ready()
    with anyio.fail_after(60):
        while len(await stream.broker.read(stream.dead)) < count:
            await anyio.sleep(0.1)


def fits(ended: Ended) -> None:
    assert all(len(line) <= WIDTH for line in ended.lines), ended.out


async def test_letters_are_counted_listed_shown_and_exported(
    stream: Stream, tmp_path: Path
) -> None:
    poison = [Message(b"{not json", b"k9", TRACE, 1), Message(b"\xff\xfe", None, (), 1)]
    await stream.broker.produce(stream.topic, [*refusable(3), *poison])
    async with Api(Picky()) as api, stream.daemon(api, **FRANK) as daemon:
        await buried(stream, daemon, 5)
        assert await daemon.stop() == 0
    listed = await sluiced("dead-letters", "list", daemon.path)
    assert listed.code == 0
    assert listed.lines[0] == f"5 dead letters in {stream.dead}"
    assert any(line.startswith("3  rejected") for line in listed.lines)
    assert any(line.startswith("2  invalid") for line in listed.lines)
    fits(listed)

    some = await sluiced("dead-letters", "list", daemon.path, "--json", "--reason", "rejected")
    found = json.loads(some.out)
    assert (found["letters"], found["matching"]) == (5, 3)
    assert found["by_status"] == {"422": 3}
    assert {x["record"]["partition"] for x in found["latest"]} == {0, 1, 2}
    none = await sluiced("dead-letters", "list", daemon.path, "--until", "1h")
    assert none.lines == [f"0 of 5 dead letters in {stream.dead}"]

    shown = await sluiced("dead-letters", "show", daemon.path, f"{stream.topic}/2/0")
    assert "title is missing" in shown.out
    assert '    "refuse": 2' in shown.lines
    assert any(line.split() == ["trace", "0x00ff"] for line in shown.lines)
    fits(shown)
    place = next(x["letter"] for x in found["latest"] if x["record"]["partition"] == 2)
    by_place = await sluiced(
        "dead-letters", "show", daemon.path, f"{place['partition']}/{place['offset']}"
    )
    assert by_place.out == shown.out

    file = tmp_path / "letters.ndjson"
    exported = await sluiced("dead-letters", "export", daemon.path, file)
    assert (exported.code, exported.err.strip()) == (0, "5 dead letters written")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [x["value"] for x in lines if x["reason"] == "rejected"] == [
        {"refuse": n} for n in range(3)
    ]
    assert {x.get("value_base64") for x in lines} == {None, "e25vdCBqc29u", "//4="}
    twice = await sluiced("dead-letters", "export", daemon.path, file)
    assert (twice.code, "--force" in twice.err) == (1, True)
    piped = await sluiced("dead-letters", "export", daemon.path, "-")
    assert piped.out == file.read_text()


async def test_what_is_redriven_is_delivered_and_a_second_run_sends_nothing(
    stream: Stream,
) -> None:
    await stream.broker.produce(stream.topic, refusable(8))
    picky = Picky()
    async with Api(picky) as api, stream.daemon(api, **FRANK) as daemon:
        await buried(stream, daemon, 8)
        picky.picky = False
        dry = await sluiced("dead-letters", "redrive", daemon.path, "--dry-run")
        assert dry.lines[0] == ("8 dead letters would be sent back to their topics, of 8 looked at")
        first = await sluiced("dead-letters", "redrive", daemon.path)
        assert first.lines[0] == "8 dead letters sent back to their topics, of 8 looked at"
        assert first.code == 0
        await until(lambda: len(api.delivered()) == 8, "what was redriven")
        second = await sluiced("dead-letters", "redrive", daemon.path)
        assert second.code == 0
        assert second.lines == [
            "0 dead letters sent back to their topics, of 8 looked at",
            "8 sent by an earlier run, or given up with --pass-over",
        ]
        assert await daemon.stop() == 0
    records = await stream.broker.read(stream.topic)
    before, after = (
        sorted((r.partition, r.key, r.value, r.timestamp) for r in records if redriven is _again(r))
        for redriven in (False, True)
    )
    assert before == after, "key, value, timestamp and partition are the original's"
    for record in filter(_again, records):
        assert record.headers == (*TRACE, ("sluiced.redrives", b"1"))


def _again(record: object) -> bool:
    return any(name == "sluiced.redrives" for name, _ in record.headers)  # type: ignore[attr-defined]


async def test_an_interrupted_redrive_goes_on_where_it_stopped(stream: Stream) -> None:
    await stream.broker.produce(stream.topic, refusable(40))
    async with Api(Picky()) as api, stream.daemon(api, **FRANK) as daemon:
        await buried(stream, daemon, 40)
        assert await daemon.stop() == 0
    slow = await start("dead-letters", "redrive", daemon.path, "--rate", "5/s")
    with anyio.fail_after(60):
        while len(await stream.broker.read(stream.topic)) < 50:
            await anyio.sleep(0.05)
    slow.send_signal(signal.SIGINT)
    stopped = await ended(slow)
    assert stopped.code == 1
    assert stopped.lines[-1] == "Stopped before the end; run it again to go on."
    sent = len(await stream.broker.read(stream.topic)) - 40
    assert 10 <= sent < 40
    assert (await sluiced("dead-letters", "redrive", daemon.path)).code == 0
    assert await _values(stream) == Counter({message.value: 2 for message in refusable(40)})


async def _values(stream: Stream) -> Counter[bytes | None]:
    return Counter(record.value for record in await stream.broker.read(stream.topic))


async def test_a_killed_redrive_sends_nothing_twice_where_there_are_transactions(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.broker.produce(stream.topic, refusable(30))
    async with Api(Picky()) as api, stream.daemon(api, **FRANK) as daemon:
        await buried(stream, daemon, 30)
        assert await daemon.stop() == 0
    for wanted in (33, 40):
        slow = await start("dead-letters", "redrive", daemon.path, "--rate", "20/s")
        with anyio.fail_after(60):
            # Also what is not committed yet, so as to hit a transaction that is open.
            while len(await kafka.read(stream.topic, "read_uncommitted")) < wanted:
                await anyio.sleep(0.001)
        slow.kill()
        await slow.communicate()
    assert (await sluiced("dead-letters", "redrive", daemon.path)).code == 0
    assert await _values(stream) == Counter({message.value: 2 for message in refusable(30)})


async def test_of_two_redrives_at_once_the_later_one_shuts_the_earlier_one_out(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.broker.produce(stream.topic, refusable(40))
    async with Api(Picky()) as api, stream.daemon(api, **FRANK) as daemon:
        await buried(stream, daemon, 40)
        assert await daemon.stop() == 0
    slow = await start("dead-letters", "redrive", daemon.path, "--rate", "1/s")
    with anyio.fail_after(60):
        while len(await stream.broker.read(stream.topic)) < 44:
            await anyio.sleep(0.05)
    assert (await sluiced("dead-letters", "redrive", daemon.path)).code == 0
    earlier = await ended(slow)
    assert earlier.code == 1
    assert "another redrive with the same group was begun" in earlier.err
    assert await _values(stream) == Counter({message.value: 2 for message in refusable(40)})
    third = await sluiced("dead-letters", "redrive", daemon.path)
    assert third.lines[0].startswith("0 dead letters sent back")


async def test_what_a_filter_passes_over_is_there_for_a_later_run(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    daemon = await _mixed(stream)
    first = await sluiced("dead-letters", "redrive", daemon.path, "--reason", "invalid")
    assert first.lines[0].startswith("5 dead letters sent back")
    assert "5 left: not meant by the filters" in first.lines
    assert first.code == 0
    rest = await sluiced("dead-letters", "redrive", daemon.path)
    assert rest.lines[0].startswith("5 dead letters sent back")
    assert set((await _values(stream)).values()) == {2}


async def test_a_broker_without_metadata_is_told_to_pass_over_for_good(
    tansu: Broker, tmp_path: Path
) -> None:
    stream = await make_stream(tansu, tmp_path)
    daemon = await _mixed(stream)
    refused = await sluiced("dead-letters", "redrive", daemon.path, "--reason", "rejected")
    assert refused.code == 1
    assert "--pass-over" in refused.err
    assert len(await stream.broker.read(stream.topic)) == 10, "what cannot be remembered stays"
    passed = await sluiced(
        "dead-letters", "redrive", daemon.path, "--reason", "rejected", "--pass-over"
    )
    assert passed.code == 0
    assert len(await stream.broker.read(stream.topic)) == 15
    later = await sluiced("dead-letters", "redrive", daemon.path)
    assert later.lines[0].startswith("0 dead letters sent back")
    everything = await sluiced("dead-letters", "redrive", daemon.path, "--again")
    assert everything.lines[0].startswith("10 dead letters sent back")


async def _mixed(stream: Stream) -> Daemon:
    """Ten letters, every other one invalid, and a daemon that is gone."""
    for n in range(5):
        await stream.broker.produce(
            stream.topic,
            [Message(b'{"refuse":%d}' % n, partition=0), Message(b"{%d" % n, partition=0)],
        )
    async with (
        Api(Picky()) as api,
        stream.daemon(api, **FRANK) as daemon,
    ):
        await buried(stream, daemon, 10)
        assert await daemon.stop() == 0
    return daemon


async def test_a_record_that_comes_back_too_often_is_left(stream: Stream) -> None:
    await stream.broker.produce(stream.topic, refusable(1))
    async with Api(Picky()) as api, stream.daemon(api, **FRANK) as daemon:
        await buried(stream, daemon, 1)
        for round_ in (1, 2):
            again = await sluiced("dead-letters", "redrive", daemon.path, "--max-redrives", "2")
            assert again.code == 0
            await buried(stream, daemon, round_ + 1)
        limit = await sluiced("dead-letters", "redrive", daemon.path, "--max-redrives", "2")
        assert limit.code == 1
        assert "1 left: redriven as often as --max-redrives allows" in limit.lines
        assert await daemon.stop() == 0
    letters = [parse(record) for record in await stream.broker.read(stream.dead)]
    assert [letter.redrives for letter in letters] == [0, 1, 2]
    places = [letter.offset or 0 for letter in letters]
    assert places == sorted(set(places)), "each names where it last stood"


async def test_through_the_sink_what_is_refused_again_stays_dead(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    messages = [Message(b'{"refuse":%d}' % n, partition=0) for n in range(6)]
    await stream.broker.produce(stream.topic, messages)
    picky = Picky()
    async with Api(picky) as api, stream.daemon(api, **FRANK) as daemon:
        await buried(stream, daemon, 6)
        assert await daemon.stop() == 0
        keys = {call.key for call in api.calls}
        calls = len(api.calls)
        # A crash at the wrong moment writes a letter twice; the record goes once.
        twice = next(x for x in await kafka.read(stream.dead) if parse(x).offset == 2)
        await kafka.produce(stream.dead, [Message(twice.value, twice.key, twice.headers)])

        async def refuse_three(call: Call) -> web.Response | None:
            bad = any(item["o"] == 3 for item in call.items)
            return web.Response(status=400, text="not this one") if bad else None

        api.answer = refuse_three
        first = await sluiced("dead-letters", "redrive", daemon.path, "--to", "sink")
        assert first.code == 1
        assert first.lines[0] == "6 dead letters sent through the sink, of 7 looked at"
        assert "1 left: refused again" in first.lines
        assert any("not this one" in line and f"{stream.topic}/0/3" in line for line in first.lines)
        assert set(api.delivered()) == {(0, n) for n in (0, 1, 2, 4, 5)}
        assert not keys & {call.key for call in api.calls[calls:]}, "an API may remember a 422"

        api.answer = None
        second = await sluiced("dead-letters", "redrive", daemon.path, "--to", "sink")
        assert second.code == 0
        assert second.lines[0] == "1 dead letter sent through the sink, of 7 looked at"
        assert api.delivered() == Counter({(0, n): 1 for n in range(6)})


async def test_a_sink_that_says_nothing_ends_the_redrive_and_nothing_counts_as_sent(
    stream: Stream,
) -> None:
    await stream.broker.produce(stream.topic, refusable(2))
    async with Api(Picky()) as api, stream.daemon(api, **FRANK) as daemon:
        await buried(stream, daemon, 2)
        assert await daemon.stop() == 0

        async def down(_: Call) -> web.Response:
            return web.Response(status=503)

        api.answer = down
        command = ("dead-letters", "redrive", daemon.path, "--to", "sink")
        given_up = await sluiced(*command, "--patience", "1s")
        assert given_up.code == 1
        assert "has not taken or refused any record for 1 s" in given_up.err

        calls = len(api.calls)
        waiting = await start(*command)
        await until(lambda: len(api.calls) > calls + 3, "an outage")
        waiting.send_signal(signal.SIGINT)
        stopped = await ended(waiting)
        assert (stopped.code, stopped.lines[-1]) == (
            1,
            "Stopped before the end; run it again to go on.",
        )
        api.answer = None
        done = await sluiced(*command)
        assert done.lines[0] == "2 dead letters sent through the sink, of 2 looked at"
        assert len(api.delivered()) == 2


async def test_a_stub_is_redriven_with_the_value_that_the_log_still_has(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = Stream(kafka, tmp_path, unique("pages"), unique("group"))
    await kafka.create_topic(stream.topic, 4)
    await kafka.create_topic(stream.dead, 1, {"max.message.bytes": "2000"})
    big = [b'{"refuse":"%s"}' % (letter * 5000) for letter in (b"a", b"b")]
    await kafka.produce(stream.topic, [Message(big[0], b"a", (), 0), Message(big[1], b"b", (), 1)])
    async with Api(Picky()) as api, stream.daemon(api, **FRANK) as daemon:
        await buried(stream, daemon, 2)
        assert await daemon.stop() == 0
    await kafka.delete_records(stream.topic, 1, 1)
    done = await sluiced("dead-letters", "redrive", daemon.path)
    assert done.code == 1
    assert done.lines[0] == "1 dead letter sent back to their topics, of 2 looked at"
    assert "1 left: only a stub, and the log has the record no more" in done.lines
    [again] = [r for r in await kafka.read(stream.topic) if _again(r)]
    assert (again.value, again.key, again.partition) == (big[0], b"a", 0)


async def test_what_the_broker_would_delete_at_once_is_sent_only_with_a_new_timestamp(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = Stream(kafka, tmp_path, unique("pages"), unique("group"))
    # The hour that these records are old is more than the topic's retention, but the daemon is
    # quicker than the broker's next look, and the dead-letter topic keeps them.
    await kafka.create_topic(stream.topic, 4, {"retention.ms": "3600000"})
    await kafka.create_topic(stream.dead)
    await kafka.produce(stream.topic, refusable(2))
    async with Api(Picky()) as api, stream.daemon(api, **FRANK) as daemon:
        await buried(stream, daemon, 2)
        assert await daemon.stop() == 0
    left = await sluiced("dead-letters", "redrive", daemon.path)
    assert left.code == 1
    assert left.lines[0].startswith("0 dead letters sent back")
    assert any(line.startswith("2 left: as old as its topic's retention") for line in left.lines)
    sent = await sluiced("dead-letters", "redrive", daemon.path, "--timestamp", "now")
    assert sent.code == 0
    again = [record for record in await kafka.read(stream.topic) if _again(record)]
    assert [record.timestamp > START + 1_800_000 for record in again] == [True, True]


async def test_letters_of_another_group_are_left_alone(stream: Stream) -> None:
    await stream.broker.produce(stream.topic, refusable(2))
    async with Api(Picky()) as api, stream.daemon(api, **FRANK) as daemon:
        await buried(stream, daemon, 2)
        assert await daemon.stop() == 0
        other = stream.daemon(api, group=unique("other"))
    done = await sluiced("dead-letters", "redrive", other.path)
    assert done.code == 0
    assert done.lines[0].startswith("0 dead letters sent back")
    assert "2 left: of another group or of topics that are not in kafka.topics" in done.lines


async def test_a_dead_letter_topic_that_was_made_anew_is_not_taken_for_the_old_one(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    async with Api() as api:
        daemon = stream.daemon(api)
    await kafka.commit(f"{stream.group}.redrive", stream.dead, {0: (100, "")})
    refused = await sluiced("dead-letters", "redrive", daemon.path)
    assert refused.code == 1
    assert "the topic was made anew" in refused.err
    assert "--again" in refused.err


async def test_letters_of_kafka_connect_and_spring_are_redriven_too(stream: Stream) -> None:
    connect = {"topic": stream.topic, "partition": "1", "offset": "7", "stage": "TASK_PUT"}
    connect |= {"exception.class.name": "org.example.RetriableException"}
    spring = {
        "original-topic": stream.topic.encode(),
        "original-partition": (2).to_bytes(4),
        "original-offset": (2**40).to_bytes(8),
        "original-timestamp": START.to_bytes(8),
        "exception-fqcn": b"com.example.TitleMissing",
    }
    written = [(f"__connect.errors.{name}", text.encode()) for name, text in connect.items()]
    prefixed = [(f"kafka_dlt-{name}", value) for name, value in spring.items()]
    await stream.broker.produce(
        stream.dead,
        [
            Message(b"{}", b"connect", [*TRACE, *written], timestamp_ms=START),
            Message(b"{}", b"nobody", TRACE),
        ],
    )
    async with stream.broker.producer() as producer:
        empty = producer.create_batch()  # neither key nor value, which send() does not take
        empty.append(key=None, value=None, timestamp=None, headers=[*TRACE, *prefixed])
        empty.close()
        await (await producer.send_batch(empty, stream.dead, partition=0))
    async with Api() as api:
        daemon = stream.daemon(api)
    listed = json.loads((await sluiced("dead-letters", "list", daemon.path, "--json")).out)
    assert listed["by_reason"] == {"RetriableException": 1, "TitleMissing": 1, "unknown": 1}
    done = await sluiced("dead-letters", "redrive", daemon.path, "--pass-over")
    assert done.code == 1
    assert "1 left: not known where they came from" in done.lines
    records = await stream.broker.read(stream.topic)
    assert [(r.partition, r.key, r.value, r.timestamp) for r in records] == [
        (1, b"connect", b"{}", START),
        (2, None, None, START),
    ]
    assert {r.headers for r in records} == {(*TRACE, ("sluiced.redrives", b"1"))}


async def test_a_cluster_that_is_not_there_is_said_in_one_screen(
    broker: Broker, tmp_path: Path
) -> None:
    stream = Stream(broker, tmp_path, unique("pages"), unique("group"))
    async with Api() as api:
        away = stream.daemon(api, bootstrap="127.0.0.1:1")
        headless = stream.daemon(api)
    for command in ("list", "redrive"):
        refused = await sluiced("dead-letters", command, away.path)
        assert refused.code == 1
        assert "the Kafka cluster at 127.0.0.1:1 cannot be used" in refused.err
        assert len(refused.err.splitlines()) < 10, refused.err
    missing = await sluiced("dead-letters", "list", headless.path)
    assert (missing.code, f"dead_letter.topic: {stream.dead} does not exist" in missing.err) == (
        1,
        True,
    )


async def test_offsets_without_a_letter_are_nothing_to_come_back_for(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    connect = {"topic": stream.topic.encode(), "partition": b"0", "offset": b"7"}
    headers = [(f"__connect.errors.{name}", value) for name, value in connect.items()]
    for n in range(3):  # each transaction ends with a marker, which takes an offset
        await kafka.produce(
            stream.dead, [Message(b"%d" % n, b"k", headers)], transactional_id=f"{stream.dead}-{n}"
        )
    async with Api() as api:
        daemon = stream.daemon(api)
    assert (await sluiced("dead-letters", "redrive", daemon.path)).code == 0
    remembered = await kafka.committed(f"{stream.group}.redrive", stream.dead)
    assert remembered == {0: (6, "sluiced-redrive1:")}

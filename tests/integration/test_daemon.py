"""The whole daemon on real brokers: what is promised to someone who puts it into service."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from aiohttp import web

from brokers.base import Broker, Message, unique
from brokers.kafka import Kafka
from harness.api import Api, Call
from harness.daemon import Daemon, told, until
from harness.stream import Stream, exactly_once, make_stream

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stream(broker: Broker, tmp_path: Path) -> Stream:
    return await make_stream(broker, tmp_path)


@pytest.mark.parametrize("span", ["topics", "partition"])
async def test_everything_arrives_in_full_loads_and_is_committed(stream: Stream, span: str) -> None:
    await stream.produce(4000)
    async with Api() as api, stream.daemon(api, window=f'span = "{span}"') as daemon:
        await until(lambda: len(api.delivered()) == 4000, "4000 records")
        status = await daemon.status_when(lambda status: status["totals"]["delivered"] == 4000)
        assert await daemon.stop() == 0
        assert api.delivered() == exactly_once(4, 1000)
        assert len(api.calls) <= 50, "4000 records in windows of 100 need about 40 requests"
        for partition in range(4):
            assert api.order(partition) == list(range(1000))
    assert await stream.checkpoints() == dict.fromkeys(range(4), 1000)
    assert status["state"] == "running"


async def test_a_restart_goes_on_from_the_checkpoint(stream: Stream) -> None:
    await stream.produce(400)
    async with Api() as api, stream.daemon(api, kafka='group_instance_id = "a"') as daemon:
        await until(lambda: len(api.delivered()) == 400, "the first 400 records")
        assert await daemon.stop() == 0
        await stream.produce(400, start=400)
        await daemon.start()
        await until(lambda: len(api.delivered()) == 800, "the next 400 records")
        assert await daemon.stop() == 0
        assert api.delivered() == exactly_once(4, 200)


async def test_a_kill_loses_nothing_and_repeats_nothing_that_was_committed(
    stream: Stream,
) -> None:
    await stream.produce(2000)

    async def hold_the_tenth(_: Call) -> web.Response | None:
        if len(api.calls) == 10:
            await anyio.sleep_forever()
        return None

    async with (
        Api(hold_the_tenth) as api,
        stream.daemon(api, kafka='group_instance_id = "a"') as daemon,
    ):
        await until(lambda: len(api.calls) == 10, "the tenth request")
        with anyio.fail_after(60):
            while sum((await stream.checkpoints()).values()) < api.delivered().total():
                await anyio.sleep(0.02)
        await daemon.kill()
        await daemon.start()
        await until(lambda: len(api.delivered()) == 2000, "2000 records")
        assert await daemon.stop() == 0
    assert api.delivered() == exactly_once(4, 500), "the open batch was never accepted before"
    assert await stream.checkpoints() == dict.fromkeys(range(4), 500)


async def test_partitions_move_between_two_daemons_in_both_directions(stream: Stream) -> None:
    async with Api() as api, stream.daemon(api) as first:
        await first.ready()
        await stream.produce(1000)
        await until(lambda: len(api.delivered()) == 1000, "1000 records by one daemon")
        async with stream.daemon(api) as second:
            await until(
                lambda: len(first.events("revoked")) == 1, "the first one gives up some", 60
            )
            await second.ready()
            await stream.produce(1000, start=1000)
            await until(lambda: len(api.delivered()) == 2000, "1000 more by both")
            assert (await first.status())["totals"]["delivered"] < 2000
            assert (await second.status())["totals"]["delivered"] > 0
            assert len((await second.status())["partitions"]) == 2
            assert await second.stop() == 0
        await until(lambda: len(first.events("assigned")) >= 3, "the first one has all again", 60)
        await stream.produce(1000, start=2000)
        await until(lambda: len(api.delivered()) == 3000, "1000 more by the first one")
        assert await first.stop() == 0
    assert api.delivered() == exactly_once(4, 750), "a rebalance repeats nothing that was done"
    assert await stream.checkpoints() == dict.fromkeys(range(4), 750)


async def test_poison_is_buried_with_its_bytes_and_the_line_goes_on(stream: Stream) -> None:
    header = [("trace", b"\x00\xff"), ("trace", b"again")]
    hour_ago = int(time.time() * 1000) - 3_600_000  # within any retention, which goes by it
    good = [Message(b'{"n":%d}' % n, partition=0) for n in range(50)]
    poison = [
        Message(b"{not json", b"k1", header, partition=0, timestamp_ms=hour_ago),
        Message(b"\xff\xfe", None, partition=0),
        Message(b'{"refuse":"me"}', b"\xff", partition=0),
        Message(b'{"refuse":"me"}', b"k4", header, partition=0),
    ]
    await stream.broker.produce(stream.topic, [*good, *poison, *good])

    async def refuse(call: Call) -> web.Response | None:
        bad = any("refuse" in item["v"] for item in call.items)
        return web.Response(status=422, text="no") if bad else None

    async with Api(refuse) as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 100, "100 good records")
        await until(lambda: len(daemon.events("dead_lettered")) >= 2, "the burials")
        assert await daemon.stop() == 0
        assert all(times == 1 for times in api.delivered().values())
    letters = {letter.value: letter for letter in await stream.broker.read(stream.dead)}
    first, headers = letters[b"{not json"], dict(letters[b"{not json"].headers)
    assert (first.key, first.timestamp) == (b"k1", hour_ago)
    assert first.headers[:2] == tuple(header)
    assert headers["sluiced.reason"] == b"invalid"
    assert headers["sluiced.attempts"] == b"0"
    assert headers["__connect.errors.stage"] == b"VALUE_CONVERTER"
    assert headers["__connect.errors.topic"] == stream.topic.encode()
    assert headers["__connect.errors.partition"] == b"0"
    assert headers["__connect.errors.offset"] == b"50"
    assert headers["__connect.errors.connector.name"] == b"pages"
    assert headers["sluiced.group"] == stream.group.encode()
    assert "sluiced.status" not in headers
    assert "sluiced.batch" not in headers
    assert letters[b"\xff\xfe"].key is None
    refused = [x for x in await stream.broker.read(stream.dead) if x.value == b'{"refuse":"me"}']
    reasons = {letter.key: dict(letter.headers)["sluiced.reason"] for letter in refused}
    assert reasons == {b"\xff": b"invalid", b"k4": b"rejected"}, "a key must be text for $key"
    sealed = dict(next(x for x in refused if x.key == b"k4").headers)
    assert sealed["sluiced.status"] == b"422"
    assert sealed["__connect.errors.stage"] == b"TASK_PUT"
    assert int(sealed["sluiced.attempts"]) > 1
    assert sealed["sluiced.batch"].decode() in {call.key for call in api.calls}
    assert (await stream.checkpoints())[0] == 104


async def test_a_sink_that_is_down_for_a_while_delays_and_loses_nothing(stream: Stream) -> None:
    down = True

    async def fail(call: Call) -> web.Response | None:
        return web.Response(status=503) if down else None

    await stream.produce(400)
    async with Api(fail) as api, stream.daemon(api) as daemon:
        await until(lambda: len(daemon.events("sink_outage")) == 1, "an outage")
        code, text = await daemon.get("/readyz")
        assert (code, "outage" in text) == (503, True)
        assert (await daemon.get("/livez"))[0] == 200
        assert "sluiced_sink_up" in (await daemon.get("/metrics"))[1]
        assert await stream.checkpoints() == {}, "nothing was delivered, so nothing is committed"
        down = False
        await until(lambda: len(api.delivered()) == 400, "400 records")
        await daemon.ready()
        assert await daemon.stop() == 0
        assert api.delivered() == exactly_once(4, 100)
        keys = [call.key for call in api.calls]
        assert keys[0] == keys[1], "the same batch goes again under the same id"
    assert await stream.broker.read(stream.dead) == []


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_each_compression_codec_is_read(stream: Stream, codec: str) -> None:
    await stream.broker.produce(
        stream.topic,
        [Message(b'{"n":%d}' % n, partition=n % 4) for n in range(200)],
        compression_type=codec,
    )
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 200, "200 records")
        assert await daemon.stop() == 0
        assert api.delivered() == exactly_once(4, 50)


@pytest.mark.parametrize(
    ("policy", "delivered", "buried"), [("skip", 2, 0), ("dead-letter", 2, 1), ("send", 3, 0)]
)
async def test_a_tombstone_goes_where_the_configuration_says(
    stream: Stream, policy: str, delivered: int, buried: int
) -> None:
    values = [b"1", None, b"2"]
    await stream.broker.produce(stream.topic, [Message(v, b"k", partition=0) for v in values])
    async with Api() as api, stream.daemon(api, record=f'on_tombstone = "{policy}"') as daemon:
        await until(lambda: len(api.delivered()) == delivered, "the records")
        assert await daemon.stop() == 0
        sent = {item["o"]: item["v"] for call in api.accepted for item in call.items}
        assert sent == ({0: 1, 2: 2} | ({1: None} if policy == "send" else {}))
    assert len(await stream.broker.read(stream.dead)) == buried
    assert (await stream.checkpoints())[0] == 3, "the offset advances in every case"


async def test_a_record_of_900_kilobytes_travels(stream: Stream) -> None:
    value = b'"' + b"x" * 900_000 + b'"'
    small = Message(b"1", partition=0)
    async with stream.broker.producer(max_request_size=2_000_000) as producer:
        await producer.send_and_wait(stream.topic, value, partition=0)
    await stream.broker.produce(stream.topic, [small])
    async with Api() as api, stream.daemon(api, window='max_bytes = "100KB"') as daemon:
        await until(lambda: len(api.delivered()) == 2, "both records")
        assert await daemon.stop() == 0
        assert len(api.calls) == 2, "larger than the window's cap, it travels alone"
        assert api.calls[0].items[0]["v"] == "x" * 900_000


async def test_sigterm_drains_what_is_open_and_commits(stream: Stream) -> None:
    await stream.produce(8)
    async with Api() as api, stream.daemon(api, max_age="1h") as d:
        await d.ready()
        with anyio.fail_after(60):
            while (await d.status())["window"]["records"] < 8:
                await anyio.sleep(0.02)
        assert api.calls == []
        assert await d.stop() == 0
        assert api.delivered() == exactly_once(4, 2)
    assert await stream.checkpoints() == dict.fromkeys(range(4), 2)


async def test_a_stop_waits_no_longer_for_a_start_that_nobody_answers_than_for_a_drain(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = f"127.0.0.1:{silent.getsockname()[1]}"
        named = {"bootstrap": broker, "group": "g", "topic": "pages", "dead": "pages.dead"}
        async with Daemon(tmp_path, url="http://127.0.0.1:1/bulk", drain="1s", **named) as daemon:
            asked, _ = await anyio.to_thread.run_sync(silent.accept)
            with asked:
                assert await daemon.stop() == 0
    events = [line["event"] for line in told(daemon.log) if line["event"] != "configuration"]
    assert events == ["starting", "signal", "stopped"]


async def test_a_second_signal_aborts_without_a_commit(stream: Stream) -> None:
    async def hang(_: Call) -> web.Response | None:
        await anyio.sleep_forever()
        return None

    await stream.produce(4)
    async with Api(hang) as api, stream.daemon(api, drain="60s") as daemon:
        await until(lambda: len(api.calls) == 1, "a request")
        daemon.signal(signal.SIGTERM)
        await until(lambda: len(daemon.events("draining")) == 1, "the drain")
        daemon.signal(signal.SIGTERM)
        assert await daemon.ended(40) != 0
    assert await stream.checkpoints() == {}


async def test_a_drain_ends_at_its_deadline_and_commits_only_what_is_done(stream: Stream) -> None:
    async def hang_later(_: Call) -> web.Response | None:
        if len(api.calls) > 1:
            await anyio.sleep_forever()
        return None

    await stream.broker.produce(stream.topic, [Message(b"1", partition=0)])
    async with Api(hang_later) as api, stream.daemon(api, drain="2s") as daemon:
        await until(lambda: len(api.accepted) == 1, "the first record")
        await stream.broker.produce(stream.topic, [Message(b"2", partition=0)])
        await until(lambda: len(api.calls) == 2, "the second request")
        assert await daemon.stop() == 0
        assert len(daemon.events("batch_abandoned")) == 1
    assert await stream.checkpoints() == {0: 1}


async def test_too_many_refusals_halt_the_line_until_sighup(stream: Stream) -> None:
    refusing = True

    async def refuse(_: Call) -> web.Response | None:
        return web.Response(status=400) if refusing else None

    await stream.produce(40)
    brake = "max_ratio = 0.5\nmax_ratio_window = 20"
    async with Api(refuse) as api, stream.daemon(api, dead_letter=brake) as daemon:
        await until(lambda: len(daemon.events("pipeline_halted")) == 1, "the halt")
        code, text = await daemon.get("/readyz")
        assert (code, "max_ratio" in text) == (503, True)
        assert (await daemon.status())["state"] == "halted"
        buried = len(await stream.broker.read(stream.dead))
        assert buried <= 10
        refusing = False
        daemon.signal(signal.SIGHUP)
        await until(lambda: len(api.delivered()) == 40 - buried, "the rest")
        assert await daemon.stop() == 0
    assert sum((await stream.checkpoints()).values()) == 40


async def test_a_missing_dead_letter_topic_is_refused_at_the_start(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    async with Api() as api, stream.daemon(api, dead="nowhere.dead") as daemon:
        assert await daemon.ended() == 1
        assert "nowhere.dead does not exist" in daemon.log
        assert "Traceback" not in daemon.log


async def test_a_checkpoint_that_fell_off_the_log_stops_the_daemon_with_the_lost_range(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(400)
    await kafka.commit(stream.group, stream.topic, {2: (10, "")})
    await kafka.delete_records(stream.topic, 2, 50)
    async with Api() as api, stream.daemon(api) as daemon:
        assert await daemon.ended() == 3
        assert f"{stream.topic}/2: records 10 to 49 were deleted" in daemon.log
        assert "Traceback" not in daemon.log
    assert await stream.checkpoints() == {2: 10}


async def test_aborted_transactions_are_not_delivered_and_are_passed_over(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)

    async def write(values: list[bytes], end: str) -> None:
        async with kafka.producer(transactional_id=unique("tx")) as producer:
            await producer.begin_transaction()
            for value in values:
                await producer.send_and_wait(stream.topic, value, partition=0)
            await (
                producer.commit_transaction() if end == "commit" else producer.abort_transaction()
            )

    await write([b"1", b"2"], "commit")
    await write([b"3", b"4"], "abort")
    await write([b"5"], "commit")
    await write([b"6"], "abort")
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: len(api.delivered()) == 3, "the committed records")
        ends = await kafka.end_offsets(stream.topic)
        with anyio.fail_after(60):
            while (await stream.checkpoints()).get(0) != ends[0]:
                await anyio.sleep(0.1)
        assert await daemon.stop() == 0
        assert [item["v"] for call in api.accepted for item in call.items] == [1, 2, 5]


async def test_a_dead_letter_that_the_broker_finds_too_large_becomes_a_stub(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = Stream(kafka, tmp_path, unique("pages"), unique("group"))
    await kafka.create_topic(stream.topic)
    await kafka.create_topic(stream.dead, config={"max.message.bytes": "20000"})
    values = [b"not json", b"not json either" * 10_000, b"nor this"]
    await kafka.produce(stream.topic, [Message(v, b"k") for v in values])
    async with Api() as api, stream.daemon(api) as daemon:
        with anyio.fail_after(60):
            while (await stream.checkpoints()).get(0) != 3:
                await anyio.sleep(0.1)
        assert await daemon.stop() == 0
    letters = await kafka.read(stream.dead)
    stubs = [x for x in letters if "sluiced.stub" in dict(x.headers)]
    assert sorted(x.value for x in letters if x not in stubs) == [b"nor this", b"not json"]
    assert [x.value for x in stubs] == [
        b'{"topic":"%s","partition":0,"offset":1,"size":150000}' % stream.topic.encode()
    ]


async def test_check_connect_names_what_it_reached_or_what_is_missing(
    kafka: Kafka, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)

    async def check(api: Api, **values: str) -> tuple[int, str]:
        path = stream.daemon(api, **values).path
        command = [sys.executable, "-m", "sluiced", "check", str(path), "--connect"]
        done = await anyio.run_process(command, check=False, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout.decode()

    async with Api() as api:
        code, text = await check(api)
        assert code == 0
        assert f"topic {stream.topic}: 4 partitions" in text
        code, text = await check(api, dead="nowhere.dead")
        assert (code, "nowhere.dead does not exist" in text) == (2, True)
        assert api.calls == [], "nothing is sent"
    code, text = await check(api)
    assert (code, "cannot reach the sink at http://127.0.0.1" in text) == (2, True)
    assert "Traceback" not in text

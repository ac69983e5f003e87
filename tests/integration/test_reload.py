"""The real daemon is told to read its file again, while records go through it."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from brokers.base import Broker
from harness.api import Api, Call
from harness.daemon import Daemon, until
from harness.stream import Stream, exactly_once, make_stream

pytestmark = pytest.mark.anyio

SUCCESSFUL = 'sluiced_config_last_reload_successful{pipeline="pages"}'


@pytest.fixture
async def stream(broker: Broker, tmp_path: Path) -> Stream:
    return await make_stream(broker, tmp_path)


def edit(daemon: Daemon, *replacements: tuple[str, str]) -> None:
    text = daemon.path.read_text()
    for old, new in replacements:
        assert text.count(old) == 1, f"{old} is not in the file just once"
        text = text.replace(old, new)
    daemon.path.write_text(text)


async def reloaded(daemon: Daemon, *replacements: tuple[str, str], event: str = "reloaded") -> str:
    """Edits the file, sends SIGHUP and waits for what the daemon says to it."""
    edit(daemon, *replacements)
    before = len(daemon.events(event))
    daemon.signal(signal.SIGHUP)
    await until(lambda: len(daemon.events(event)) > before, event)
    return str(daemon.events(event)[-1].get("error", ""))


async def successful(daemon: Daemon) -> float:
    [line] = [x for x in (await daemon.get("/metrics"))[1].splitlines() if SUCCESSFUL in x]
    return float(line.split()[-1])


async def slowly(_: Call) -> web.Response | None:
    await anyio.sleep(0.01)
    return None


async def test_windows_change_under_load_and_no_record_is_lost_or_doubled(stream: Stream) -> None:
    total, size = 0, 100
    held = anyio.Event()
    held.set()

    async def hold(call: Call) -> web.Response | None:
        await held.wait()
        return await slowly(call)

    async with Api(hold) as api, stream.daemon(api, max_records=f"{size}") as daemon:
        for new in (7, 250):
            await stream.produce(1000, start=total)
            await until(lambda n=total: len(api.delivered()) > n, "some of the records")
            await reloaded(daemon, (f"max_records = {size}\n", f"max_records = {new}\n"))
            await until(lambda n=total: len(api.delivered()) == n + 1000, "all of them")
            calls, held = len(api.calls), anyio.Event()
            await stream.produce(1000, start=total + 1000)
            # Behind a request that takes long a window fills up, however slowly records come.
            await daemon.status_when(lambda status: status["queued_batches"])
            held.set()
            await until(lambda n=total: len(api.delivered()) == n + 2000, "as many again")
            assert max(len(call.items) for call in api.calls[calls:]) == new
            total, size = total + 2000, new
        assert await daemon.stop() == 0
    assert api.delivered() == exactly_once(4, 1000)
    assert sum((await stream.checkpoints()).values()) == 4000


async def test_many_signals_at_once_under_load_change_nothing(stream: Stream) -> None:
    async with Api(slowly) as api, stream.daemon(api, limits="max_in_flight = 3") as daemon:
        await stream.produce(4000)
        await until(lambda: api.accepted, "the first delivery")
        signals = 0
        # Those that come before it has looked are one to it.
        while signals < 100 or len(daemon.events("reloaded")) < 2:
            daemon.signal(signal.SIGHUP)
            signals += 1
            await anyio.sleep(0.005)
        await until(lambda: len(api.delivered()) == 4000, "4000 records")
        assert daemon.events("reload_refused") == []
        assert await daemon.stop() == 0
    assert api.delivered() == exactly_once(4, 1000)


async def test_a_rotated_secret_goes_with_the_next_request(stream: Stream, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("f1rst")
    header = f'headers = {{ Authorization = {{ file = "{token}" }} }}'
    async with Api() as api, stream.daemon(api, sink=header) as daemon:
        await stream.produce(1)
        await until(lambda: len(api.calls) == 1, "the first request")
        token.write_text("s3cond")
        await reloaded(daemon)
        await stream.produce(1, start=1)
        await until(lambda: len(api.calls) == 2, "the second request")
        token.unlink()
        refusal = await reloaded(daemon, event="reload_refused")
        assert "sink.headers.Authorization" in refusal
        await stream.produce(1, start=2)
        await until(lambda: len(api.calls) == 3, "the third request, with the secret it has")
        assert await daemon.stop() == 0
        assert not [secret for secret in ("f1rst", "s3cond") if secret in daemon.log]
    assert [call.headers["Authorization"] for call in api.calls] == ["f1rst", "s3cond", "s3cond"]


async def test_an_outage_ends_where_the_file_names_another_address(stream: Stream) -> None:
    async with Api() as api, stream.daemon(api, url="http://127.0.0.1:9/bulk") as daemon:
        await stream.produce(40)
        await until(lambda: daemon.events("sink_outage"), "the outage")
        await reloaded(daemon, ("http://127.0.0.1:9/bulk", api.url))
        await until(lambda: len(api.delivered()) == 40, "40 records")
        assert await daemon.stop() == 0
    assert api.delivered() == exactly_once(4, 10)


async def test_a_change_that_needs_a_restart_is_refused_by_name_and_works_after_one(
    stream: Stream,
) -> None:
    async with Api() as api, stream.daemon(api, record='format = "json"') as daemon:
        await daemon.ready()
        refusal = await reloaded(
            daemon,
            ('format = "json"\n\n[window]', 'format = "text"\n\n[window]'),
            ("max_records = 100", 'max_records = 5\nspan = "partition"'),
            ('idempotency_header = "Idempotency-Key"', 'idempotency_header = "X-Key"'),
            event="reload_refused",
        )
        keys = "sink.idempotency_header, record.format, window.span"
        assert f"these need a restart: {keys}\n" in refusal
        assert "max_records" not in refusal
        assert await successful(daemon) == 0
        status = await daemon.status()
        assert status["reload"]["error"] == refusal
        assert status["window"]["max_records"] == 100
        await stream.produce(400)
        await until(lambda: len(api.delivered()) == 400, "400 records as before")
        assert max(len(call.items) for call in api.calls) > 5
        assert {call.headers.get("X-Key") for call in api.calls} == {None}
        assert await daemon.stop() == 0
        await daemon.start()
        await daemon.ready()
        assert await successful(daemon) == 1
        assert (await daemon.status())["window"]["max_records"] == 5
        assert await daemon.stop() == 0


async def test_a_broken_file_is_told_until_it_is_mended(stream: Stream) -> None:
    async with Api() as api, stream.daemon(api) as daemon:
        await daemon.ready()
        refusal = await reloaded(
            daemon, ("max_records = 100", "max_record = 50"), event="reload_refused"
        )
        assert "did you mean max_records?" in refusal
        assert await successful(daemon) == 0
        assert (await daemon.status())["reload"]["error"] == refusal
        assert (await daemon.get("/readyz"))[0] == 200, "it works as it did"
        await reloaded(daemon, ("max_record = 50", "max_records = 50"))
        assert await successful(daemon) == 1
        status = await daemon.status()
        assert (status["reload"]["successful"], status["reload"]["error"]) == (True, None)
        assert status["window"]["max_records"] == 50
        assert await daemon.stop() == 0


async def test_a_halt_outlasts_a_refused_reload_and_is_lifted_by_a_good_one(
    stream: Stream,
) -> None:
    refusing = True

    async def refuse(_: Call) -> web.Response | None:
        return web.Response(status=400) if refusing else None

    await stream.produce(40)
    brake = "max_ratio = 0.1\nmax_ratio_window = 10"
    async with Api(refuse) as api, stream.daemon(api, dead_letter=brake) as daemon:
        await until(lambda: daemon.events("pipeline_halted"), "the halt")
        refusing = False
        await reloaded(daemon, ("max_records = 100", "max_records = 0"), event="reload_refused")
        assert (await daemon.status())["state"] == "halted"
        await reloaded(daemon, ("max_records = 0", "max_records = 100"))
        await until(lambda: len(api.delivered()) >= 39, "the rest")
        assert await daemon.stop() == 0


async def test_the_log_follows_its_level(stream: Stream) -> None:
    async with Api() as api, stream.daemon(api) as daemon:
        await stream.produce(4)
        await until(lambda: daemon.events("batch_answered"), "a line of level debug")
        await reloaded(daemon, ('level = "debug"', 'level = "info"'))
        told = len(daemon.events("batch_answered"))
        await stream.produce(4, start=4)
        await until(lambda: len(api.delivered()) == 8, "8 records")
        assert await daemon.stop() == 0
        assert len(daemon.events("batch_answered")) == told
        assert daemon.events("drained")


async def test_a_signal_during_the_start_is_answered_once_the_daemon_is_ready(
    stream: Stream,
) -> None:
    async with Api() as api, stream.daemon(api) as daemon:
        await until(lambda: daemon.events("starting"), "the start")
        daemon.signal(signal.SIGHUP)
        await until(lambda: daemon.events("reloaded"), "the reload")
        names = [e for e in ("ready", "reloaded") for _ in daemon.events(e)]
        assert names == ["ready", "reloaded"]
        await stream.produce(4)
        await until(lambda: len(api.delivered()) == 4, "4 records")
        assert await daemon.stop() == 0


async def test_a_signal_during_the_drain_does_not_disturb_it(stream: Stream) -> None:
    draining = anyio.Event()

    async def wait(_: Call) -> None:
        await draining.wait()

    async with Api(wait) as api, stream.daemon(api, drain="60s") as daemon:
        await stream.produce(40)
        await until(lambda: api.calls, "a request")
        await daemon.status_when(lambda status: status["totals"]["consumed"] == 40)
        edit(daemon, ("max_records = 100", "max_records = 1"))
        daemon.signal(signal.SIGTERM)
        await until(lambda: daemon.events("draining"), "the drain")
        for _ in range(3):
            daemon.signal(signal.SIGHUP)
        await until(lambda: len(daemon.events("signal")) > 1, "it has heard")
        draining.set()
        assert await daemon.ended() == 0
        assert daemon.events("reloaded") == daemon.events("reload_refused") == []
    assert api.delivered() == exactly_once(4, 10)
    assert sum((await stream.checkpoints()).values()) == 40

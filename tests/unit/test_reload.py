"""What a new configuration may change in a pipeline that runs, and what not. Virtual time."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import structlog
from msgspec.structs import fields
from trio.testing import MockClock

from fakes import P0, P1, FakeRecord, FakeSink, Log, Rig, after, hang, judge, until
from job_fakes import FakeJobSink
from sluiced.batch import Batch, Run
from sluiced.burial import Ratio
from sluiced.config import Config
from sluiced.errors import ConfigError
from sluiced.outcome import Again, Fate
from sluiced.reload import RULES, Reload, changes, memory, needing_restart, rule_of
from sluiced.sinks.switch import Switch
from sluiced.units import Settings, decode

pytestmark = pytest.mark.anyio

DOCS = Path(__file__).parents[2] / "docs/configuration.md"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with warnings.catch_warnings():
        yield
        logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def table(**blocks: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": "pages",
        "kafka": {"bootstrap_servers": ["127.0.0.1:9092"], "group_id": "g", "topics": ["pages"]},
        "sink": {"type": "http", "url": "http://127.0.0.1:1/bulk", "idempotency_header": "K"},
        "dead_letter": {"topic": "pages.dead", "max_ratio": 1.0},
        "window": {"max_records": 10},
    }
    for name, keys in blocks.items():
        made[name] = {**made.get(name, {}), **keys}
    return made


def config(**blocks: dict[str, Any]) -> Config:
    return msgspec.convert(table(**blocks), Config, strict=True, dec_hook=decode)


def running_by(settings: Config, sink: FakeSink | None = None) -> tuple[Rig, Reload]:
    rig = Rig(
        sink,
        Log(P0, P1),
        window=settings.window,
        retry=settings.retry,
        dead_letter=settings.dead_letter,
        max_in_flight=settings.limits.max_in_flight,
        memory=memory(settings)[0],
    )
    return rig, Reload(
        settings,
        pipeline=rig.pipeline,
        sink=rig.switch,
        dead_letters=None,
        status=rig.status,
        metrics=rig.metrics,
    )


def sizes(*sinks: FakeSink) -> list[int]:
    return [len(request.batch) for sink in sinks for request in sink.requests]


def delivered(*sinks: FakeSink) -> list[int]:
    """Offsets of the first partition, in the order of the requests."""
    return [offset for sink in sinks for offsets in sink.offsets for offset in offsets]


# What needs a restart


def keys_of(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    if tag := kind.__struct_config__.tag_field:
        yield prefix + tag
    for info in fields(kind):
        members = (info.type, *getattr(info.type, "__args__", ()))
        nested = [k for k in members if isinstance(k, type) and issubclass(k, Settings)]
        for each in nested:
            yield from keys_of(each, f"{prefix}{info.encode_name}.")
        if not nested:
            yield prefix + info.encode_name


def test_every_key_of_the_configuration_has_a_rule_and_no_rule_is_for_nothing() -> None:
    keys = list(keys_of(Config))
    assert [key for key in keys if rule_of(key) is None] == []
    assert [r for r in RULES if not any(f"{k}.".startswith(f"{r}.") for k in keys)] == []


def test_what_is_in_no_list_needs_a_restart() -> None:
    assert needing_restart({"results.topic": (None, "pages.results")}) == ["results.topic"]


async def test_a_number_may_become_one_that_is_found_out_and_back() -> None:
    rig, reload = running_by(config())
    auto = {"limits": {"max_in_flight": "auto"}, "window": {"max_records": "auto"}}
    rig.log.append(*[b"{}"] * 500)
    async with rig.running():
        await until(lambda: len(sizes(rig.sink)) == 50)
        rig.sink.heir = heir = FakeSink()
        await reload.use(config(**auto))
        rig.log.append(*[b"{}"] * 500)
        await until(lambda: sum(sizes(heir)) == 500)
        assert sizes(heir)[0] == 100
        heir.heir = last = FakeSink()
        await reload.use(config())
        rig.log.append(*[b"{}"] * 50)
        await until(lambda: sizes(last) == [10] * 5)


async def test_a_budget_is_live_and_so_is_the_absence_of_one() -> None:
    slow = config(limits={"requests_per_hour": 2})
    rig, reload = running_by(slow)
    rig.sink.heir = heir = FakeSink()
    rig.gate.adopt(slow.limits, anyio.current_time())
    rig.log.append(*[b"{}"] * 40)
    async with rig.running():
        await anyio.sleep(60)
        assert sizes(rig.sink) == []
        await reload.use(config())
        await until(lambda: sizes(rig.sink, heir) == [10, 10, 10, 10], 5)


def test_the_documentation_lists_the_same_keys_as_the_rules() -> None:
    section = DOCS.read_text().partition("## What `SIGHUP` changes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", section, re.M)
    told = {key: answer for keys, answer in rows for key in re.findall(r"`([a-z_.]+)`", keys)}
    assert told.keys() == RULES.keys()
    words = {"_never": "live", "_always": "restart"}
    for key, answer in told.items():
        expected = words.get(RULES[key].__name__, "restart where")
        assert answer.startswith(expected), key


REFUSED = {
    "name": "",
    "kafka.topics": ["pages", "posts"],
    "kafka.tls": {},
    "record.id": "$key",
    "window.span": "partition",
    "window.collapse": True,
    "sink.url": "http://127.0.0.1:1/bulk?dedup=$batch_id",
    "sink.method": "PUT",
    "sink.max_records": 999,
    "sink.max_bytes": "9MiB",
    "sink.compression": "gzip",
    "sink.identifies": "none",
    "sink.idempotency_header": "Idempotency-Key",
    "sink.idempotency_quoted": True,
    "sink.body.item": "$id",
    "sink.response.id": "/id",
    "dead_letter.topic": "others.dead",
    "admin.listen": "127.0.0.1:1",
    "shutdown.drain": "31s",
}
TAKEN = {
    "window.max_records": 5,
    "window.max_bytes": "1MiB",
    "window.max_age": "1s",
    "sink.url": "http://127.0.0.1:2/bulk",
    "sink.timeout": "1s",
    "sink.connect_timeout": "1s",
    "sink.max_records": 1001,
    "sink.max_bytes": "11MiB",
    "sink.headers.X-Name": "pages",
    "sink.response.error": "/error",
    "retry.max_delay": "1s",
    "limits.memory": "64MiB",
    "limits.max_in_flight": 2,
    "limits.records_per_minute": 6000,
    "limits.most_in_flight": 8,
    "limits.share": "group",
    "sink.response.usage": "/usage",
    "dead_letter.max_ratio": 0.5,
    "dead_letter.max_ratio_window": 10,
    "dead_letter.too_large": "halt",
    "shutdown.drain": "29s",
    "log.level": "debug",
}

ITEMS = {"items": "/items", "status": "/status"}


def changed(key: str, value: object) -> Config:
    """The usual configuration but for one key."""
    made = table(sink={"response": dict(ITEMS), "body": {}, "headers": {}})
    *parents, last = key.split(".")
    at = made
    for parent in parents:
        at = at.setdefault(parent, {})
    at[last] = value
    return msgspec.convert(made, Config, strict=True, dec_hook=decode)


@pytest.mark.parametrize("key", REFUSED)
def test_a_change_that_a_running_daemon_cannot_follow_is_named(key: str) -> None:
    before = config(sink={"response": ITEMS})
    assert needing_restart(changes(before, changed(key, REFUSED[key]))) == [key]


@pytest.mark.parametrize("key", TAKEN)
def test_a_change_that_it_can_follow_is_not(key: str) -> None:
    differing = changes(config(sink={"response": ITEMS}), changed(key, TAKEN[key]))
    assert list(differing) == [key]
    assert needing_restart(differing) == []


def test_a_header_that_names_the_batch_needs_a_restart_to_come_and_to_go() -> None:
    without = config()
    named = config(sink={"headers": {"X-Batch": "$batch_id", "X-Name": "pages"}})
    for before, after_ in ((without, named), (named, without)):
        assert needing_restart(changes(before, after_)) == ["sink.headers.X-Batch"]


def test_an_error_shape_is_live_unless_it_matches_by_id() -> None:
    plain = config(sink={"response": {**ITEMS, "on_error": ITEMS}})
    by_id = config(sink={"response": {**ITEMS, "on_error": {**ITEMS, "id": "/id"}}})
    assert needing_restart(changes(config(), plain)) == []
    for before in (config(), plain):
        assert needing_restart(changes(before, by_id)) == ["sink.response.on_error.id"]


async def test_a_refused_change_names_all_its_keys_and_changes_nothing() -> None:
    rig, reload = running_by(config())
    async with rig.running():
        rig.halt.set("too much was refused")
        new = config(window={"max_records": 3, "span": "partition"}, record={"format": "text"})
        with pytest.raises(ConfigError) as caught:
            await reload.use(new)
        assert "these need a restart: record.format, window.span" in str(caught.value)
        assert "max_records" not in str(caught.value)
        assert rig.pipeline.buffer.windows.settings.max_records == 10
        assert rig.switch.current is rig.sink
        assert rig.halt.reason == "too much was refused", "a halt is not lifted either"
        await reload.use(config(window={"max_records": 3}))
        assert rig.halt.reason is None


async def test_the_next_reload_is_compared_with_what_is_in_force_now() -> None:
    _, reload = running_by(config())
    assert await reload.use(config(sink={"max_records": 2000})) == ["sink.max_records"]
    assert await reload.use(config(sink={"max_records": 2000})) == []
    with pytest.raises(ConfigError):
        await reload.use(config())


async def test_a_sink_that_cannot_be_opened_changes_nothing() -> None:
    class Locked(FakeSink):
        async def open(self) -> None:
            raise ConfigError("sink.headers.Authorization: it is not there")

    rig, reload = running_by(config())
    rig.sink.heir = Locked()
    async with rig.running():
        with pytest.raises(ConfigError):
            await reload.use(config(window={"max_records": 3}))
        assert rig.switch.current is rig.sink
        assert reload.config == config()
        assert rig.pipeline.buffer.windows.settings.max_records == 10


# Windows


async def test_an_open_window_is_cut_anew_and_nothing_is_lost_or_doubled() -> None:
    rig, reload = running_by(config(window={"max_age": "1h"}))
    async with rig.running():
        rig.log.append(*[b"1"] * 8)
        await until(lambda: rig.pipeline.buffer.records == 8)
        await reload.use(config(window={"max_age": "1h", "max_records": 3}))
        await until(lambda: rig.committed == 6)
        rig.log.append(*[b"1"] * 4)
        await until(lambda: rig.committed == 12)
    assert sizes(rig.switch.current) == [3, 3, 3, 3]
    assert delivered(rig.switch.current) == list(range(12))


async def test_a_window_keeps_its_age_under_a_new_one() -> None:
    rig, reload = running_by(config(window={"max_age": "1h"}))
    async with rig.running():
        await anyio.sleep(1.0)
        rig.log.append(b"1")
        await anyio.sleep(60.0)
        await reload.use(config(window={"max_age": "90s"}))
        await until(lambda: rig.switch.current.requests)
        assert 91.0 <= rig.switch.current.times[0] < 91.5


async def test_a_wider_window_goes_on_filling() -> None:
    rig, reload = running_by(config(window={"max_age": "1h"}))
    async with rig.running():
        rig.log.append(*[b"1"] * 8)
        await until(lambda: rig.pipeline.buffer.records == 8)
        await reload.use(config(window={"max_age": "1h", "max_records": 20}))
        rig.log.append(*[b"1"] * 12)
        await until(lambda: rig.committed == 20)
    assert sizes(rig.switch.current) == [20]


async def test_batches_that_are_closed_keep_their_boundaries() -> None:
    sink = FakeSink(after(10.0))
    rig, reload = running_by(config(), sink)
    async with rig.running():
        rig.log.append(*[b"1"] * 25)
        await until(lambda: len(rig.pipeline.buffer.waiting) == 1)
        waiting = [batch.id for batch in rig.pipeline.buffer.waiting]
        await reload.use(config(window={"max_records": 4}))
        await until(lambda: rig.committed == 25)
    new = rig.switch.current
    assert [request.batch.id for request in new.requests][:1] == waiting
    assert sizes(sink, new)[:2] == [10, 10]
    assert max(sizes(new)[1:]) <= 4
    assert delivered(sink, new) == list(range(25))


# The sink


async def test_a_request_under_way_ends_where_it_began_and_the_next_goes_to_the_new_sink() -> None:
    old, new = FakeSink(after(10.0)), FakeSink()
    old.heir = new
    rig, reload = running_by(config(), old)
    async with rig.running():
        rig.log.append(*[b"1"] * 20)
        await until(lambda: old.busy)
        await reload.use(config(sink={"timeout": "60s"}))
        assert not old.closed, "not before its last request has ended"
        await until(lambda: rig.committed == 20)
        assert old.closed
        assert not new.closed
    assert (old.offsets, new.offsets) == ([list(range(10))], [list(range(10, 20))])


async def test_a_batch_in_an_outage_is_tried_again_at_the_new_sink_under_its_own_id() -> None:
    old, new = FakeSink(then=Again("status", "401", outage=True)), FakeSink()
    old.heir = new
    rig, reload = running_by(config(), old)
    async with rig.running():
        rig.log.append(*[b"1"] * 10)
        await until(lambda: rig.status.state()[0] == "outage")
        await reload.use(config())
        assert old.closed, "at once, since no request is under way"
        await until(lambda: rig.committed == 10)
    assert {r.batch.id for r in old.requests} == {r.batch.id for r in new.requests}


class HeldJobSink(FakeJobSink):
    """One that answers when it is let."""

    identifies = "batch"

    def __init__(self) -> None:
        super().__init__()
        self.let, self.closed = anyio.Event(), False

    async def submit(self, batch: Batch, name: str) -> Any:
        await self.let.wait()
        assert not self.closed
        return await super().submit(batch, name)

    async def close(self) -> None:
        self.closed = True


async def test_a_submission_under_way_ends_at_the_sink_where_it_began() -> None:
    old, new = HeldJobSink(), HeldJobSink()
    switch: Switch[Any] = Switch(old)
    batch = Batch.of("pages", [Run(P0, 1, [FakeRecord("pages", 0, 0, b"{}")])], "records")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(switch.submit, batch, "name")
        await anyio.wait_all_tasks_blocked()
        await switch.replace(new)
        assert not old.closed
        old.let.set()
    assert old.closed
    assert (len(old.jobs), len(new.jobs)) == (1, 0)


async def test_sinks_follow_each_other_while_the_first_still_answers() -> None:
    first, second, third = FakeSink(after(10.0)), FakeSink(), FakeSink()
    first.heir, second.heir = second, third
    rig, reload = running_by(config(), first)
    async with rig.running():
        rig.log.append(*[b"1"] * 20)
        await until(lambda: first.busy)
        await reload.use(config())
        await reload.use(config())
        assert (first.closed, second.closed) == (False, True)
        await until(lambda: rig.committed == 20)
        assert first.closed
    assert sizes(first, second, third) == [10, 10]


async def test_a_stop_that_gives_up_a_request_closes_the_sink_that_was_replaced() -> None:
    old = FakeSink(then=hang)
    rig, reload = running_by(config(), old)
    async with rig.running():
        rig.log.append(*[b"1"] * 10)
        await until(lambda: old.busy)
        await reload.use(config(shutdown={"drain": "2s"}))
        rig.stop.set()
        await until(lambda: rig.ended_at is not None, within=3.0)
    assert old.closed
    assert rig.error is None


# Everything else


async def test_fewer_slots_let_in_nobody_until_there_is_room() -> None:
    rig, reload = running_by(config(limits={"max_in_flight": 3}), FakeSink(then=after(5.0)))
    rig.sink.heir = new = FakeSink(then=after(5.0))
    async with rig.running():
        rig.log.append(*[b"1"] * 60)
        await until(lambda: rig.sink.busy == 3)
        await reload.use(config())
        await until(lambda: rig.committed == 60)
    assert new.most_busy == 1
    assert sorted(delivered(rig.sink, new)) == list(range(60))


async def test_more_slots_are_used_at_once() -> None:
    rig, reload = running_by(config(), FakeSink(then=after(50.0)))
    async with rig.running():
        rig.log.append(*[b"1"] * 40)
        await until(lambda: rig.sink.busy == 1)
        await reload.use(config(limits={"max_in_flight": 3}))
        await until(lambda: rig.gate.taken == 3, within=1.0)


async def test_memory_can_be_given_and_taken() -> None:
    rig, reload = running_by(config())
    async with rig.running():
        for size in (16, 64):
            await reload.use(config(limits={"memory": f"{size}MiB"}))
            assert rig.status.gauges().memory_limit_bytes == size * 1024**2 * 3 // 4


async def test_a_batch_in_trouble_is_given_up_by_the_new_patience() -> None:
    trouble = Again("status", "503")
    rig, reload = running_by(config(), FakeSink(then=trouble))
    async with rig.running():
        rig.log.append(*[b"1"] * 10)
        await anyio.sleep(600.0)
        assert not rig.dead_letters.letters
        await reload.use(config(retry={"give_up_after": "10m"}))
        await until(lambda: len(rig.dead_letters.letters) == 10, within=120.0)


async def test_the_brake_on_refusals_follows() -> None:
    refuse = judge(lambda record: Fate.REJECTED)
    rig, reload = running_by(config(), FakeSink(then=refuse))
    async with rig.running():
        await reload.use(config(dead_letter={"max_ratio": 0.5, "max_ratio_window": 10}))
        rig.log.append(*[b"1"] * 10)
        await until(lambda: rig.halt.reason)
        assert "max_ratio is 0.5" in str(rig.halt.reason)


def test_a_smaller_ratio_window_forgets_what_is_older() -> None:
    ratio = Ratio(100)
    ratio.add(50, refused=True)
    ratio.add(10, refused=False)
    ratio.resize(10)
    assert ratio.with_refused(1) == 0.1


async def test_the_status_tells_of_the_reload_and_shows_the_new_limits() -> None:
    rig, reload = running_by(config())
    assert rig.status.report()["reload"] == {"successful": True, "at": None, "error": None}
    async with rig.running():
        await reload.use(config(window={"max_records": 3, "max_age": "7s"}))
        report = rig.status.report()
    assert (report["window"]["max_records"], report["window"]["max_age_seconds"]) == (3, 7.0)
    assert report["reload"]["successful"]
    assert report["reload"]["at"].endswith("Z")


async def test_an_attempt_that_has_begun_may_take_as_long_as_it_was_given() -> None:
    rig, reload = running_by(config(sink={"timeout": "10m"}), FakeSink(then=hang))
    rig.status.reloaded(0.0, attempt=660.0)
    async with rig.running():
        rig.log.append(*[b"1"] * 10)
        await until(lambda: rig.sink.busy)
        await reload.use(config(sink={"timeout": "1s"}, shutdown={"drain": "1s"}))
        await anyio.sleep(600.0)
        assert rig.status.live() is None
        rig.stop.set()

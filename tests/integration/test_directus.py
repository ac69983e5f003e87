"""The examples for Directus, against Directus.

The first test here installs it where nobody has yet, which takes about a minute.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from brokers.base import Broker
from cms.directus import Directus
from cms.install import INSTALL_SECONDS, TOKEN, DirectusUnavailableError, installed, skip_or_fail
from contract.api import batch_of
from contract.remote import Remote
from fakes import FakeDeadLetters, FakeRecord
from harness.daemon import Daemon, until
from harness.stream import make_stream
from sluiced.attempts import Attempts, Flight, RetrySettings
from sluiced.burial import Burial, DeadLetterSettings, Halt
from sluiced.config import load
from sluiced.delivery import Delivery
from sluiced.gate import Gate, LimitSettings
from sluiced.identity import identity
from sluiced.intake import RecordSettings
from sluiced.metrics import Metrics
from sluiced.outcome import Again, Answered, Outcome
from sluiced.ports import DeadLetter
from sluiced.record import Record
from sluiced.sinks.http import HttpSink
from sluiced.sinks.http_settings import HttpSettings
from sluiced.sinks.settings import Line, SinkSettings
from sluiced.testing import SinkContract, Stand, read

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3 * INSTALL_SECONDS)]

CONFIGS = Path(__file__).parents[2] / "configs"
REQUIRED = {"is_nullable": False}


@pytest.fixture(scope="module")
def directus(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Directus]:
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            kept = installed()
    except DirectusUnavailableError as error:
        skip_or_fail(str(error))
    with Directus(kept, tmp_path_factory.mktemp("directus")) as server:
        key = {"type": "string", "schema": {"is_primary_key": True}}
        server.create(
            "events",
            {"field": "id", **key},
            {
                "field": "data",
                "type": "json",
                "schema": REQUIRED,
                "meta": {"required": True, "special": ["cast-json"]},
            },
            {"field": "trace", "type": "string", "schema": {"is_unique": True}},
        )
        server.create(
            "pages",
            {"field": "slug", **key},
            {"field": "title", "type": "string", "schema": REQUIRED, "meta": {"required": True}},
        )
        yield server


@pytest.fixture(autouse=True)
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "directus-token").write_text(TOKEN)


@asynccontextmanager
async def example(name: str, server: Directus, **keys: Any) -> Any:
    """The sink of an example, but at this server and with these settings."""
    config = load(CONFIGS / f"{name}.toml")
    settings = config.sink
    assert isinstance(settings, HttpSettings)
    url = keys.pop("url", settings.url).replace("https://cms.example.com", server.url)
    settings = msgspec.structs.replace(settings, url=url, **keys)
    sink = HttpSink(settings, config.name, identity(config.record.id), format=config.record.format)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


async def sent(name: str, server: Directus, records: Sequence[Record], **keys: Any) -> Outcome:
    async with example(name, server, **keys) as sink:
        outcome: Outcome = await sink.send(batch_of(records))
        return outcome


async def delivered(
    name: str, server: Directus, records: Sequence[Record], **keys: Any
) -> list[DeadLetter]:
    """Delivers a batch as the daemon does, to the end; the dead letters of it."""
    letters = FakeDeadLetters()
    metrics = Metrics("pages", CollectorRegistry())
    burial = Burial(DeadLetterSettings(topic="dead", max_ratio=1.0), letters, Halt(), metrics)
    async with example(name, server, **keys) as sink:
        attempts = Attempts(
            RetrySettings(),
            Gate(LimitSettings()),
            burial.halt,
            metrics,
            clock=time.monotonic,
            wall=time.time,
        )
        delivery = Delivery(sink, burial, attempts, metrics)
        await delivery.deliver(Flight(batch_of(records), time.monotonic()))
    return letters.letters


def events(topic: str, *data: Any) -> list[Record]:
    """A topic for each test: the coordinates are the keys of the items."""
    return [
        FakeRecord(topic, offset=n, value=json.dumps(value).encode())
        for n, value in enumerate(data)
    ]


def stored(server: Directus, topic: str) -> list[tuple[int, Any]]:
    """Offset and data of what is there of a topic, in order."""
    found = [(i["id"].rpartition("-"), i["data"]) for i in server.items("events")]
    return sorted((int(n), data) for (start, _, n), data in found if start == f"{topic}-0")


async def test_an_item_that_is_refused_is_found_and_the_others_are_there(
    directus: Directus,
) -> None:
    records = events("bad", *({"n": n} if n != 3 else None for n in range(8)))
    [letter] = await delivered("directus-items", directus, records)
    assert letter.record is records[3]
    assert letter.error == (
        'the API answered 400: Validation failed for field "data". Value can\'t be null.'
    )
    assert stored(directus, "bad") == [(n, {"n": n}) for n in range(8) if n != 3]


async def test_a_refused_array_leaves_nothing_behind(directus: Directus) -> None:
    await sent("directus-items", directus, events("none", {"n": 0}, None))
    assert stored(directus, "none") == []


async def test_what_comes_again_is_there_once_and_is_no_dead_letter(directus: Directus) -> None:
    records = events("again", *range(8))
    assert await delivered("directus-items", directus, records[:5]) == []
    for again in (records[:5], records[3:], records):
        assert await delivered("directus-items", directus, again) == []
    assert stored(directus, "again") == [(n, n) for n in range(8)]


async def test_a_batch_of_which_a_part_is_there_is_not_delivered_as_a_whole(
    directus: Directus,
) -> None:
    records = events("part", *range(4))
    await sent("directus-items", directus, records[:1])
    assert not isinstance(await sent("directus-items", directus, records), Answered)
    assert stored(directus, "part") == [(0, 0)]


async def test_another_field_that_must_be_unique_is_a_rejection(directus: Directus) -> None:
    body = msgspec.structs.replace(
        load(CONFIGS / "directus-items.toml").sink.body,
        item='{"id":$id,"data":$value,"trace":"same"}',
    )
    records = events("unique", 0, 1)
    [letter] = await delivered("directus-items", directus, records, body=body)
    assert letter.record is records[1]
    assert 'field "trace"' in letter.error


async def test_a_body_that_is_too_large_is_a_400_and_halved(directus: Directus) -> None:
    records = events("large", *(["x" * 600_000] for _ in range(3)))
    assert await delivered("directus-items", directus, records, max_bytes=10_000_000) == []
    assert [n for n, _ in stored(directus, "large")] == [0, 1, 2]


async def test_a_token_or_a_collection_that_is_not_there_is_an_outage(
    directus: Directus, tmp_path: Path
) -> None:
    records = events("outage", 0)
    nowhere = await sent("directus-items", directus, records, url=f"{directus.url}/items/nowhere")
    (tmp_path / "directus-token").write_text("another")
    stranger = await sent("directus-items", directus, records)
    for outcome in (nowhere, stranger):
        assert isinstance(outcome, Again)
        assert outcome.outage


def pages(start: int, **titles: Any) -> list[Record]:
    return [
        FakeRecord(offset=n, value=json.dumps({"slug": slug, "title": title}).encode())
        for n, (slug, title) in enumerate(titles.items(), start)
    ]


def titles(server: Directus, start: str) -> dict[str, str]:
    return {i["slug"]: i["title"] for i in server.items("pages") if i["slug"].startswith(start)}


async def test_an_import_creates_updates_and_repeats(directus: Directus) -> None:
    first, second = pages(0, ua="A", ub="B"), pages(2, ub="B2", uc="C")
    for batch in (first, first, second, second):
        assert await delivered("directus-upsert", directus, batch) == []
    assert titles(directus, "u") == {"ua": "A", "ub": "B2", "uc": "C"}


async def test_an_import_finds_the_page_that_is_refused(directus: Directus) -> None:
    await delivered("directus-upsert", directus, pages(0, ra="A"))
    records = pages(1, ra="A2", rb="B", rc=None, rd="D")
    [letter] = await delivered("directus-upsert", directus, records)
    assert letter.record is records[2]
    assert "FAILED_VALIDATION" in letter.error
    assert titles(directus, "r") == {"ra": "A2", "rb": "B", "rd": "D"}


async def test_an_import_is_one_transaction(directus: Directus) -> None:
    await sent("directus-upsert", directus, pages(0, ta="A", tb=None))
    assert titles(directus, "t") == {}


async def test_an_import_takes_more_than_one_payload(directus: Directus) -> None:
    records = pages(0, **{f"l{n}": "x" * 100_000 for n in range(15)})
    outcome = await sent("directus-upsert", directus, records)
    assert isinstance(outcome, Answered), outcome
    assert len(titles(directus, "l")) == 15


async def test_patch_skips_what_is_not_there_and_the_count_of_the_answer_tells(
    directus: Directus,
) -> None:
    await delivered("directus-upsert", directus, pages(0, pa="A"))
    settings = load(CONFIGS / "directus-items.toml").sink
    response = {"items": "/data", "error": "/none"}
    how = {
        "method": "PATCH",
        "url": f"{directus.url}/items/pages",
        "body": msgspec.structs.replace(settings.body, item="$value"),
    }
    for expected, shape in ((Answered, {}), (Again, response)):
        keys = how | {"response": msgspec.convert(shape, type(settings.response))}
        outcome = await sent("directus-items", directus, pages(1, pa="A2", pz="Z"), **keys)
        assert isinstance(outcome, expected)
    assert titles(directus, "p") == {"pa": "A2"}


async def test_a_daemon_that_is_killed_leaves_each_event_in_directus_once(
    directus: Directus, tansu: Broker, tmp_path: Path
) -> None:
    stream = await make_stream(tansu, tmp_path)
    daemon = Daemon(tmp_path, bootstrap="", group="", topic="", url="", dead="")
    text = (CONFIGS / "directus-items.toml").read_text()
    for old, new in (
        ("127.0.0.1:9092", tansu.bootstrap),
        # A member that was killed is missed for as long as this.
        ('"events-to-directus"', f'"{stream.group}"\nsession_timeout = "6s"'),
        ('"events"]', f'"{stream.topic}"]'),
        ("events.dead", stream.dead),
        ("max_records = 200", "max_records = 25"),
        ("https://cms.example.com", directus.url),
    ):
        assert old in text
        text = text.replace(old, new)
    slowly = "[limits]\nrequests_per_second = 2\n"  # so that there is a middle, whenever we look
    admin = f'[admin]\nlisten = "127.0.0.1:{daemon.port}"\n'
    daemon.path.write_text(f"{text}\n{slowly}{admin}")
    await stream.produce(400)

    def there() -> list[str]:
        found = (i["id"] for i in directus.items("events") if i["id"].startswith(stream.topic))
        return sorted(found)

    async with daemon:
        await until(there, "the first events", 90)
        await daemon.kill()
        assert len(there()) < 400, "it was over before it was killed"
        daemon.path.write_text(daemon.path.read_text().replace(slowly, ""))
        await daemon.start()
        await until(lambda: len(there()) == 400, "all events", 90)
        assert await daemon.stop() == 0
    assert there() == sorted(f"{stream.topic}-{p}-{o}" for p in range(4) for o in range(100))
    assert await stream.checkpoints() == dict.fromkeys(range(4), 100)
    assert not await tansu.read(stream.dead)


# What every sink keeps


class Collection(Remote):
    """Reached by the example for an upsert; its items are read back."""

    bad = b'{"slug":"bad","title":null}'
    line = Line("pages", record=RecordSettings(id="/slug"))

    def __init__(self, server: Directus) -> None:
        super().__init__(int(server.url.rpartition(":")[2]))
        self._server = server

    def value(self, n: int) -> bytes:
        return b'{"slug":"%d","title":"a page"}' % n

    def settings(self, **keys: Any) -> SinkSettings:
        url = f"http://127.0.0.1:{self.port}/utils/import/pages"
        example = load(CONFIGS / "directus-upsert.toml").sink
        assert isinstance(example, HttpSettings)
        changed = msgspec.structs.asdict(read(HttpSettings, url=url, **keys))
        return msgspec.structs.replace(example, url=url, **{key: changed[key] for key in keys})

    async def effects(self) -> Counter[int]:
        return Counter(int(item["slug"]) for item in self._server.items("pages"))


class TestDirectus(SinkContract):
    @pytest.fixture
    async def stand(self, directus: Directus) -> AsyncIterator[Stand]:
        if there := [item["slug"] for item in directus.items("pages")]:
            directus.ask("DELETE", "/items/pages", there)
        async with Collection(directus) as stand:
            yield stand

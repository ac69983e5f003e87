"""The sink of type "elasticsearch" on a real OpenSearch: what its users are promised."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from brokers.base import Message, unique
from brokers.kafka import Kafka
from contract.api import batch_of
from contract.remote import Remote
from fakes import FakeRecord
from harness.daemon import Daemon
from harness.stream import Stream, make_stream
from search.opensearch import OPENSEARCH, OpenSearch
from search.sink import BY_KEY, opened, settings
from sluiced.intake import RecordSettings
from sluiced.outcome import DELIVERED, Again, Answered, Fate, Outcome, Refused
from sluiced.record import Record
from sluiced.sinks.settings import SinkSettings
from sluiced.testing import SinkContract, Stand

pytestmark = pytest.mark.anyio


@pytest.fixture
def index() -> str:
    return unique("pages")


def page(offset: int, key: str = "", value: bytes | None = None, **rest: Any) -> FakeRecord:
    value = b'{"n":%d}' % offset if value is None else value
    return FakeRecord(offset=offset, key=(key or f"page-{offset}").encode(), value=value, **rest)


def tombstone(offset: int, key: str) -> FakeRecord:
    return FakeRecord(offset=offset, key=key.encode(), value=None)


async def send(
    server: OpenSearch,
    index: str,
    records: list[FakeRecord],
    record: RecordSettings = BY_KEY,
    **keys: Any,
) -> Outcome:
    async with opened(settings(server.url, index, **keys), record) as sink:
        chosen: list[Record] = [*records]
        return await sink.send(batch_of(chosen))


def all_of(count: int) -> Answered:
    return Answered([DELIVERED] * count)


# Actions


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_every_record_becomes_the_document_of_its_id(
    opensearch: OpenSearch, index: str, compression: str
) -> None:
    sent = [page(n) for n in range(2000)]
    outcome = await send(opensearch, index, sent, compression=compression, max_records=2000)
    assert outcome == all_of(2000)
    assert await opensearch.documents(index) == {f"page-{n}": {"n": n} for n in range(2000)}


async def test_the_same_batch_again_changes_nothing(opensearch: OpenSearch, index: str) -> None:
    coordinates = RecordSettings()
    for _ in range(2):
        sent = [page(n) for n in range(10)]
        assert await send(opensearch, index, sent, coordinates) == all_of(10)
    assert await opensearch.count(index) == 10


async def test_what_only_creates_leaves_what_is_there(opensearch: OpenSearch, index: str) -> None:
    await send(opensearch, index, [page(1, "a")])
    sent = [page(2, "a"), page(3, "b")]
    assert await send(opensearch, index, sent, action="create") == all_of(2)
    assert await opensearch.documents(index) == {"a": {"n": 1}, "b": {"n": 3}}


async def test_a_data_stream_takes_what_only_creates(opensearch: OpenSearch, index: str) -> None:
    template = {"index_patterns": [index], "data_stream": {}}
    await opensearch.ask("PUT", f"_index_template/{index}", template)
    sent = [page(n, value=b'{"@timestamp":"2026-01-01T00:00:00Z"}') for n in range(3)]
    for _ in range(2):
        assert await send(opensearch, index, sent, action="create") == all_of(3)
    assert await opensearch.count(index) == 3


async def test_an_update_changes_some_fields_and_creates_what_is_missing(
    opensearch: OpenSearch, index: str
) -> None:
    await send(opensearch, index, [page(1, "a", b'{"title":"old","read":7}')])
    sent = [page(2, "a", b'{"title":"new"}'), page(3, "b", b'{"title":"b"}')]
    assert await send(opensearch, index, sent, action="update") == all_of(2)
    assert await opensearch.documents(index) == {
        "a": {"title": "new", "read": 7},
        "b": {"title": "b"},
    }


@pytest.mark.parametrize("action", ["index", "create", "update"])
async def test_a_tombstone_deletes_and_is_done_where_there_is_nothing(
    opensearch: OpenSearch, index: str, action: str
) -> None:
    await send(opensearch, index, [page(1, "a"), page(2, "b")])
    sent = [tombstone(3, "a"), page(4, "c"), tombstone(5, "never-there")]
    assert await send(opensearch, index, sent, action=action) == all_of(3)
    assert await opensearch.documents(index) == {"b": {"n": 2}, "c": {"n": 4}}


async def test_a_tombstone_is_done_where_there_is_not_even_an_index(
    opensearch: OpenSearch, index: str
) -> None:
    assert await send(opensearch, index, [tombstone(1, "a")]) == all_of(1)


# Versions


async def test_an_older_record_changes_nothing_once_a_newer_one_is_there(
    opensearch: OpenSearch, index: str
) -> None:
    newer, older = [page(7, "a"), page(8, "b")], [page(3, "a"), page(9, "b")]
    assert await send(opensearch, index, newer, version="offset") == all_of(2)
    assert await send(opensearch, index, older, version="offset") == all_of(2)
    assert await opensearch.documents(index) == {"a": {"n": 7}, "b": {"n": 9}}
    assert await opensearch.version(index, "a") == 7


async def test_without_versions_the_last_one_sent_is_the_one_that_stays(
    opensearch: OpenSearch, index: str
) -> None:
    await send(opensearch, index, [page(7, "a")])
    await send(opensearch, index, [page(3, "a")])
    assert await opensearch.documents(index) == {"a": {"n": 3}}


async def test_a_deletion_has_a_version_too(opensearch: OpenSearch, index: str) -> None:
    await send(opensearch, index, [page(7, "a"), page(8, "b")], version="offset")
    late = [tombstone(3, "a"), tombstone(9, "b")]
    assert await send(opensearch, index, late, version="offset") == all_of(2)
    assert await send(opensearch, index, [page(8, "b")], version="offset") == all_of(1)
    assert await opensearch.documents(index) == {"a": {"n": 7}}


# Names of indexes


async def test_an_index_is_named_after_topic_and_day(opensearch: OpenSearch, index: str) -> None:
    day = 24 * 60 * 60 * 1000
    sent = [
        page(1, "a", topic="blue", timestamp=0),
        page(2, "b", topic="blue", timestamp=day - 1),
        page(3, "c", topic="blue", timestamp=day),
        page(4, "d", topic="red", timestamp=day),
    ]
    pattern = f"{index}-$topic-$year.$month.$day"
    assert await send(opensearch, pattern, sent) == all_of(4)
    assert set(await opensearch.documents(f"{index}-blue-1970.01.01")) == {"a", "b"}
    assert set(await opensearch.documents(f"{index}-blue-1970.01.02")) == {"c"}
    assert set(await opensearch.documents(f"{index}-red-1970.01.02")) == {"d"}


# Records that are refused


async def test_a_document_that_does_not_fit_the_mapping_is_rejected_alone_with_the_reason(
    opensearch: OpenSearch, index: str
) -> None:
    await send(opensearch, index, [page(1)])
    outcome = await send(opensearch, index, [page(2), page(3, value=b'{"n":"x"}'), page(4)])
    assert isinstance(outcome, Answered)
    assert [v.fate for v in outcome.verdicts] == [Fate.DELIVERED, Fate.REJECTED, Fate.DELIVERED]
    assert outcome.verdicts[1].status == "400"
    assert "failed to parse field [n] of type [long]" in outcome.verdicts[1].error
    assert outcome.verdicts[1].error.endswith('For input string: "x"')
    assert await opensearch.count(index) == 3


@pytest.mark.parametrize("value", [b"[1]", b"7", b"null", b'"text"'])
async def test_json_that_is_no_object_is_rejected_alone(
    opensearch: OpenSearch, index: str, value: bytes
) -> None:
    outcome = await send(opensearch, index, [page(1), page(2, value=value), page(3)])
    assert isinstance(outcome, Answered)
    assert [v.fate for v in outcome.verdicts] == [Fate.DELIVERED, Fate.REJECTED, Fate.DELIVERED]


async def test_an_update_of_no_object_refuses_the_request_so_that_it_is_bisected(
    opensearch: OpenSearch, index: str
) -> None:
    outcome = await send(opensearch, index, [page(1), page(2, value=b"[1]")], action="update")
    assert isinstance(outcome, Refused)
    assert outcome.status == "400"
    assert "doc doesn't support values of type" in outcome.error
    assert await opensearch.count(index) == 0


async def test_the_longest_id_that_is_let_through_is_one_that_the_server_takes(
    opensearch: OpenSearch, index: str
) -> None:
    fits, too_long = page(1, "é" * 256), page(2, "é" * 256 + "x")
    async with opened(settings(opensearch.url, index)) as sink:
        assert sink.objection(fits) is None
        assert sink.objection(too_long) == "the record's id has 513 bytes, and an _id at most 512"
        assert isinstance(await sink.send(batch_of([too_long])), Refused)
    assert await send(opensearch, index, [fits]) == all_of(1)


# Trouble that is no record's fault


async def test_a_missing_index_holds_the_stream_until_somebody_creates_it(
    opensearch: OpenSearch, index: str
) -> None:
    # No server creates an index of its own accord where an alias is required.
    only_aliases = {"require_alias": "true"}
    sent = [page(1), page(2)]
    outcome = await send(opensearch, index, sent, parameters=only_aliases)
    assert isinstance(outcome, Again)
    assert outcome.outage
    assert outcome.status == "404"
    assert "create the index, or correct sink.index" in outcome.error
    await opensearch.ask("PUT", f"{index}-1", {"aliases": {index: {}}})
    assert await send(opensearch, index, sent, parameters=only_aliases) == all_of(2)


async def test_a_closed_index_holds_the_stream(opensearch: OpenSearch, index: str) -> None:
    await send(opensearch, index, [page(1)])
    await opensearch.ask("POST", f"{index}/_close")
    outcome = await send(opensearch, index, [page(2)])
    assert isinstance(outcome, Again)
    assert outcome.outage
    assert "open the index" in outcome.error


async def test_an_index_that_is_blocked_for_writing_holds_the_stream(
    opensearch: OpenSearch, index: str
) -> None:
    await opensearch.ask("PUT", index)
    await opensearch.ask("PUT", f"{index}/_settings", {"index.blocks.write": True})
    outcome = await send(opensearch, index, [page(1)])
    assert isinstance(outcome, Again)
    assert outcome.outage
    assert (outcome.status, outcome.reason) == ("403", "status")


async def test_a_full_disk_slows_down_and_buries_nothing(
    opensearch: OpenSearch, index: str
) -> None:
    await opensearch.ask("PUT", index)
    # What the server does to an index by itself above the flood-stage watermark.
    full = {"index.blocks.read_only_allow_delete": True}
    await opensearch.ask("PUT", f"{index}/_settings", full)
    outcome = await send(opensearch, index, [page(1)])
    assert isinstance(outcome, Answered)
    assert [(v.fate, v.status) for v in outcome.verdicts] == [(Fate.RETRY, "429")]


async def test_a_shard_that_is_out_of_reach_is_waited_for(
    opensearch: OpenSearch, index: str
) -> None:
    nowhere = {"index.routing.allocation.require._name": "nobody"}
    await opensearch.ask("PUT", f"{index}?wait_for_active_shards=0", {"settings": nowhere})
    outcome = await send(opensearch, index, [page(1)], parameters={"timeout": "100ms"})
    assert isinstance(outcome, Again)
    assert (outcome.status, outcome.outage) == ("503", False)


async def test_an_address_without_a_bulk_api_is_an_outage_and_no_verdict(
    opensearch: OpenSearch, index: str
) -> None:
    async with opened(settings(f"{opensearch.url}/x/y", index)) as sink:
        outcome = await sink.send(batch_of([page(1)]))
    assert isinstance(outcome, Again)
    assert outcome.outage
    assert "check sink.url" in outcome.error


async def test_the_probe_reaches_the_server(opensearch: OpenSearch, index: str) -> None:
    async with opened(settings(opensearch.url, index)) as sink:
        await sink.probe()
    assert await opensearch.count(index) == 0


# The whole daemon


def daemon_on(stream: Stream, server: OpenSearch, sink: str, **values: str) -> Daemon:
    """A daemon as in the other tests, with this sink in the place of theirs."""
    daemon = stream.daemon(server, **values)  # type: ignore[arg-type] - of which it takes the url
    block = f'[sink]\ntype = "elasticsearch"\nurl = "{server.url}"\n{sink}\n\n[retry]'
    text = re.sub(r"\[sink\].*\[retry\]", block, daemon.path.read_text(), flags=re.DOTALL)
    daemon.path.write_text(text)
    return daemon


async def delivered(daemon: Daemon, least: int) -> int:
    """Waits until so many records are delivered; how many there are by then."""
    status = await daemon.status_when(lambda status: status["totals"]["delivered"] >= least)
    return int(status["totals"]["delivered"])


async def test_a_kill_in_the_middle_leaves_every_document_at_its_newest_record(
    kafka: Kafka, opensearch: OpenSearch, index: str, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)

    def revisions(start: int, stop: int) -> list[Message]:
        """500 documents in turn, of which every fifth is gone again at the end."""
        gone = range(2900, 3000)
        return [
            Message(
                None if n in gone else b'{"n":%d}' % n,
                b"page-%d" % (n % 500 if n not in gone else (n - 2900) * 5),
                partition=(n if n not in gone else (n - 2900) * 5) % 4,
            )
            for n in range(start, stop)
        ]

    await kafka.produce(stream.topic, revisions(0, 2000))
    sink = f'index = "{index}"\nversion = "offset"'
    record = 'id = "$key"\non_tombstone = "send"'
    keys = {"record": record, "max_records": "50", "kafka": 'group_instance_id = "a"'}
    slowly = "requests_per_second = 5"  # so that there is a middle, however seldom we look
    keys |= {"limits": slowly}
    async with daemon_on(stream, opensearch, sink, **keys) as daemon:
        assert await delivered(daemon, 300) < 2000
        await daemon.kill()
        daemon.path.write_text(daemon.path.read_text().replace(slowly, ""))
        await kafka.produce(stream.topic, revisions(2000, 3000))
        await daemon.start()
        with anyio.fail_after(60):
            while sum((await stream.checkpoints()).values()) < 3000:
                await anyio.sleep(0.02)
        assert await daemon.stop() == 0

    newest = {}
    for record_ in await kafka.read(stream.topic):
        newest[record_.key.decode()] = record_
    left = {key: record_ for key, record_ in newest.items() if record_.value is not None}
    assert len(newest) == 500
    assert len(left) == 400
    assert await opensearch.count(index) == 400
    documents = await opensearch.documents(index)
    assert documents == {key: json.loads(record_.value) for key, record_ in left.items()}
    for key in list(left)[::40]:
        assert await opensearch.version(index, key) == left[key].offset
    assert await kafka.read(stream.dead) == []


async def test_a_document_that_is_refused_becomes_a_dead_letter_and_the_others_arrive(
    kafka: Kafka, opensearch: OpenSearch, index: str, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    bad = Message(b'{"n":"many"}', b"bad", partition=0)
    await kafka.produce(stream.topic, [Message(b'{"n":1}', b"first", partition=0), bad])
    await stream.produce(100)
    async with daemon_on(stream, opensearch, f'index = "{index}"') as daemon:
        assert await delivered(daemon, 101) == 101
        assert await daemon.stop() == 0
    assert await opensearch.count(index) == 101
    [letter] = await kafka.read(stream.dead)
    headers = dict(letter.headers)
    assert letter.value == bad.value
    assert headers["sluiced.status"] == b"400"
    assert b"failed to parse field [n]" in headers["__connect.errors.exception.message"]


async def test_a_missing_index_is_an_outage_until_it_is_created(
    kafka: Kafka, opensearch: OpenSearch, index: str, tmp_path: Path
) -> None:
    stream = await make_stream(kafka, tmp_path)
    await stream.produce(100)
    sink = f'index = "{index}"\nparameters = {{ require_alias = "true" }}'
    async with daemon_on(stream, opensearch, sink) as daemon:
        status = await daemon.status_when(lambda status: status["state"] == "outage")
        assert "create the index" in status["reason"]
        await opensearch.ask("PUT", f"{index}-1", {"aliases": {index: {}}})
        assert await delivered(daemon, 100) == 100
        assert await daemon.stop() == 0
    assert await opensearch.count(index) == 100
    assert await kafka.read(stream.dead) == []


def test_where_opensearch_is_required_its_absence_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="OpenSearch is required here, but: no java"):
        OPENSEARCH.skip_or_fail("no java", {"SLUICED_REQUIRE_OPENSEARCH": "1"})


def test_where_opensearch_is_optional_its_absence_skips() -> None:
    with pytest.raises(pytest.skip.Exception, match="no OpenSearch: no java"):
        OPENSEARCH.skip_or_fail("no java", {})


# What every sink keeps


class Index(Remote):
    """Its documents are read back, each once."""

    bad = b'{"n":"not a number"}'

    def __init__(self, server: OpenSearch, index: str) -> None:
        super().__init__(int(server.url.rpartition(":")[2]))
        self._server = server
        self._index = index

    def settings(self, **keys: Any) -> SinkSettings:
        return settings(f"http://127.0.0.1:{self.port}", self._index, **keys)

    async def effects(self) -> Counter[int]:
        found = await self._server.documents(self._index)
        return Counter(document["n"] for document in found.values())


class TestOpenSearch(SinkContract):
    @pytest.fixture
    async def stand(self, opensearch: OpenSearch, index: str) -> AsyncIterator[Stand]:
        mapping = {"mappings": {"properties": {"n": {"type": "integer"}}}}
        await opensearch.ask("PUT", index, mapping)
        async with Index(opensearch, index) as stand:
            yield stand

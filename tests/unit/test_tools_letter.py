"""A dead letter is read for what it is, whoever wrote it and however damaged it is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import EPOCH, FakeRecord
from sluiced.kafka.client import KafkaSettings
from sluiced.kafka.dead_letters import KafkaDeadLetters
from sluiced.ports import DeadLetter, Reason
from sluiced.redrive.letter import Stub, parse, restored
from sluiced.tools.dead_letters import export, show
from strategies import steady

Headers = list[tuple[str, bytes]]

names = st.from_regex(r"[a-zA-Z0-9._-]{1,60}", fullmatch=True)
texts = st.text(max_size=60)
own = st.lists(
    st.tuples(st.sampled_from(["trace", "kafka_offset", "sluic", "x"]), st.binary(max_size=8)),
    max_size=4,
)
partitions, offsets = st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1)
NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def ours(letter: DeadLetter, *, stub: bool = False) -> Headers:
    """The headers that the daemon itself writes."""
    settings = KafkaSettings(
        bootstrap_servers=["127.0.0.1:1"], group_id="pages-to-cms", topics=["pages"]
    )
    writer = KafkaDeadLetters(
        settings, topic="pages.dead", pipeline="pages", too_large="stub", now=lambda: NOW
    )
    return writer._headers(letter, stub=stub)


@steady
@given(
    topic=names,
    partition=partitions,
    offset=offsets,
    headers=own,
    reason=st.sampled_from(["invalid", "rejected", "too_large", "exhausted"]),
    error=texts,
    attempts=st.integers(0, 99),
    redrives=st.integers(0, 9),
)
def test_what_the_daemon_writes_is_read_back(
    topic: str,
    partition: int,
    offset: int,
    headers: Headers,
    reason: Reason,
    error: str,
    attempts: int,
    redrives: int,
) -> None:
    counted = [("sluiced.redrives", str(redrives).encode())] if redrives else []
    died = FakeRecord(topic, partition, offset, b"{}", b"k", 1234, [*headers, *counted])
    written = ours(DeadLetter(died, reason, error, attempts, "422", "abc"))
    letter = parse(FakeRecord("pages.dead", 0, 7, b"{}", b"k", 1234, written))
    assert letter.dialect == "sluiced"
    assert letter.source == ((topic, partition), offset)
    assert (letter.reason, letter.error, letter.status) == (reason, error, "422")
    assert (letter.attempts, letter.batch) == (str(attempts), "abc")
    assert (letter.group, letter.pipeline) == ("pages-to-cms", "pages")
    assert (letter.died, letter.redrives, letter.stubbed) == (NOW, redrives, False)
    back = restored(letter, letter.record.value)
    assert list(back.headers) == headers, "it gets back its own headers and no others"
    assert (back.topic, back.partition, back.offset) == (topic, partition, offset)
    assert (back.key, back.value, back.timestamp) == (b"k", b"{}", 1234)


def test_a_reason_that_is_no_utf8_is_written_as_far_as_it_is() -> None:
    error = b"caf\xe9".decode(errors="surrogateescape")
    letter = parse(
        FakeRecord("pages.dead", headers=ours(DeadLetter(FakeRecord(), "invalid", error)))
    )
    assert letter.error == r"caf\udce9"


def test_a_stub_says_where_the_record_is() -> None:
    died = FakeRecord("pages", 3, 104, b"x" * 5000)
    headers = ours(DeadLetter(died, "rejected", "no"), stub=True)
    value = b'{"topic":"pages","partition":3,"offset":104,"size":5000}'
    assert parse(FakeRecord("pages.dead", value=value, headers=headers)).stub == Stub(
        "pages", 3, 104, 5000
    )
    damaged = parse(FakeRecord("pages.dead", value=b"{", headers=headers))
    assert (damaged.stubbed, damaged.stub) == (True, None)
    assert parse(FakeRecord("pages.dead", value=value, headers=headers[:-1])).stub is None


@steady
@given(topic=names, partition=partitions, offset=offsets, headers=own, error=texts)
def test_letters_of_kafka_connect_are_read(
    topic: str, partition: int, offset: int, headers: Headers, error: str
) -> None:
    connect = {
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
        "connector.name": "cms-sink",
        "task.id": "0",
        "stage": "VALUE_CONVERTER",
        "exception.class.name": "org.apache.kafka.connect.errors.DataException",
        "exception.message": error,
        "exception.stacktrace": "at org.apache",
    }
    added = [(f"__connect.errors.{name}", text.encode()) for name, text in connect.items()]
    letter = parse(FakeRecord("dlq", headers=[*headers, *added]))
    assert (letter.dialect, letter.source) == ("connect", ((topic, partition), offset))
    assert (letter.reason, letter.error) == ("DataException", error)
    assert (letter.stage, letter.pipeline) == ("VALUE_CONVERTER", "cms-sink")
    assert letter.died == datetime.fromtimestamp(EPOCH, UTC)
    assert letter.original_headers() == headers


@steady
@given(
    topic=names,
    partition=partitions,
    offset=offsets,
    timestamp=st.integers(0, 2**43),
    headers=own,
    error=texts,
)
def test_letters_of_spring_are_read(
    topic: str, partition: int, offset: int, timestamp: int, headers: Headers, error: str
) -> None:
    added = [
        ("kafka_dlt-original-topic", topic.encode()),
        ("kafka_dlt-original-partition", partition.to_bytes(4)),
        ("kafka_dlt-original-offset", offset.to_bytes(8)),
        ("kafka_dlt-original-timestamp", timestamp.to_bytes(8)),
        ("kafka_dlt-original-timestamp-type", b"CreateTime"),
        ("kafka_dlt-original-consumer-group", b"pages-to-cms"),
        ("kafka_dlt-exception-fqcn", b"org.springframework.kafka.ListenerExecutionFailedException"),
        ("kafka_dlt-exception-cause-fqcn", b"com.example.Cms$TitleMissing"),
        ("kafka_dlt-exception-message", error.encode()),
    ]
    letter = parse(FakeRecord("pages-dlt", headers=[*headers, *added]))
    assert (letter.dialect, letter.source) == ("spring", ((topic, partition), offset))
    assert (letter.timestamp, letter.group) == (timestamp, "pages-to-cms")
    assert (letter.reason, letter.error) == ("TitleMissing", error)
    assert letter.exception == "com.example.Cms$TitleMissing"
    assert letter.original_headers() == headers


def test_the_last_of_repeated_headers_counts() -> None:
    first = ours(DeadLetter(FakeRecord(offset=1), "rejected", "first"))
    second = ours(DeadLetter(FakeRecord(offset=2), "rejected", "second"))
    letter = parse(FakeRecord("pages.dead", headers=[*first, *second]))
    assert (letter.offset, letter.error) == (2, "second")


@steady
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    *("__connect.errors.topic", "__connect.errors.offset"),
                    *("sluiced.reason", "sluiced.redrives", "sluiced.failed_at", "sluiced.stub"),
                    *("kafka_dlt-original-offset", "kafka_dlt-original-partition", "other"),
                ]
            ),
            st.binary(max_size=9),
        )
    ),
    st.none() | st.binary(max_size=20),
)
def test_no_record_is_too_damaged_to_be_read(headers: Headers, value: bytes | None) -> None:
    letter = parse(FakeRecord("pages.dead", value=value, headers=headers))
    assert letter.stub is None
    assert letter.redrives >= 0
    assert "/" in letter.origin


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sluiced.attempts", b"9" * 5000),
        ("sluiced.failed_at", b"0001-01-01T00:00:00+14:00"),
        ("sluiced.failed_at", b"9999-12-31T23:59:59-14:00"),
        ("kafka_dlt-original-timestamp", b"9" * 19),
    ],
)
def test_a_number_or_a_time_that_nobody_can_hold_is_shown_and_sent_all_the_same(
    name: str, value: bytes
) -> None:
    reason = [("sluiced.reason", b"rejected")] if name.startswith("sluiced.") else []
    letter = parse(FakeRecord("pages.dead", headers=[*reason, (name, value)]))
    assert export.line(letter)
    assert show.as_text(letter, 80)
    assert letter.timestamp < 2**63, "what a record's timestamp has room for"


def test_a_record_that_is_no_letter_is_of_unknown_origin() -> None:
    letter = parse(FakeRecord("pages.dead", 0, 5, headers=[("trace", b"1")]))
    assert (letter.dialect, letter.reason) == ("unknown", "unknown")
    assert (letter.source, letter.origin, letter.place) == (None, "?/?/?", "0/5")

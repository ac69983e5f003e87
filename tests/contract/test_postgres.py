"""The PostgreSQL sink against a real server: what is written, refused and tried again."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import anyio
import asyncpg
import pytest
import structlog

from chaos.proxy import Fault, Proxy
from contract.remote import Remote
from databases.postgres import PASSWORD, Postgres
from fakes import P0, P1, FakeRecord
from sluiced.batch import Batch, Run
from sluiced.errors import ConfigError, PositionsError, SluicedError
from sluiced.outcome import DELIVERED, Again, Answered, Outcome, Refused, TooLarge
from sluiced.ports import Mark
from sluiced.record import TopicPartition
from sluiced.sinks.postgres import checkpoint
from sluiced.sinks.postgres.answers import TROUBLE, outcome_of
from sluiced.sinks.postgres.settings import PostgresSettings
from sluiced.sinks.postgres.sink import PostgresSink
from sluiced.sinks.settings import ConfiguredSink, Line, SinkSettings
from sluiced.testing import SinkContract, Stand, read
from sluiced.units import Duration, Secret, Size

pytestmark = pytest.mark.anyio

PAGES = "CREATE TABLE pages (slug text, n integer)"
COLUMNS = {"slug": "/slug", "n": "/n"}
SOON = Duration(2)  # an attempt that is to run into it; others have time enough for a connection


class Database:
    """An empty schema of a database, which alone is searched, and sinks into it."""

    def __init__(self, server: Postgres, name: str, connection: Any) -> None:
        self.server = server
        self.name = name
        self.run = connection.execute
        self.value = connection.fetchval
        self._connection = connection
        self._sinks: list[PostgresSink] = []

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self._connection.fetch(query)]

    async def sink(self, claim: Iterable[TopicPartition] = (P0,), **settings: Any) -> PostgresSink:
        """Open, and the owner of these partitions from offset 0 on."""
        usual: dict[str, Any] = {"dsn": self.server.dsn(self.name), "table": "pages"}
        usual |= {"columns": COLUMNS, "timeout": Duration(10)}
        sink = PostgresSettings(**(usual | settings)).build(Line("pages", group="g"))
        assert isinstance(sink, PostgresSink)
        self._sinks.append(sink)
        await sink.open()
        if claim:
            await sink.claim(1, dict.fromkeys(claim, 0))
        return sink

    async def checkpoint(self) -> dict[int, tuple[int | None, str]]:
        found = await self.rows("SELECT partition, position, done FROM sluiced_checkpoint")
        return {partition: (position, done) for partition, position, done in found}

    async def close(self) -> None:
        for sink in self._sinks:
            await sink.close()
        await self._connection.close()


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    async with made(postgres) as found:
        yield found


@asynccontextmanager
async def made(server: Postgres) -> AsyncIterator[Database]:
    name = await server.create_schema()
    found = Database(server, name, await server.connect(name))
    try:
        yield found
    finally:
        await found.close()


def batch(
    *values: bytes | None, start: int = 0, tp: TopicPartition = P0, epoch: int = 1, **fields: Any
) -> Batch:
    records = [
        FakeRecord(tp.topic, tp.partition, offset, value, **fields)
        for offset, value in enumerate(values, start)
    ]
    return Batch.of("pages", [Run(tp, epoch, records)], "records")


def pages(*numbers: int, start: int | None = None, **fields: Any) -> Batch:
    """Records with these numbers, at offsets of the same numbers unless told otherwise."""
    values = [b'{"slug":"s%d","n":%d}' % (n, n) for n in numbers]
    return batch(*values, start=numbers[0] if start is None else start, **fields)


def delivered(outcome: Outcome) -> bool:
    return isinstance(outcome, Answered) and set(outcome.verdicts) == {DELIVERED}


# What is written


async def test_values_are_read_by_the_types_of_the_table(database: Database) -> None:
    await database.run(
        "CREATE DOMAIN price AS numeric(12, 2); CREATE TYPE mood AS ENUM ('good', 'bad');"
        "CREATE TABLE pages (a text, b bigint, c price, d boolean, e timestamptz, f jsonb,"
        ' g text[], h uuid, i mood, j integer[], "K l" text, m float, n json, o varchar(5))'
    )
    names = [*"abcdefghij", "K l", *"mno"]
    sink = await database.sink(columns={name: f"/{name.replace(' ', '')}" for name in names})
    value = (
        b'{"a":"\\u00e9\\t\\"","b":9007199254740993,"c":1.10,"d":true,"e":"2026-02-03T04:05:06Z",'
        b'"f":{"x":[1, null]},"g":["1","two"],"h":"00000000-0000-0000-0000-000000000001",'
        b'"i":"good","j":[1,2],"Kl":12,"m":1e300,"n":"text","o":"12345"}'
    )
    assert delivered(await sink.send(batch(value)))
    [row] = await database.rows("SELECT * FROM pages")
    assert row == (
        'é\t"',
        9007199254740993,
        Decimal("1.10"),
        True,
        datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC),
        '{"x": [1, null]}',
        ["1", "two"],
        row[7],
        "good",
        [1, 2],
        "12",
        1e300,
        '"text"',
        "12345",
    )


async def test_all_of_a_record_can_become_a_column(database: Database) -> None:
    await database.run(
        "CREATE TABLE pages (value text, doc jsonb, raw bytea, key text, id text, topic text,"
        ' part smallint, "offset" bigint, ms bigint, at timestamptz, local timestamp, head text,'
        " deep text, item integer)"
    )
    sink = await database.sink(
        columns={
            **dict.fromkeys(("value", "doc", "raw"), "$value"),
            **dict.fromkeys(("ms", "at", "local"), "$timestamp"),
            **{name: f"${name}" for name in ("key", "id", "topic", "offset")},
            "part": "$partition",
            "head": "$header.trace",
            "deep": "/a/b~1c/1",
            "item": "/list/0",
        }
    )
    value = b'{"a":{"b/c":["x","y"]},"list":[7]}'
    headers = [("trace", b"old"), ("trace", b"new")]
    assert delivered(await sink.send(batch(value, start=5, key=b"k", headers=headers)))
    at = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert await database.rows(
        'SELECT value, raw, key, id, topic, part, "offset", ms, at, local, head, deep, item'
        " FROM pages WHERE doc = value::jsonb"
    ) == [
        (
            *(value.decode(), value, "k", "pages-0-5", "pages", 0, 5, 1_700_000_000_000),
            *(at, at.replace(tzinfo=None), "new", "y", 7),
        )
    ]


async def test_what_is_missing_or_null_is_null(database: Database) -> None:
    await database.run("CREATE TABLE pages (slug text, doc jsonb, key text, head text, at bigint)")
    columns = {"slug": "/slug/0", "doc": "/doc", "key": "$key", "head": "$header.x"}
    sink = await database.sink(columns=columns | {"at": "$timestamp"})
    values = [b'{"doc":null}', b"[]", b"3", None, b'{"slug":"text"}']
    assert delivered(await sink.send(batch(*values, timestamp=-1)))
    assert await database.rows("SELECT * FROM pages") == [(None,) * 5] * 5


async def test_an_upsert_keeps_the_newest_of_each_row_and_all_are_delivered(
    database: Database,
) -> None:
    await database.run("CREATE TABLE pages (slug text UNIQUE, n integer)")
    sink = await database.sink(mode="upsert", conflict=("slug",))
    assert delivered(await sink.send(batch(b'{"slug":"a","n":1}', b'{"slug":"b","n":1}')))
    again = [b'{"slug":"a","n":2}', b'{"slug":"c","n":1}', b'{"slug":"a","n":3}']
    outcome = await sink.send(batch(*again, start=2))
    assert isinstance(outcome, Answered)
    assert len(outcome.verdicts) == 3
    assert delivered(outcome)
    assert await database.rows("SELECT * FROM pages ORDER BY slug") == [
        *(("a", 3), ("b", 1), ("c", 1))
    ]


async def test_rows_without_a_key_are_never_the_same(database: Database) -> None:
    await database.run("CREATE TABLE pages (slug text UNIQUE, n integer)")
    sink = await database.sink(mode="upsert", conflict=("slug",))
    assert delivered(await sink.send(batch(b'{"n":1}', b'{"n":2}', b'{"n":3}')))
    assert await database.rows("SELECT n FROM pages ORDER BY n") == [(1,), (2,), (3,)]


async def test_an_upsert_of_nothing_but_the_key_leaves_what_is_there(database: Database) -> None:
    await database.run("CREATE TABLE pages (slug text UNIQUE)")
    sink = await database.sink(mode="upsert", conflict=("slug",), columns={"slug": "/slug"})
    assert delivered(await sink.send(pages(1, 2)))
    assert delivered(await sink.send(pages(1, 2, 3, start=2)))
    assert await database.value("SELECT count(*) FROM pages") == 3


async def test_keys_that_only_the_database_finds_equal_are_told_apart_by_halving(
    database: Database,
) -> None:
    await database.run("CREATE TABLE pages (slug numeric UNIQUE, n integer)")
    sink = await database.sink(mode="upsert", conflict=("slug",))
    both = batch(b'{"slug":1,"n":1}', b'{"slug":1.0,"n":2}')
    outcome = await sink.send(both)
    assert isinstance(outcome, Refused)
    assert outcome.status == "21000"
    for half in both.halves():
        assert delivered(await sink.send(half))
    assert await database.rows("SELECT n FROM pages") == [(2,)]


async def test_names_mean_what_they_say_whatever_is_in_them(database: Database) -> None:
    await database.run(
        'CREATE SCHEMA "My shop"; CREATE TABLE "My shop"."Pa;ges--" ("select" text, "$1" integer)'
    )
    sink = await database.sink(table="My shop.Pa;ges--", columns={"select": "/slug", "$1": "/n"})
    assert delivered(await sink.send(pages(1)))
    assert await database.rows('SELECT * FROM "My shop"."Pa;ges--"') == [("s1", 1)]
    assert await database.value('SELECT count(*) FROM "My shop".sluiced_checkpoint') == 1


async def test_a_preview_is_the_statement_without_a_connection() -> None:
    settings = PostgresSettings(
        dsn="postgresql://127.0.0.1:1/none",
        table="pages",
        columns={"slug": "/slug", "key": "$key"},
        mode="upsert",
        conflict=("slug",),
    )
    sink = settings.build(Line("pages"))
    lines = list(sink.preview(batch(b'{"slug":"it\'s"}', b"{}", key=b"k")))
    assert lines == [
        'INSERT INTO "pages" ("slug", "key") VALUES',
        "  ('it''s', 'k'),",
        '  (NULL, \'k\') ON CONFLICT ("slug") DO UPDATE SET "key" = EXCLUDED."key"',
    ]
    assert list(sink.preview(batch(b"{}", key=b"\xff"))) == [
        "cannot be written: the key is not UTF-8 at byte 0, and the column key is no bytea"
    ]


# What is refused


@pytest.mark.parametrize(
    ("value", "status", "says"),
    [
        (b'{"n":"hunter2"}', "22P02", 'invalid input syntax for type integer: "***"'),
        (b'{"n":1.5}', "22P02", "invalid input syntax for type integer"),
        (b'{"n":99999999999}', "22003", "out of range"),
        (b'{"short":"hunter2"}', "22001", "too long"),
        (b'{"domain":"hunter2"}', "22001", "too long"),
        (b'{"char":"hunter2"}', "22001", "too long"),
        (b'{"at":"hunter2"}', "22007", "timestamp"),
        (b'{"at":"2026-02-30"}', "22008", "out of range"),
        (b'{"mood":"hunter2"}', "22P02", "enum"),
        (b'{"text":"hunter2\\u0000"}', "22021", "invalid byte sequence"),
        (b'{"doc":"hunter2\\u0000"}', "22P05", "Unicode"),
        (b'{"text":"hunter2\\ud800"}', "22021", "no Unicode"),
        (b'{"hunter2\\ud800":1}', "22021", "no Unicode"),
        (b'{"tags":"hunter2"}', "22023", "cannot extract elements"),
        (b'{"needed":null}', "23502", 'null value in column "needed"'),
        (b'{"unique":"taken"}', "23505", "duplicate key value violates unique constraint"),
        (b'{"other":"hunter2"}', "23503", "violates foreign key constraint"),
        (b'{"big":-1}', "23514", "violates check constraint"),
        (b'{"late":"taken"}', "23505", "late"),
        (b'{"trigger":"hunter2"}', "P0001", "no such thing"),
        (b"""{"search":"'hunter2"}""", "42601", 'syntax error in tsvector: "***"'),
    ],
)
async def test_a_row_that_the_database_refuses_tells_its_status_and_no_value(
    database: Database, value: bytes, status: str, says: str
) -> None:
    await database.run(
        "CREATE DOMAIN short AS varchar(3); CREATE TYPE mood AS ENUM ('good');"
        "CREATE TABLE others (id text PRIMARY KEY);"
        "CREATE TABLE pages (n integer, short varchar(3), domain short, char char(3), at timestamp,"
        "mood mood, text text, doc jsonb, tags text[], needed text NOT NULL, unique_ text UNIQUE,"
        "other text REFERENCES others, big integer CHECK (big > 0), trigger text, search tsvector,"
        "late text UNIQUE DEFERRABLE INITIALLY DEFERRED);"
        "CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.trigger IS NOT NULL THEN RAISE EXCEPTION 'no such thing'; END IF; "
        "RETURN NEW; END $$;"
        "CREATE TRIGGER judge BEFORE INSERT ON pages FOR EACH ROW EXECUTE FUNCTION judge();"
        "INSERT INTO pages (needed, unique_, late) VALUES ('x', 'taken', 'taken')"
    )
    names = ["n", "short", "domain", "char", "at", "mood", "text", "doc", "tags", "needed"]
    columns = {name: f"/{name}" for name in [*names, "other", "big", "trigger", "late", "search"]}
    sink = await database.sink(columns=columns | {"unique_": "/unique"})
    value = value if b"needed" in value else value.replace(b"{", b'{"needed":"x",', 1)
    outcome = await sink.send(batch(value))
    assert isinstance(outcome, Refused), outcome
    assert outcome.status == status
    assert says in outcome.error
    assert "hunter2" not in outcome.error
    assert "taken" not in outcome.error
    assert await database.value("SELECT count(*) FROM pages") == 1
    assert await database.checkpoint() == {0: (None, "")}
    assert delivered(await sink.send(batch(b'{"needed":"x"}'))), "the connection is sound"


@pytest.mark.parametrize(
    "said",
    [
        "\u00bbhunter2\u00ab",
        "\u00ab hunter2 \u00bb",
        "\u201ehunter2\u201c",
        "\u201dhunter2\u201d",
    ],
    ids=["German", "French", "Czech", "Finnish"],
)
def test_no_value_is_shown_in_whatever_language_the_database_speaks(said: str) -> None:
    error = asyncpg.PostgresError.new(
        {"C": "22P02", "M": f"Eingabe ung\u00fcltig: {said}", "S": "ERROR"}
    )
    outcome = outcome_of(error, "db")
    assert outcome == Refused("22P02", 'Eingabe ung\u00fcltig: "***"')


async def test_a_timeout_of_a_month_is_no_fault_of_the_rows(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink(timeout=Duration(30 * 86400))
    assert delivered(await sink.send(pages(0)))


async def test_a_key_that_is_no_text_is_refused_unless_the_column_takes_bytes(
    database: Database,
) -> None:
    await database.run("CREATE TABLE pages (slug text, raw bytea)")
    sink = await database.sink(columns={"slug": "$key"})
    outcome = await sink.send(batch(b"{}", key=b"\xff"))
    assert outcome == Refused(
        "22021", "the key is not UTF-8 at byte 0, and the column slug is no bytea"
    )
    raw = await database.sink(columns={"raw": "$key"})
    assert delivered(await raw.send(batch(b"{}", key=b"\xff")))
    assert await database.value("SELECT raw FROM pages") == b"\xff"


async def test_one_bad_row_keeps_the_whole_transaction_from_happening(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink()
    values = [b'{"n":1}', b'{"n":"x"}', b'{"n":3}']
    assert isinstance(await sink.send(batch(*values)), Refused)
    assert await database.value("SELECT count(*) FROM pages") == 0
    assert await database.checkpoint() == {0: (None, "")}


async def test_what_is_larger_than_the_caps_is_split_before_it_is_sent(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink(max_records=2, max_bytes=Size(5))
    assert await sink.send(pages(1, 2, 3)) == TooLarge(
        error="3 records, and sink.max_records is 2", sent=False
    )
    assert await sink.send(pages(1, 2)) == TooLarge(
        error="the rows have 6 bytes, and sink.max_bytes is 5B", sent=False
    )
    assert delivered(await sink.send(pages(1, start=0)))


# What is tried again


@pytest.mark.parametrize(
    ("code", "reason", "outage"),
    [
        ("40001", "status", False),  # serialization_failure
        ("40P01", "status", False),  # deadlock_detected
        ("55P03", "status", False),  # lock_not_available
        ("25006", "status", False),  # read_only_sql_transaction, as after a fail-over
        ("XX000", "status", False),  # internal_error
        ("ZZ123", "status", False),  # of nobody's list
        ("57P01", "connection", False),  # admin_shutdown
        ("08006", "connection", False),  # connection_failure
        ("57014", "timeout", False),  # query_canceled
        ("53100", "status", True),  # disk_full
        ("53300", "status", True),  # too_many_connections
        ("42501", "status", True),  # insufficient_privilege
        ("42P01", "status", True),  # undefined_table
        ("42703", "status", True),  # undefined_column
        ("28000", "status", True),  # invalid_authorization_specification
    ],
)
async def test_trouble_that_is_not_about_rows_is_tried_again(
    database: Database, code: str, reason: str, outage: bool
) -> None:
    await database.run(
        f"{PAGES}; CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION 'trouble' USING ERRCODE = '{code}'; END $$;"
        "CREATE TRIGGER fail BEFORE INSERT ON pages FOR EACH ROW EXECUTE FUNCTION fail()"
    )
    sink = await database.sink()
    outcome = await sink.send(pages(0))
    assert isinstance(outcome, Again), outcome
    assert (outcome.status, outcome.reason, outcome.outage) == (code, reason, outage)
    await database.run("DROP TRIGGER fail ON pages")
    assert delivered(await sink.send(pages(0)))
    assert await database.rows("SELECT n FROM pages") == [(0,)]


async def test_rights_tables_and_columns_that_are_missing_are_outages(database: Database) -> None:
    await database.run(
        f"{PAGES}; CREATE ROLE r{database.name} LOGIN; GRANT ALL ON SCHEMA {database.name} "
        f"TO r{database.name}"
    )
    sink = await database.sink(dsn=database.server.dsn(database.name, f"r{database.name}"))
    for wrong, right, status in [
        ("SELECT 1", f"GRANT INSERT ON pages TO r{database.name}", "42501"),
        ("ALTER TABLE pages RENAME n TO m", "ALTER TABLE pages RENAME m TO n", "42703"),
        ("ALTER TABLE pages RENAME TO old", "ALTER TABLE old RENAME TO pages", "42P01"),
    ]:
        await database.run(wrong)
        outcome = await sink.send(pages(0))
        assert isinstance(outcome, Again), outcome
        assert (outcome.status, outcome.outage) == (status, True)
        await database.run(right)
    assert delivered(await sink.send(pages(0)))


async def test_a_table_that_changes_is_looked_up_again(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink()
    assert delivered(await sink.send(pages(0)))
    await database.run("ALTER TABLE pages ALTER n TYPE jsonb USING to_jsonb(n)")
    outcome = await sink.send(pages(1))
    assert isinstance(outcome, Again)
    assert (outcome.status, outcome.outage) == ("42804", True)
    assert delivered(await sink.send(pages(1)))
    assert await database.rows("SELECT n FROM pages ORDER BY n") == [("0",), ("1",)]


async def test_a_connection_that_the_server_ends_is_replaced(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink()
    await database.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE 'sluiced%'"
    )
    outcomes = [await sink.send(pages(0)) for _ in range(2)]
    assert delivered(outcomes[-1])
    assert delivered(outcomes[0]) or isinstance(outcomes[0], Again)
    assert await database.rows("SELECT n FROM pages") == [(0,)]


async def test_a_database_that_is_not_there_is_waited_for(own_postgres: Postgres) -> None:
    async with made(own_postgres) as database:
        await database.run(PAGES)
        sink = await database.sink()
        await database._connection.close()
        own_postgres.kill()
        for n in range(2):
            outcome = await sink.send(pages(0))
            assert isinstance(outcome, Again), n
            assert (outcome.reason, outcome.outage) == ("connection", False)
        with pytest.raises(PositionsError, match="cannot use the database at "):
            await sink.claim(2, {P0: 0})
        own_postgres.start()
        assert delivered(await sink.send(pages(0)))


async def test_a_password_that_is_wrong_is_an_outage_and_is_not_shown(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with suppress(asyncpg.DuplicateObjectError):
        await database.run(f"CREATE ROLE locked LOGIN PASSWORD '{PASSWORD}'")
    await database.run(
        f"{PAGES}; GRANT ALL ON SCHEMA {database.name} TO locked; GRANT ALL ON pages TO locked"
    )
    dsn = database.server.dsn(database.name, "locked:{}")
    monkeypatch.setenv("PAGES_DSN", dsn.format(PASSWORD.replace(" ", "%20")))
    sink = await database.sink(dsn=Secret(env="PAGES_DSN"))
    assert delivered(await sink.send(pages(0)))
    monkeypatch.setenv("PAGES_DSN", dsn.format("hunter2"))
    heir = sink.successor(sink._settings)
    await heir.open()
    outcome = await heir.send(pages(1))
    assert isinstance(outcome, Again)
    assert (outcome.status, outcome.outage) == ("28P01", True)
    with pytest.raises(SluicedError) as caught:
        await heir.probe()
    assert "hunter2" not in f"{outcome.error} {caught.value}"
    monkeypatch.setenv("PAGES_DSN", "hunter2")
    with pytest.raises(ConfigError) as refused:
        await heir.open()
    assert "hunter2" not in str(refused.value)


# Time


@asynccontextmanager
async def locked(database: Database, what: str) -> AsyncIterator[None]:
    """Somebody else has this table for as long as the block takes."""
    connection = await database.server.connect(database.name)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {what}")
            yield
    finally:
        await connection.close()


async def test_an_attempt_has_a_deadline_and_leaves_nothing_behind(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink(timeout=SOON)
    async with locked(database, "pages"):
        outcome = await sink.send(pages(0))
    assert isinstance(outcome, Again)
    assert outcome.reason == "timeout"
    assert delivered(await sink.send(pages(0)))
    assert await database.rows("SELECT n FROM pages") == [(0,)]


async def test_a_server_that_accepts_and_says_nothing_is_left_at_the_deadline(
    database: Database,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = database.server.dsn(port=silent.getsockname()[1])
        sink = await database.sink((), dsn=dsn, timeout=Duration(0.2))
        with anyio.fail_after(30):
            outcome = await sink.send(pages(0))
            with pytest.raises(PositionsError, match="TimeoutError"):
                await sink.claim(1, {P0: 0})
    assert isinstance(outcome, Again)
    assert outcome.reason == "timeout"


async def test_a_server_that_falls_silent_is_left_at_the_deadline(database: Database) -> None:
    await database.run(PAGES)
    async with Proxy(database.server.port) as proxy:
        dsn = database.server.dsn(database.name, port=proxy.port)
        sink = await database.sink(dsn=dsn, timeout=SOON)
        assert delivered(await sink.send(pages(0)))
        await proxy.begin(Fault("silence"))
        with anyio.fail_after(30):
            outcome = await sink.send(pages(1))
        assert isinstance(outcome, Again)
        assert outcome.reason == "timeout"
        await proxy.heal()
        assert delivered(await sink.send(pages(1)))
        await sink.close()
    assert await database.rows("SELECT n FROM pages ORDER BY n") == [(0,), (1,)]


async def test_a_cancelled_attempt_leaves_nothing_half_done(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink()
    async with locked(database, "pages"):
        with anyio.move_on_after(0.2) as scope:
            await sink.send(pages(0, 1))
        assert scope.cancelled_caught
    assert await database.checkpoint() == {0: (None, "")}
    assert await database.value("SELECT count(*) FROM pages") == 0
    assert delivered(await sink.send(pages(0, 1)))
    assert await database.value("SELECT count(*) FROM pages") == 2


async def test_a_client_that_freezes_in_a_transaction_does_not_keep_its_locks(
    database: Database,
) -> None:
    await database.run(PAGES)
    frozen = await database.sink(timeout=SOON)
    async with frozen._connections.one() as connection:
        await connection.execute(frozen._begin)
        await frozen._checkpoint.lock(connection, frozen._table, {P0: 1})
        heir = await database.sink(())
        with anyio.fail_after(30):
            assert await heir.claim(1, {P0: 0}) == {}
        with pytest.raises(TROUBLE):
            await connection.execute("SELECT 1")
    assert delivered(await heir.send(pages(0)))


# The checkpoint


async def test_rows_and_checkpoint_are_one_transaction(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink([P0, P1])
    assert delivered(await sink.send(pages(0, 1, 2)))
    assert delivered(await sink.send(pages(5, 6, tp=P1)))
    assert await database.checkpoint() == {0: (3, ""), 1: (0, "5-6")}
    assert (
        await database.value(
            "SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM pages WHERE n > 4 UNION ALL "
            "SELECT xmin FROM sluiced_checkpoint WHERE partition = 1) AS both_"
        )
        == 1
    )


async def test_a_batch_that_is_there_is_not_written_again(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink()
    assert delivered(await sink.send(pages(0, 1, 2)))
    assert delivered(await sink.send(pages(0, 1, 2)))
    assert delivered(await sink.send(pages(2, 3)))
    assert await database.rows("SELECT n FROM pages ORDER BY n") == [(0,), (1,), (2,), (3,)]


async def test_batches_in_any_order_are_kept_as_ranges_and_joined(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink()
    for numbers, kept in [((4, 5), (0, "4-5")), ((8,), (0, "4-5,8-8")), ((0, 1), (2, "4-5,8-8"))]:
        assert delivered(await sink.send(pages(*numbers)))
        assert await database.checkpoint() == {0: kept}
    assert await sink.advance({P0: Mark(1, 7)})
    assert await database.checkpoint() == {0: (7, "8-8")}, "6 was skipped or buried"
    assert delivered(await sink.send(pages(7)))
    assert await database.checkpoint() == {0: (9, "")}


async def test_several_batches_at_once_all_arrive_once(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink([P0, P1])
    outcomes: list[Outcome] = []

    async def send(one: Batch) -> None:
        outcomes.append(await sink.send(one))

    async with anyio.create_task_group() as tasks:
        for n in range(0, 40, 2):
            tasks.start_soon(send, pages(n, n + 1, tp=(P0, P1)[n % 4 // 2]))
    assert all(map(delivered, outcomes))
    assert await database.value("SELECT count(DISTINCT n) FROM pages") == 40
    assert await database.value("SELECT count(*) FROM pages") == 40
    done = {p: ",".join(f"{n}-{n + 1}" for n in range(4 - 2 * p, 40, 4)) for p in (0, 1)}
    assert await database.checkpoint() == {0: (2, done[0]), 1: (0, done[1])}


async def test_whoever_claims_starts_where_the_table_says(database: Database) -> None:
    await database.run(PAGES)
    first = await database.sink([P0, P1])
    assert delivered(await first.send(pages(0, 1, 2)))
    heir = await database.sink(())
    assert await heir.claim(7, {P0: 0, P1: 40}) == {P0: 3}
    assert delivered(await heir.send(pages(40, tp=P1, epoch=7)))
    assert await heir.claim(8, {P1: 99}) == {P1: 41}


async def test_a_reload_keeps_what_was_claimed(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink()
    heir = sink.successor(sink._settings)
    await heir.open()
    assert delivered(await heir.send(pages(0)))
    await heir.close()
    assert await database.checkpoint() == {0: (1, "")}


async def test_whoever_was_shut_out_changes_nothing(database: Database) -> None:
    await database.run(PAGES)
    zombie = await database.sink()
    heir = await database.sink(())
    await heir.claim(1, {P0: 0})
    assert await zombie.send(pages(0)) == Again(
        "status", "another member has taken over pages/0", "fenced"
    )
    assert not await zombie.advance({P0: Mark(1, 9)})
    assert await database.value("SELECT count(*) FROM pages") == 0
    assert await database.checkpoint() == {0: (None, "")}
    assert delivered(await heir.send(pages(0)))


async def test_a_batch_of_a_former_assignment_changes_nothing(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink()
    await sink.claim(2, {P0: 0})
    outcome = await sink.send(pages(0, epoch=1))
    assert isinstance(outcome, Again)
    assert outcome.status == "fenced"
    assert await database.value("SELECT count(*) FROM pages") == 0
    assert delivered(await sink.send(pages(0, epoch=2)))


async def test_who_is_shut_out_for_long_without_being_told_starts_afresh(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.run(PAGES)
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.0)
    zombie = await database.sink()
    await database.sink()
    with pytest.raises(SluicedError, match="has taken over pages/0, and the group has not said so"):
        await zombie.send(pages(0))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE sluiced_checkpoint SET position = 1",
        "UPDATE sluiced_checkpoint SET position = NULL",
        "UPDATE sluiced_checkpoint SET done = ''",
        "DELETE FROM sluiced_checkpoint",
    ],
)
async def test_a_database_that_has_forgotten_ends_the_daemon_before_anything_is_lost(
    database: Database, change: str
) -> None:
    await database.run(PAGES)
    sink = await database.sink()
    assert delivered(await sink.send(pages(0, 1, 2)))
    assert delivered(await sink.send(pages(5)))
    await database.run(change)
    with pytest.raises(SluicedError, match="less of pages/0 than the database had acknowledged"):
        await sink.send(pages(3))
    assert await database.value("SELECT count(*) FROM pages") == 4
    assert not await sink.advance({P0: Mark(1, 9)})


async def test_a_garbled_row_is_told_and_not_guessed_at(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink()
    assert delivered(await sink.send(pages(0)))
    await database.run("UPDATE sluiced_checkpoint SET done = 'x'")
    with pytest.raises(SluicedError, match="`done` of pages/0 cannot be read"):
        await sink.claim(2, {P0: 0})


async def test_an_advance_that_is_no_news_asks_nobody(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink()
    assert delivered(await sink.send(pages(0, 1)))
    await database.run("ALTER TABLE sluiced_checkpoint RENAME TO gone")
    assert await sink.advance({P0: Mark(1, 2)})
    assert not await sink.advance({P0: Mark(1, 3)})


async def test_a_replay_has_no_group_and_no_checkpoint(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink(())
    assert delivered(await sink.send(pages(0)))
    assert delivered(await sink.send(pages(0)))
    assert await database.value("SELECT count(*) FROM pages") == 2
    assert await database.value("SELECT to_regclass('sluiced_checkpoint')") is None


async def test_two_that_start_at_once_both_find_the_table(database: Database) -> None:
    await database.run(PAGES)
    sinks = [await database.sink(()) for _ in range(4)]

    async def claim(sink: PostgresSink) -> None:
        for _ in range(3):
            with suppress(PositionsError):
                await sink.claim(1, {P0: 0})
                return
        pytest.fail("never claimed")

    async with anyio.create_task_group() as tasks:
        for sink in sinks:
            tasks.start_soon(claim, sink)
    assert await database.value("SELECT fence FROM sluiced_checkpoint") == 4


async def test_who_may_not_create_the_checkpoint_is_told_the_statement(database: Database) -> None:
    role = f"r{database.name}"
    await database.run(
        f"{PAGES}; CREATE ROLE {role} LOGIN; GRANT INSERT ON pages TO {role};"
        f"GRANT USAGE ON SCHEMA {database.name} TO {role}"
    )
    sink = await database.sink((), dsn=database.server.dsn(database.name, role))
    for refused in (sink.claim(1, {P0: 0}), sink.probe()):
        with pytest.raises(SluicedError, match="sluiced_checkpoint") as caught:
            await refused
    statement = caught.value.hint.partition("\n")[2]
    await database.run(statement)
    with pytest.raises(SluicedError, match="may not use the table"):
        await sink.probe()
    await database.run(f"GRANT SELECT, INSERT, UPDATE ON sluiced_checkpoint TO {role}")
    await sink.probe()
    assert await sink.claim(1, {P0: 0}) == {}
    assert delivered(await sink.send(pages(0)))


# An answer that is lost


class Relay:
    """A proxy that ends a connection instead of passing on the answer to a `word`, once."""

    def __init__(self, target: int, word: bytes) -> None:
        self._target = target
        self.word = word
        self.lost = 0
        self.port = 0
        self._server: asyncio.Server

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Relay]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._server.close()

    async def _serve(self, asks: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        answers, far = await asyncio.open_connection("127.0.0.1", self._target)
        asked = asyncio.Event()
        forth = asyncio.ensure_future(self._pass_on(asks, far, asked))
        try:
            while (piece := await answers.read(65536)) and not asked.is_set():
                near.write(piece)
        finally:
            forth.cancel()
            far.transport.abort()
            near.transport.abort()

    async def _pass_on(
        self, asks: asyncio.StreamReader, far: asyncio.StreamWriter, asked: asyncio.Event
    ) -> None:
        while piece := await asks.read(65536):
            if not self.lost and self.word in piece:
                self.lost += 1
                asked.set()
            far.write(piece)


async def test_a_commit_whose_answer_is_lost_is_not_made_twice(database: Database) -> None:
    await database.run(PAGES)
    relay = Relay(database.server.port, b"COMMIT\0")
    async with relay.listening():
        sink = await database.sink(dsn=database.server.dsn(database.name, port=relay.port))
        outcome = await sink.send(pages(0, 1, 2))
        assert isinstance(outcome, Again)
        assert relay.lost == 1
        assert await database.value("SELECT count(*) FROM pages") == 3, "it has happened"
        assert delivered(await sink.send(pages(0, 1, 2)))
        assert delivered(await sink.send(pages(3)))
        await sink.close()
    assert await database.rows("SELECT n FROM pages ORDER BY n") == [(n,) for n in range(4)]


async def test_what_is_lost_before_the_commit_is_made_again(database: Database) -> None:
    await database.run(PAGES)
    relay = Relay(database.server.port, b'UPDATE "schema_')
    async with relay.listening():
        sink = await database.sink(dsn=database.server.dsn(database.name, port=relay.port))
        assert isinstance(await sink.send(pages(0, 1)), Again)
        assert relay.lost == 1
        assert delivered(await sink.send(pages(0, 1)))
        await sink.close()
    assert await database.rows("SELECT n FROM pages ORDER BY n") == [(0,), (1,)]


# sluiced check --connect


async def test_a_probe_changes_nothing(database: Database) -> None:
    await database.run(PAGES)
    sink = await database.sink(())
    await sink.probe()
    assert await database.value("SELECT to_regclass('sluiced_checkpoint')") is None
    assert await database.value("SELECT count(*) FROM pages") == 0


@pytest.mark.parametrize(
    ("create", "settings", "says"),
    [
        ("SELECT 1", {}, "there is no table pages"),
        ("CREATE TABLE pages (slug text)", {}, "pages has no column n"),
        (f"{PAGES}; ALTER TABLE pages ADD x text NOT NULL", {}, "column x is NOT NULL"),
        (
            "CREATE TABLE pages (slug text, n int GENERATED ALWAYS AS IDENTITY)",
            {},
            "itself fills the column n",
        ),
        (PAGES, {"mode": "upsert", "conflict": ("slug",)}, "CREATE UNIQUE INDEX"),
        (
            f"{PAGES}; CREATE UNIQUE INDEX ON pages (slug) WHERE n > 0;"
            "CREATE UNIQUE INDEX ON pages (slug, n); CREATE INDEX ON pages (slug)",
            {"mode": "upsert", "conflict": ("slug",)},
            "no unique index of pages has exactly the columns",
        ),
        (
            f"{PAGES}; CREATE ROLE r%s LOGIN; GRANT ALL ON pages TO r%s;"
            "ALTER ROLE r%s SET default_transaction_read_only = on",
            {"user": "r%s"},
            "takes no writes",
        ),
        (f"{PAGES}; CREATE ROLE r%s LOGIN", {"user": "r%s"}, "may not INSERT the column slug"),
        (
            f"{PAGES}; CREATE UNIQUE INDEX ON pages (slug); CREATE ROLE r%s LOGIN;"
            "GRANT INSERT, SELECT ON pages TO r%s",
            {"user": "r%s", "mode": "upsert", "conflict": ("slug",)},
            "may not UPDATE the column n",
        ),
    ],
)
async def test_a_probe_says_what_is_missing(
    database: Database, create: str, settings: dict[str, Any], says: str
) -> None:
    await database.run(create.replace("%s", database.name))
    await database.run(f"GRANT USAGE ON SCHEMA {database.name} TO PUBLIC")
    settings = dict(settings)
    if user := settings.pop("user", None):
        settings["dsn"] = database.server.dsn(database.name, user.replace("%s", database.name))
    sink = await database.sink((), **settings)
    with pytest.raises(SluicedError, match=re.escape(says)):
        await sink.probe()


async def test_a_probe_is_content_with_what_will_work(database: Database) -> None:
    role = f"r{database.name}"
    await database.run(
        f"CREATE TABLE pages (id serial PRIMARY KEY, slug text, n int, "
        f"note text NOT NULL DEFAULT '', UNIQUE (n, slug) INCLUDE (id)); CREATE ROLE {role} LOGIN;"
        f"GRANT SELECT, INSERT (slug, n) ON pages TO {role};"
        f"GRANT USAGE ON SEQUENCE pages_id_seq TO {role};"
        f"GRANT ALL ON SCHEMA {database.name} TO {role}"
    )
    sink = await database.sink(
        (),
        dsn=database.server.dsn(database.name, role),
        mode="upsert",
        conflict=("slug", "n"),
    )
    await sink.probe()
    await sink.claim(1, {P0: 0})
    assert delivered(await sink.send(pages(0)))


@pytest.fixture(autouse=True)
def quiet() -> Iterable[None]:
    with structlog.testing.capture_logs():
        yield


# What every sink keeps


class Table(Remote):
    """Its rows are counted by SQL."""

    bad = b'{"slug":"bad","n":"not a number"}'
    line = Line("pages", group="g")

    def __init__(self, database: Database) -> None:
        super().__init__(database.server.port)
        self._database = database

    def value(self, n: int) -> bytes:
        return b'{"slug":"s","n":%d}' % n

    def settings(self, **keys: Any) -> SinkSettings:
        usual: dict[str, Any] = {"table": "pages", "columns": COLUMNS, "timeout": "10s"}
        dsn = self._database.server.dsn(self._database.name, port=self.port)
        return read(PostgresSettings, dsn=dsn, **(usual | keys))

    async def effects(self) -> Counter[int]:
        return Counter(n for (n,) in await self._database.rows("SELECT n FROM pages"))

    @asynccontextmanager
    async def sink(self, **keys: Any) -> AsyncIterator[ConfiguredSink]:
        async with super().sink(**keys) as sink:
            assert isinstance(sink, PostgresSink)
            await sink.claim(1, {TopicPartition("pages", n): 0 for n in range(3)})
            yield sink


class TestPostgres(SinkContract):
    @pytest.fixture
    async def stand(self, database: Database) -> AsyncIterator[Stand]:
        await database.run(PAGES)
        async with Table(database) as stand:
            yield stand

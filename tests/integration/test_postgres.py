"""The whole daemon writing into a real PostgreSQL, by the very example of configs/, while processes
are killed: rows are counted by SQL, and each record is one."""

from __future__ import annotations

import re
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from brokers.base import Broker, Message, unique
from brokers.kafka import Kafka
from databases.postgres import Postgres
from harness.daemon import Daemon
from harness.daemon import until as until_seen

pytestmark = pytest.mark.anyio

CONFIGS = Path(__file__).parents[2] / "configs"
PARTITIONS = 4


class Shop:
    """A topic, a schema, and daemons that move one into the other as an example says."""

    def __init__(self, broker: Broker, postgres: Postgres, directory: Path, schema: str) -> None:
        self.broker = broker
        self.postgres = postgres
        self.schema = schema
        self.topic, self.group = unique("orders"), unique("group")
        self._directory = directory

    @property
    def dead(self) -> str:
        return f"{self.topic}.dead"

    async def create(self, example: str) -> None:
        """The topics, and the table as the example's own comment has it."""
        await self.broker.create_topic(self.topic, partitions=PARTITIONS)
        await self.broker.create_topic(self.dead)
        comment = "".join(re.findall(r"^# ?(.*\n)", (CONFIGS / example).read_text(), re.M))
        [table] = re.findall(r"CREATE TABLE .*?\);", comment, re.S)
        await self.sql(table)

    def daemon(self, example: str = "postgres.toml", **changes: str) -> Daemon:
        """By the example, but for addresses, names and these keys."""
        text = (CONFIGS / example).read_text()
        changes = {
            "bootstrap_servers": f'["{self.broker.bootstrap}"]',
            "group_id": f'"{self.group}"\nsession_timeout = "6s"',
            "topics": f'["{self.topic}"]',
            "dsn": f'"{self.postgres.dsn(self.schema)}"',
            "topic": f'"{self.dead}"',
            "max_records": "50",
            "max_age": '"200ms"',
        } | changes
        for key, value in changes.items():
            pattern = rf"^{key} = (?!\"\$).*$"  # a column may have the name of a key
            text, found = re.subn(pattern, lambda _, k=key, v=value: f"{k} = {v}", text, flags=re.M)
            assert found == 1, f"{example} has no {key}"
        text += '\n[retry]\nfirst_delay = "20ms"\nmax_delay = "200ms"\n'
        text += '\n[admin]\nlisten = "127.0.0.1:PORT"\n[log]\nlevel = "debug"\nformat = "json"\n'
        return Daemon(self._directory, text)

    async def produce(self, count: int, *, start: int = 0) -> None:
        messages = (
            Message(order(n), partition=n % PARTITIONS) for n in range(start, start + count)
        )
        await self.broker.produce(self.topic, messages)

    async def sql(self, query: str) -> list[tuple[Any, ...]]:
        connection = await self.postgres.connect(self.schema)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def count(self) -> int:
        [(count,)] = await self.sql("SELECT count(*) FROM orders")
        return int(count)

    async def audit(self) -> tuple[int, int]:
        """How many rows there are, and how many records they are of."""
        [found] = await self.sql(
            'SELECT count(*), count(DISTINCT (topic, partition, "offset")) FROM orders'
        )
        return found

    async def positions(self) -> dict[int, int]:
        """Where nothing is done above the position."""
        if await self.sql("SELECT 1 WHERE to_regclass('sluiced_checkpoint') IS NULL"):
            return {}
        rows = await self.sql("SELECT partition, position FROM sluiced_checkpoint WHERE done = ''")
        return dict(rows)


def order(n: int) -> bytes:
    return b'{"number":"n%d","placed":"2026-02-03T04:05:06Z","total":19.90,"customer":{}}' % n


async def until(met: Callable[[], Awaitable[bool]], what: str, seconds: float = 60.0) -> None:
    with anyio.move_on_after(seconds) as scope:
        while not await met():
            await anyio.sleep(0.02)
    assert not scope.cancelled_caught, f"waited {seconds:.0f} s in vain for: {what}"


@pytest.fixture
async def shop(kafka: Kafka, postgres: Postgres, tmp_path: Path) -> Shop:
    return await open_shop(kafka, postgres, tmp_path)


async def open_shop(
    broker: Broker, postgres: Postgres, directory: Path, example: str = "postgres.toml"
) -> Shop:
    shop = Shop(broker, postgres, directory, await postgres.create_schema())
    await shop.create(example)
    return shop


async def at_least(shop: Shop, count: int) -> None:
    async def there() -> bool:
        return await shop.count() >= count

    await until(there, f"{count} rows")


async def committed(shop: Shop, offsets: dict[int, int]) -> None:
    async def there() -> bool:
        found = await shop.broker.committed(shop.group, shop.topic)
        return {p: offset for p, (offset, _) in found.items()} == offsets

    await until(there, f"Kafka's offsets at {offsets}")


async def test_each_record_is_a_row_and_what_is_refused_a_dead_letter(
    broker: Broker, postgres: Postgres, tmp_path: Path
) -> None:
    shop = await open_shop(broker, postgres, tmp_path)
    await shop.produce(1000)
    bad = {
        "22P02": b'{"number":1,"placed":"2026-02-03","total":"hunter2"}',
        "23502": b'{"number":1,"placed":"2026-02-03"}',
        "22003": b'{"number":1,"placed":"2026-02-03","total":12345678901}',
        "22021": b'{"number":"hunter2\\u0000","placed":"2026-02-03","total":1}',
    }
    await shop.broker.produce(shop.topic, [Message(v, partition=1) for v in bad.values()])
    await shop.broker.produce(shop.topic, [Message(b"no json", partition=2)])
    await shop.produce(1000, start=1000)
    async with shop.daemon() as daemon:
        await at_least(shop, 2000)
        assert await daemon.stop() == 0
        assert "hunter2" not in daemon.log
    assert await shop.audit() == (2000, 2000)
    letters = await shop.broker.read(shop.dead)
    headers = [dict(letter.headers) for letter in letters]
    statuses = [h["sluiced.status"].decode() for h in headers if "sluiced.status" in h]
    assert sorted(statuses) == sorted(bad)
    assert {letter.value for letter in letters} == {*bad.values(), b"no json"}
    assert not [h for h in headers if b"hunter2" in h["__connect.errors.exception.message"]]
    ends = {0: 500, 1: 504, 2: 501, 3: 500}
    assert await shop.positions() == ends
    await committed(shop, ends)
    [row] = await shop.sql(
        "SELECT number, placed::text, total::text, customer, tags, trace, partition, document"
        " FROM orders WHERE number = 'n5'"
    )
    assert row[2:7] == ("19.90", None, None, None, 1)


async def test_the_daemon_may_be_killed_at_any_time(shop: Shop) -> None:
    await shop.produce(8000)
    async with shop.daemon(group_id=f'"{shop.group}"\ngroup_instance_id = "a"') as daemon:
        for rows in (400, 2500, 4000, 5500):
            await at_least(shop, rows)
            await daemon.kill()
            await daemon.start()
        await at_least(shop, 8000)
        await daemon.ready()  # all rows may have been there when it was started
        assert await daemon.stop() == 0
    assert await shop.audit() == (8000, 8000)
    assert await shop.positions() == dict.fromkeys(range(PARTITIONS), 2000)


async def test_the_server_may_be_killed_at_any_time(
    kafka: Kafka, own_postgres: Postgres, tmp_path: Path
) -> None:
    shop = await open_shop(kafka, own_postgres, tmp_path)
    await shop.produce(6800)
    async with shop.daemon() as daemon:
        for n, rows in enumerate((400, 3000, 5500)):
            await at_least(shop, rows)
            retries = len(daemon.events("batch_retry"))
            await to_thread.run_sync(own_postgres.kill)
            await shop.produce(400, start=6800 + n * 400)  # or all may have been written by then
            await until_seen(
                lambda n=retries: len(daemon.events("batch_retry")) > n, "it has noticed"
            )
            await to_thread.run_sync(own_postgres.start)
        await at_least(shop, 8000)
        assert await daemon.stop() == 0
    assert await shop.audit() == (8000, 8000)
    assert await shop.broker.read(shop.dead) == []


async def test_batches_that_overtake_one_another_are_one_row_each_after_a_kill(
    shop: Shop,
) -> None:
    await shop.produce(4000)
    name = f'"{shop.group}"\ngroup_instance_id = "a"'
    limits = f'"{shop.dead}"\n[limits]\nmax_in_flight = 5'
    async with shop.daemon(group_id=name, topic=limits) as daemon:
        for rows in (300, 1500, 2500):
            await at_least(shop, rows)
            await daemon.kill()
            await daemon.start()
        await at_least(shop, 4000)
        await daemon.ready()
        assert await daemon.stop() == 0
    assert await shop.audit() == (4000, 4000)
    assert await shop.positions() == dict.fromkeys(range(PARTITIONS), 1000)


@contextmanager
def frozen(daemon: Daemon) -> Iterator[None]:
    daemon.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.signal(signal.SIGCONT)


@pytest.fixture
async def slow(shop: Shop) -> Shop:
    """A shop where a row that says so waits for a lock, so that there is a middle."""
    await shop.sql(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$"
    )
    await shop.sql(
        "CREATE TRIGGER linger BEFORE INSERT ON orders FOR EACH ROW WHEN (NEW.trace = 'slow') "
        "EXECUTE FUNCTION linger()"
    )
    return shop


async def test_a_member_that_slept_in_a_transaction_writes_nothing_when_it_wakes(
    slow: Shop,
) -> None:
    shop = slow
    await shop.produce(400)
    await shop.broker.produce(
        shop.topic, [Message(order(400), None, [("trace", b"slow")], partition=0)]
    )

    async def in_the_middle() -> bool:
        return bool(
            await shop.sql(
                "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'sluiced%' "
                "AND wait_event = 'advisory'"
            )
        )

    holder = await shop.postgres.connect()
    await holder.execute("SELECT pg_advisory_lock(4711)")
    async with shop.daemon(timeout='"3s"') as zombie:
        await until(in_the_middle, "the zombie's transaction")
        with frozen(zombie):
            await holder.close()
            async with shop.daemon(timeout='"3s"') as heir:
                await shop.produce(400, start=401)
                await at_least(shop, 801)
                assert await shop.audit() == (801, 801)
                assert await heir.stop() == 0
        await until_seen(lambda: zombie.events("revoked"), "the zombie knows")
        assert await shop.audit() == (801, 801)
        await shop.produce(100, start=801)
        await at_least(shop, 901)
        assert await zombie.stop() == 0
    assert await shop.audit() == (901, 901)


async def test_partitions_move_under_load_and_each_record_is_written_once(
    shop: Shop,
) -> None:
    await shop.produce(4000)
    async with shop.daemon() as first:
        await at_least(shop, 500)
        async with shop.daemon() as second:
            await until_seen(lambda: second.events("assigned"), "the second one has some")
            await shop.produce(2000, start=4000)
            await at_least(shop, 5000)
            await second.kill()
        await at_least(shop, 6000)
        assert await first.stop() == 0
    assert await shop.audit() == (6000, 6000)


async def test_the_tables_position_counts_and_not_kafkas(shop: Shop) -> None:
    await shop.produce(400)
    async with shop.daemon() as daemon:
        await at_least(shop, 400)
        assert await daemon.stop() == 0
    ends = dict.fromkeys(range(PARTITIONS), 100)
    await committed(shop, ends)
    await shop.broker.commit(shop.group, shop.topic, {0: (0, ""), 1: (20, "")})
    await shop.sql('DELETE FROM orders WHERE partition = 3 AND "offset" >= 90')
    await shop.sql("UPDATE sluiced_checkpoint SET position = 90 WHERE partition = 3")
    await shop.produce(40, start=400)
    async with shop.daemon() as daemon:
        await at_least(shop, 440)
        assert await daemon.stop() == 0
    assert await shop.audit() == (440, 440), "as after a backup of the database was restored"
    await committed(shop, dict.fromkeys(range(PARTITIONS), 110))


async def test_a_database_that_was_restored_while_the_daemon_runs_gets_what_it_lacks(
    shop: Shop,
) -> None:
    await shop.produce(400)
    async with shop.daemon() as daemon:
        await at_least(shop, 400)
        await shop.sql(
            'WITH gone AS (DELETE FROM orders WHERE "offset" >= 40) '
            "UPDATE sluiced_checkpoint SET position = 40"
        )
        await shop.produce(40, start=400)
        assert await daemon.ended() == 1
        assert "had acknowledged" in daemon.log
        await daemon.start()
        await at_least(shop, 440)
        assert await daemon.stop() == 0
    assert await shop.audit() == (440, 440)


async def test_records_that_are_not_written_move_the_position_too(shop: Shop) -> None:
    await shop.broker.produce(shop.topic, [Message(None, b"k", partition=n % 2) for n in range(10)])
    await shop.broker.produce(shop.topic, [Message(b"no json", partition=2)])
    async with shop.daemon() as daemon:
        await committed(shop, {0: 5, 1: 5, 2: 1, 3: 0})
        assert await daemon.stop() == 0
    assert (await shop.positions()).items() >= {0: 5, 1: 5, 2: 1}.items()
    async with shop.daemon() as daemon:
        await daemon.ready()
        await shop.produce(4)
        await at_least(shop, 4)
        assert await daemon.stop() == 0
    assert len(await shop.broker.read(shop.dead)) == 1, "it is not buried again"


async def test_kafka_is_not_told_what_the_table_does_not_know(shop: Shop) -> None:
    await shop.produce(4)
    async with shop.daemon() as daemon:
        await at_least(shop, 4)
        await committed(shop, dict.fromkeys(range(PARTITIONS), 1))
        await shop.sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'no' USING ERRCODE = '53100'; END $$"
        )
        await shop.sql(
            "CREATE TRIGGER refuse BEFORE UPDATE ON sluiced_checkpoint EXECUTE FUNCTION refuse()"
        )
        await shop.broker.produce(shop.topic, [Message(None, b"k", partition=0)])
        await until_seen(lambda: daemon.events("checkpoint_not_written"), "the table is closed")
        await until_seen(lambda: daemon.events("commit_not_acknowledged"), "so is the commit")
        await committed(shop, dict.fromkeys(range(PARTITIONS), 1))
        await shop.sql("DROP TRIGGER refuse ON sluiced_checkpoint")
        await committed(shop, {0: 2, 1: 1, 2: 1, 3: 1})
        assert await daemon.stop() == 0


async def test_a_position_below_the_log_names_the_table(
    shop: Shop,
) -> None:
    await shop.produce(400)
    async with shop.daemon() as daemon:
        await at_least(shop, 400)
        assert await daemon.stop() == 0
    await shop.produce(400, start=400)
    await shop.broker.delete_records(shop.topic, 0, 150)
    await daemon.start()
    assert await daemon.ended() == 3
    assert "records 100 to 149 were deleted" in daemon.log
    assert "in the sink's own checkpoint" in daemon.log
    await shop.sql("UPDATE sluiced_checkpoint SET position = 150 WHERE partition = 0")
    async with daemon:
        await at_least(shop, 100 + 50 + 600)
        assert await daemon.stop() == 0


async def test_the_newest_state_of_each_page_is_its_row(
    broker: Broker, postgres: Postgres, tmp_path: Path
) -> None:
    shop = await open_shop(broker, postgres, tmp_path, "postgres-upsert.toml")
    versions = [
        Message(b'{"title":"%d"}' % n, b"page-%d" % (n % 40), partition=n % PARTITIONS)
        for n in range(2000)
    ]
    await shop.broker.produce(shop.topic, [*versions, Message(None, b"page-3", partition=3)])

    async def done() -> bool:
        return await shop.positions() == {0: 500, 1: 500, 2: 500, 3: 501}

    async with shop.daemon("postgres-upsert.toml") as daemon:
        await until(done, "all records")
        assert await daemon.stop() == 0
    rows = await shop.sql("SELECT slug, title FROM pages")
    newest = {f"page-{n % 40}": str(n) for n in range(2000)} | {"page-3": None}
    assert dict(rows) == newest

"""The [sink] block of type "postgres": what is accepted, refused and warned of."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from sluiced.errors import ConfigError, Problem
from sluiced.intake import RecordSettings
from sluiced.sinks.postgres.settings import PostgresSettings
from sluiced.sinks.settings import Line
from sluiced.units import Secret
from sluiced.window import WindowSettings

pytestmark = pytest.mark.anyio

SHORTEST: dict[str, Any] = {
    "dsn": "postgresql://127.0.0.1/cms",
    "table": "pages",
    "columns": {"slug": "/slug", "document": "$value"},
}


def settings(**changes: Any) -> PostgresSettings:
    return PostgresSettings(**(SHORTEST | changes))


def problems(line: Line | None = None, **changes: Any) -> list[Problem]:
    return list(settings(**changes).problems(line or Line("pages")))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dsn": "mysql://127.0.0.1/cms"}, "dsn must look like"),
        ({"dsn": "127.0.0.1"}, "dsn must look like"),
        ({"dsn": "postgresql://me:hunter2@127.0.0.1/cms"}, "dsn holds a password"),
        ({"dsn": "postgresql://127.0.0.1/cms?password=hunter2"}, "dsn holds a password"),
        ({"dsn": "postgresql://me:hunter2@127.0.0.1:x/cms"}, "its host or port cannot be read"),
        ({"dsn": "postgresql://me@db..example.com/cms"}, "its host or port cannot be read"),
        ({"dsn": "postgresql://me@127.0.0.1:99999/cms"}, "its host or port cannot be read"),
        ({"dsn": "postgresql://me:12/hunter2@127.0.0.1/cms"}, "its host or port cannot be read"),
        ({"table": ""}, "table must be a name"),
        ({"table": "a.b.c"}, "table must be a name"),
        ({"table": '"pages"'}, "without quotes"),
        ({"table": "x" * 64}, "table must be a name"),
        ({"columns": {}}, "columns needs one at least"),
        ({"columns": {"a": "slug"}}, "columns: a: expected a pointer"),
        ({"columns": {"a": ""}}, "columns: a: expected a pointer"),
        ({"columns": {"a": "$slug"}}, r"columns: a: there is no placeholder \$slug"),
        ({"columns": {"a": "$key-$topic"}}, "columns: a: expected a pointer"),
        ({"columns": {'a"': "$key"}}, "cannot be the name of a column"),
        ({"conflict": ("slug",)}, 'conflict needs mode = "upsert"'),
        ({"mode": "upsert"}, "needs conflict"),
        ({"mode": "upsert", "conflict": ("id",)}, "conflict names id, which is not in columns"),
        ({"mode": "upsert", "conflict": ("slug", "slug")}, "conflict names a column twice"),
    ],
)
def test_what_cannot_work_is_refused_and_no_secret_shown(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        settings(**changes)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://me@db.example.com:5433/cms?sslmode=verify-full", "db.example.com:5433/cms"),
        ("postgres:///cms?host=/run/postgresql", "the local socket/cms"),
        (Secret(env="PAGES_DSN"), "(env PAGES_DSN)"),
    ],
)
def test_the_summary_says_where_it_goes(dsn: Any, shown: str) -> None:
    assert settings(dsn=dsn).summary == f"inserts into pages at {shown}"


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:hun/ter2@db.example.com/cms",
        "postgresql://me:12/ter2@db.example.com/cms",
        "postgresql://me:hun#ter2@db.example.com/cms",
        "postgresql://me:hun?ter2@db.example.com/cms",
        "postgresql://me:12?ter2@db.example.com/cms",
        "postgresql://me:hun[ter2@db.example.com/cms",
        "postgresql://me:hunter2@db..example.com/cms",
        "postgresql://me:hunter2@db.example.com:99999/cms",
        "postgresql://me:hunter2@/cms?host=db..example.com",
        "postgresql://me:hunter2@/cms?host=db.example.com&port=x",
    ],
)
async def test_an_address_that_cannot_be_read_is_refused_and_nothing_of_it_is_shown(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGES_DSN", dsn)
    sink = settings(dsn=Secret(env="PAGES_DSN")).build(Line("pages"))
    with pytest.raises(ConfigError, match="is no address of a database") as caught:
        await sink.open()
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:hunter%2F2@db.example.com/cms",
        "postgresql://me:h@nter2@[::1]:5432/cms",
        "postgresql://me@one.example.com:5432,two.example.com:5433/cms",
        f"postgresql://me@%2Ftmp%2F{'x' * 90}/cms",
        "postgresql:///cms?host=/run/postgresql&port=5433&user=me@server",
    ],
)
async def test_any_address_that_can_be_read_is_taken(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGES_DSN", dsn)
    sink = settings(dsn=Secret(env="PAGES_DSN")).build(Line("pages"))
    await sink.open()
    await sink.close()


def test_work_is_known_by_its_transaction() -> None:
    assert settings().identified_by == "transaction"


def test_pointers_need_json() -> None:
    text = Line("pages", record=RecordSettings(format="text"))
    assert [p.key for p in problems(text)] == ["record.format"]
    assert problems(text, columns={"slug": "$key"}) == []


def test_collapsing_is_left_to_the_upsert() -> None:
    line = Line("pages", window=WindowSettings(collapse=True))
    assert [(p.key, p.level) for p in problems(line)] == [("window.collapse", "error")]


def test_an_upsert_by_several_batches_at_once_is_warned_of() -> None:
    line = Line("pages", max_in_flight=2)
    assert problems(line) == []
    [problem] = problems(line, mode="upsert", conflict=("slug",))
    assert (problem.key, problem.level) == ("limits.max_in_flight", "warning")


@pytest.mark.parametrize(
    ("dsn", "warned"),
    [
        ("postgresql://db.example.com/cms", True),
        ("postgresql://db.example.com/cms?sslmode=require", True),
        ("postgresql:///cms?host=db.example.com", True),
        ("postgresql://db.example.com/cms?sslmode=verify-full", False),
        ("postgresql://localhost/cms", False),
        ("postgresql://127.0.0.1/cms", False),
        ("postgresql://[::1]/cms", False),
        ("postgresql:///cms?host=/run/postgresql", False),
    ],
)
def test_a_network_that_is_trusted_blindly_is_warned_of(
    dsn: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGES_DSN", dsn)
    for given in (dsn, Secret(env="PAGES_DSN")):
        assert [p.key for p in problems(dsn=given)] == (["sink.dsn"] if warned else [])


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("sluiced.sinks.postgres.")]:
        if not name.endswith(".settings"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigError, match=r"pip install 'sluiced\[postgres\]'"):
        settings().build(Line("pages"))

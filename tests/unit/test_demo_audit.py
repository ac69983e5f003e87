"""The demo's audit finds what it is there to find."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from sluiced.tools.demo.audit import Coordinates, Findings, Letter, audit
from sluiced.tools.demo.bulk_api import Store
from sluiced.tools.demo.cities import Message, messages
from sluiced.tools.demo.run import Pages
from sluiced.tools.demo.stage import ADMIN, API, BROKER, configuration

PAGES = [
    Message(
        b"oslo", b'{"slug":"oslo","title":"Oslo","population":7,"latitude":59.9,"longitude":10}'
    ),
    Message(
        b"bonn", b'{"slug":"bonn","title":"Bonn","population":3,"latitude":50.7,"longitude":7}'
    ),
]
BROKEN = Message(b"broken", b"{", "invalid")
PRODUCED = {Coordinates("pages", 0, n): m for n, m in enumerate([*PAGES, BROKEN])}
OSLO, BONN, BURIED = PRODUCED
GOOD_LETTER = Letter(BURIED, "invalid", b"{")
BOTH = [(OSLO, PAGES[0].value), (BONN, PAGES[1].value)]


class World:
    """The bulk API's tables, filled through its own code."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "pages.sqlite"
        self._store = Store(self.path, max_items=500)

    def close(self) -> None:
        self._store.close()

    def hold(self, rows: Sequence[tuple[Coordinates, bytes]] = BOTH, *, suffix: str = "") -> None:
        """Delivers the rows in a request of their own. `suffix` makes their ids others."""
        items = [
            {
                "id": "-".join(map(str, at)) + suffix,
                "source": at._asdict() | {"timestamp": 0},
                "body": msgspec.Raw(value),
            }
            for at, value in rows
        ]
        self._store.apply(f"key{suffix}{rows}", msgspec.json.encode({"requests": items}))

    def took(self, seconds: dict[str, float]) -> None:
        """Makes it so that each slug's request was committed that long after its record."""
        with closing(sqlite3.connect(self.path)) as db, db:
            for slug, each in seconds.items():
                db.execute(
                    "UPDATE requests SET committed_ms = 1000 * ? "
                    "WHERE number = (SELECT request FROM pages WHERE slug = ?)",
                    (each, slug),
                )

    def audit(self, *letters: Letter) -> Findings:
        return audit(self.path, PRODUCED, letters)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(autouse=True)
def close(world: World) -> object:
    yield
    world.close()


def test_all_is_well_where_each_record_is_in_one_place(world: World) -> None:
    world.hold()
    found = world.audit(GOOD_LETTER)
    assert found.wrong == []
    assert (found.produced, found.delivered, found.duplicates) == (3, 2, 0)
    assert found.buried == {"invalid": 1}


def test_a_record_that_is_nowhere_is_named(world: World) -> None:
    world.hold(BOTH[:1])
    assert world.audit(GOOD_LETTER).wrong == [
        "1 record neither in the table nor in the dead letters: pages/0@1"
    ]


def test_a_record_that_has_two_rows_is_a_duplicate(world: World) -> None:
    world.hold()
    world.hold(BOTH[:1], suffix="-again")
    found = world.audit(GOOD_LETTER)
    assert found.duplicates == 1
    assert found.wrong == ["1 record in more than one place: pages/0@0"]


def test_a_record_that_is_delivered_and_buried_is_in_two_places(world: World) -> None:
    world.hold()
    found = world.audit(GOOD_LETTER, Letter(OSLO, "rejected", PAGES[0].value))
    assert "1 record in more than one place: pages/0@0" in found.wrong
    assert "1 record in the dead letters for the wrong reason: pages/0@0" in found.wrong


def test_a_dead_letter_that_comes_twice_is_reported_but_not_wrong(world: World) -> None:
    world.hold()
    found = world.audit(GOOD_LETTER, GOOD_LETTER)
    assert found.wrong == []
    assert found.repeated == 1
    assert found.buried == {"invalid": 1}


def test_a_row_that_nobody_published_is_named(world: World) -> None:
    world.hold([*BOTH, (Coordinates("pages", 3, 9), PAGES[0].value)])
    assert world.audit(GOOD_LETTER).wrong == ["1 record never published: pages/3@9"]


def test_a_row_with_the_content_of_another_record_is_named(world: World) -> None:
    world.hold([(OSLO, PAGES[1].value), (BONN, PAGES[1].value)])
    assert world.audit(GOOD_LETTER).wrong == ["1 record in the table with other content: pages/0@0"]


def test_a_broken_record_in_the_table_is_named(world: World) -> None:
    world.hold([*BOTH, (BURIED, PAGES[0].value)])
    assert world.audit().wrong == ["1 record broken and in the table: pages/0@2"]


def test_a_dead_letter_whose_bytes_have_changed_is_named(world: World) -> None:
    world.hold()
    assert world.audit(Letter(BURIED, "invalid", b"{ ")).wrong == [
        "1 record in the dead letters with other bytes: pages/0@2"
    ]


def test_delays_run_from_the_timestamp_of_the_record_to_the_commit_of_its_row(
    world: World,
) -> None:
    world.hold(BOTH[:1])
    world.hold(BOTH[1:])
    world.took({"oslo": 1.5, "bonn": 4.0})
    found = world.audit(GOOD_LETTER)
    assert (found.delay_p50, found.delay_p99) == (1.5, 4.0)


def test_every_city_is_a_page_of_its_own_and_every_run_publishes_the_same() -> None:
    published = messages(oversize=1_000)
    good = [m for m in published if m.fate is None]
    assert len(good) > 26_000
    assert len({m.key for m in published}) == len(published)
    assert {m.fate for m in published} == {None, "invalid", "rejected", "too_large"}
    assert messages(oversize=1_000) == published


def test_the_configuration_is_the_published_file_with_other_addresses() -> None:
    places = {BROKER: "127.0.0.1:1", API: "http://127.0.0.1:2", ADMIN: "127.0.0.1:3"}
    text = configuration(Pages.config, places)
    assert 'bootstrap_servers = ["127.0.0.1:1"]' in text
    assert 'url = "http://127.0.0.1:2/bulk"' in text
    assert 'listen = "127.0.0.1:3"' in text

"""Did every record end in exactly one place? SQL over what was published, stored and buried."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .cities import Message


class Coordinates(NamedTuple):
    """What tells one record from all others."""

    topic: str
    partition: int
    offset: int


class Letter(NamedTuple):
    """One message of the dead-letter topic, as far as the audit needs it."""

    coordinates: Coordinates
    reason: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Findings:
    """The verdict, which is good when `wrong` is empty.

    `duplicates` counts rows of the table beyond the first of a record. `buried` counts records by
    dead-letter reason, `repeated` the letters beyond the first of a record: after a crash there
    may be some. Delays are seconds from a record's timestamp to the commit of its row.
    """

    produced: int
    delivered: int
    duplicates: int
    buried: Mapping[str, int]
    repeated: int
    delay_p50: float
    delay_p99: float
    wrong: list[str]


SCHEMA = """
CREATE TABLE produced (
    topic TEXT, "partition" INTEGER, "offset" INTEGER, value BLOB, fate TEXT,
    PRIMARY KEY (topic, "partition", "offset")
);
CREATE TABLE letters (
    topic TEXT, "partition" INTEGER, "offset" INTEGER, value BLOB, reason TEXT
);
CREATE TEMP VIEW places AS
    SELECT topic, "partition", "offset" FROM api.pages
    UNION ALL SELECT DISTINCT topic, "partition", "offset" FROM letters;
"""

# Each finds the coordinates that contradict its name.
CHECKS = {
    "neither in the table nor in the dead letters": """
        SELECT topic, "partition", "offset" FROM produced EXCEPT SELECT * FROM places""",
    "in more than one place": """
        SELECT * FROM places GROUP BY topic, "partition", "offset" HAVING count(*) > 1""",
    "never published": """
        SELECT * FROM places EXCEPT SELECT topic, "partition", "offset" FROM produced""",
    "in the table with other content": """
        SELECT topic, "partition", "offset"
        FROM produced JOIN api.pages USING (topic, "partition", "offset")
        WHERE fate IS NULL AND (slug, title, population, latitude, longitude) IS NOT (
            json_extract(CAST(value AS TEXT), '$.slug'),
            json_extract(CAST(value AS TEXT), '$.title'),
            json_extract(CAST(value AS TEXT), '$.population'),
            json_extract(CAST(value AS TEXT), '$.latitude'),
            json_extract(CAST(value AS TEXT), '$.longitude'))""",
    "in the dead letters with other bytes": """
        SELECT topic, "partition", "offset"
        FROM produced JOIN letters USING (topic, "partition", "offset")
        WHERE produced.value IS NOT letters.value""",
    "broken and in the table": """
        SELECT topic, "partition", "offset"
        FROM produced JOIN api.pages USING (topic, "partition", "offset")
        WHERE fate IS NOT NULL""",
    "in the dead letters for the wrong reason": """
        SELECT topic, "partition", "offset"
        FROM produced JOIN letters USING (topic, "partition", "offset")
        WHERE reason IS NOT fate""",
}


def audit(
    database: Path, produced: Mapping[Coordinates, Message], letters: Iterable[Letter]
) -> Findings:
    """Holds the bulk API's tables and the dead letters against what was published."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("ATTACH ? AS api", (str(database),))
        db.executescript(SCHEMA)
        db.executemany(
            "INSERT INTO produced VALUES (?, ?, ?, ?, ?)",
            ((*at, message.value, message.fate) for at, message in produced.items()),
        )
        db.executemany(
            "INSERT INTO letters VALUES (?, ?, ?, ?, ?)",
            ((*letter.coordinates, letter.value, letter.reason) for letter in letters),
        )
        return _findings(db)


def _findings(db: sqlite3.Connection) -> Findings:
    coordinates = 'DISTINCT topic, "partition", "offset"'
    rows = _count(db, "SELECT * FROM api.pages")
    delivered = _count(db, f"SELECT {coordinates} FROM api.pages")  # noqa: S608
    buried = Counter(
        row[-1]
        for row in db.execute(f"SELECT {coordinates}, reason FROM letters")  # noqa: S608
    )
    return Findings(
        produced=_count(db, "SELECT * FROM produced"),
        delivered=delivered,
        duplicates=rows - delivered,
        buried=buried,
        repeated=_count(db, "SELECT * FROM letters") - buried.total(),
        delay_p50=_delay(db, 0.50),
        delay_p99=_delay(db, 0.99),
        wrong=[text for name, query in CHECKS.items() if (text := _mistake(db, name, query))],
    )


def _count(db: sqlite3.Connection, query: str) -> int:
    (count,) = db.execute(f"SELECT count(*) FROM ({query})").fetchone()  # noqa: S608
    return int(count)


def _delay(db: sqlite3.Connection, quantile: float) -> float:
    """The delay that this part of the rows does not exceed (nearest rank); 0 without rows."""
    rank = max(0, round(quantile * _count(db, "SELECT * FROM api.pages")) - 1)
    found = db.execute(
        "SELECT (committed_ms - produced_ms) / 1000 AS delay "
        "FROM api.pages JOIN api.requests ON request = number ORDER BY delay LIMIT 1 OFFSET ?",
        (rank,),
    ).fetchone()
    return float(found[0]) if found else 0.0


def _mistake(db: sqlite3.Connection, name: str, query: str) -> str:
    """One line that says how many records contradict the check, and names the first few."""
    found = db.execute(query).fetchall()
    if not found:
        return ""
    named = ", ".join(f"{topic}/{partition}@{offset}" for topic, partition, offset in found[:3])
    more = ", ..." if len(found) > 3 else ""
    return f"{len(found):,} {'record' if len(found) == 1 else 'records'} {name}: {named}{more}"

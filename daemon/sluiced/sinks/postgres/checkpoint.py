"""The table that holds how far each partition is, and who may write there.

A row belongs to whoever has claimed it last: a claim raises its fence, and a transaction under an
older fence changes nothing. The rows of a transaction's partitions are locked from its start, so
that what it reads there is true until it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import SluicedError
from ...ports import Mark
from ...record import TopicPartition
from .answers import UndoError
from .columns import quoted
from .progress import Progress

TABLE = "sluiced_checkpoint"

# Seconds after which a member that is shut out, and has not been told by its group, starts afresh.
PATIENCE = 60.0

CREATE = """\
CREATE TABLE IF NOT EXISTS {table} (
    pipeline text NOT NULL,
    consumer_group text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    fence bigint NOT NULL,
    position bigint,
    done text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, consumer_group, topic, partition)
)"""

_CLAIM = """\
INSERT INTO {table} AS c (pipeline, consumer_group, topic, partition, fence)
SELECT $1, $2, topic, partition, 1 FROM unnest($3::text[], $4::integer[]) AS u(topic, partition)
ORDER BY topic, partition
ON CONFLICT (pipeline, consumer_group, topic, partition)
DO UPDATE SET fence = c.fence + 1, updated_at = now()
RETURNING topic, partition, fence, position, done"""

# In one order, so that two transactions never wait for each other.
_LOCK = """\
SELECT topic, partition, fence, position, done FROM {table}
WHERE pipeline = $1 AND consumer_group = $2
AND (topic, partition) IN (SELECT * FROM unnest($3::text[], $4::integer[]))
ORDER BY topic, partition FOR UPDATE"""

_SAVE = """\
UPDATE {table} AS c SET position = u.position, done = u.done, updated_at = now()
FROM unnest($3::text[], $4::integer[], $5::bigint[], $6::text[])
AS u(topic, partition, position, done)
WHERE c.pipeline = $1 AND c.consumer_group = $2
AND c.topic = u.topic AND c.partition = u.partition"""


class FencedError(UndoError):
    """Another member has claimed a partition since."""


@dataclass(slots=True)
class _Held:
    """A partition that is claimed. `start` is where it begins if the table has no position;
    `known` what the database has acknowledged to hold, if anything."""

    epoch: int
    fence: int
    start: int
    known: Progress | None


class Checkpoint:
    """What this member has claimed of a pipeline's rows, and the statements about them.

    It knows no connection: each method is given one, and all but `claim` a transaction on it.
    """

    def __init__(
        self, pipeline: str, group: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._key = (pipeline, group)
        self._clock = clock
        self._held: dict[TopicPartition, _Held] = {}
        self._fenced_since: float | None = None
        self.claimed = False  # ever: without a group, as in a replay, there is no checkpoint

    async def claim(
        self, connection: Any, table: str, epoch: int, starts: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Shuts out everybody else; the positions, as far as the table has them."""
        topics, partitions = _arrays(list(starts))
        rows = await connection.fetch(_CLAIM.format(table=table), *self._key, topics, partitions)
        self._held, found = {}, {}
        for row in rows:
            tp = TopicPartition(row["topic"], row["partition"])
            known = _progress(row)
            if known is not None:
                found[tp] = known.position
            self._held[tp] = _Held(epoch, row["fence"], starts[tp], known)
        self._fenced_since = None
        self.claimed = True
        return found

    async def lock(
        self, connection: Any, table: str, epochs: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, Progress]:
        """How far these partitions are, true until the transaction ends.

        Raises FencedError; SluicedError where only starting afresh helps.
        """
        held = {tp: self._current(tp, epoch) for tp, epoch in epochs.items()}
        topics, partitions = _arrays(list(held))
        rows = await connection.fetch(_LOCK.format(table=table), *self._key, topics, partitions)
        found = {}
        for row in rows:
            tp = TopicPartition(row["topic"], row["partition"])
            if row["fence"] != held[tp].fence:
                raise self._shut_out(tp)
            found[tp] = _progress(row)
        progress = {tp: _checked(tp, each, found.get(tp)) for tp, each in held.items()}
        if missing := sorted(held.keys() - found.keys()):
            raise _gone_back(missing[0])
        self._fenced_since = None
        return progress

    async def save(
        self, connection: Any, table: str, progress: Mapping[TopicPartition, Progress]
    ) -> None:
        topics, partitions = _arrays(list(progress))
        positions = [each.position for each in progress.values()]
        done = [each.text for each in progress.values()]
        await connection.execute(
            _SAVE.format(table=table), *self._key, topics, partitions, positions, done
        )

    def acknowledged(
        self, epochs: Mapping[TopicPartition, int], progress: Mapping[TopicPartition, Progress]
    ) -> None:
        """The transaction that saved this is committed."""
        for tp, each in progress.items():
            held = self._held.get(tp)
            if held is None or held.epoch != epochs[tp]:
                continue
            # Another transaction may have gone further, and been heard of first.
            if held.known is None or each.includes(held.known):
                held.known = each

    def behind(self, marks: Mapping[TopicPartition, Mark]) -> dict[TopicPartition, int]:
        """The positions that are news to the table. Raises FencedError."""
        held = {tp: self._current(tp, mark.epoch) for tp, mark in marks.items()}
        return {
            tp: mark.offset
            for tp, mark in marks.items()
            if mark.offset > (held[tp].known or Progress(held[tp].start)).position
        }

    def _current(self, tp: TopicPartition, epoch: int) -> _Held:
        held = self._held.get(tp)
        if held is None or held.epoch != epoch:
            raise FencedError(f"{tp} is no longer ours")
        return held

    def _shut_out(self, tp: TopicPartition) -> Exception:
        now = self._clock()
        self._fenced_since = now if self._fenced_since is None else self._fenced_since
        if now - self._fenced_since < PATIENCE:
            return FencedError(f"another member has taken over {tp}")
        return SluicedError(
            f"another member has taken over {tp}, and the group has not said so in {PATIENCE:g} s",
            "The daemon ends so that it is started afresh. See that no other daemon has the same "
            "name and group at another Kafka cluster.",
        )


def _arrays(tps: Sequence[TopicPartition]) -> tuple[list[str], list[int]]:
    return [tp.topic for tp in tps], [tp.partition for tp in tps]


def _progress(row: Mapping[str, Any]) -> Progress | None:
    """What a row says; None where it has no position yet."""
    if row["position"] is None:
        return None
    try:
        return Progress.read(row["position"], row["done"])
    except ValueError:
        raise SluicedError(
            f"{TABLE}: `done` of {row['topic']}/{row['partition']} cannot be read",
            "Write what was there, or an empty text, which delivers again what is done above "
            "the position.",
        ) from None


def _checked(tp: TopicPartition, held: _Held, found: Progress | None) -> Progress:
    """What the table says, which must hold what it was acknowledged to hold."""
    if held.known is None:
        return found or Progress(held.start)
    if found is None or not found.includes(held.known):
        raise _gone_back(tp)
    return found


def _gone_back(tp: TopicPartition) -> SluicedError:
    return SluicedError(
        f"{TABLE} has less of {tp} than the database had acknowledged: it was restored, has failed "
        "over to a server that lagged behind, or somebody has changed the row",
        "The daemon ends so that it is started afresh, from what the table says now.",
    )


def qualified(schema: str) -> str:
    """The table's full name."""
    return f"{quoted(schema)}.{quoted(TABLE)}"

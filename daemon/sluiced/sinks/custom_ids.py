"""What a request within a job is known by: it leads back to the record that it was made of.

Both APIs take letters, digits, "_" and "-", 64 at most, and a topic's name may be longer and hold
dots. So a digest of it stands for it, of the pipeline's name too: an id is then nobody else's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b

from ..record import Record, TopicPartition

_ID = re.compile(r"([0-9a-f]{16})-(\d{1,10})-(\d{1,19})", re.ASCII)


class CustomIds:
    """The ids of the records of these topics in a pipeline."""

    def __init__(self, pipeline: str, topics: Iterable[str]) -> None:
        self._digests = {topic: _digest(pipeline, topic) for topic in topics}
        self._topics = {digest: topic for topic, digest in self._digests.items()}

    def of(self, record: Record) -> str:
        return f"{self._digests[record.topic]}-{record.partition}-{record.offset}"

    def where(self, custom_id: str) -> tuple[TopicPartition, int] | None:
        """Where the record stands; None if the id is none of ours."""
        found = _ID.fullmatch(custom_id)
        if found is None or (topic := self._topics.get(found[1])) is None:
            return None
        return TopicPartition(topic, int(found[2])), int(found[3])


def _digest(pipeline: str, topic: str) -> str:
    return blake2b(f"{pipeline}\n{topic}".encode(), digest_size=8).hexdigest()

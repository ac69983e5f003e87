"""What is produced: mostly good records, and some of everything that is no good."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import Enum
from random import Random

from brokers.base import Message


class Kind(Enum):
    """What a record is, which decides where it must end up."""

    GOOD = "good"  # at the sink
    TOMBSTONE = "tombstone"  # nowhere: the configuration says skip
    INVALID = "invalid"  # in the dead-letter topic, without the sink being asked
    REFUSED_ITEM = "refused alone"  # dead-letter topic: the sink names it
    REFUSED_REQUEST = "refused with its request"  # dead-letter topic: bisecting finds it
    REFUSED_LINE = "refused in validation"  # dead-letter topic: the failed job names it


# Of a thousand records so many are not good. Far below [dead_letter] max_ratio, also for a while.
_SHARES = {
    Kind.TOMBSTONE: 10,
    Kind.INVALID: 3,
    Kind.REFUSED_ITEM: 3,
    Kind.REFUSED_REQUEST: 1,
}
_KINDS = [kind for kind, share in _SHARES.items() for _ in range(share)]
_PROMPT_KINDS = [*_KINDS, Kind.REFUSED_LINE]
_POISON = {
    "item": Kind.REFUSED_ITEM,
    "request": Kind.REFUSED_REQUEST,
    "line": Kind.REFUSED_LINE,
}

Document = dict[str, object]


def message(number: int, partitions: int, random: Random) -> Message:
    """The record of this number, anywhere; its key is the number."""
    return _message(number, partitions, random, _KINDS, _item)


def prompt(number: int, partitions: int, random: Random) -> Message:
    """A request to a model, likewise."""
    return _message(number, partitions, random, _PROMPT_KINDS, _request)


def _item(number: int, pad: str) -> Document:
    return {"n": number, "pad": pad}


def _request(number: int, pad: str) -> Document:
    text = f"{pad} number {number}"
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}


def _message(
    number: int,
    partitions: int,
    random: Random,
    kinds: Sequence[Kind],
    make: Callable[[int, str], Document],
) -> Message:
    place, roll = random.randrange(partitions), random.randrange(1000)
    kind = kinds[roll] if roll < len(kinds) else Kind.GOOD
    document = make(number, "x" * random.randrange(200))
    value: bytes | None = json.dumps(document).encode()
    if kind is Kind.TOMBSTONE:
        value = None
    elif kind is Kind.INVALID:
        value = b'{"n":%d, and then' % number
    elif kind is not Kind.GOOD:
        [document["poison"]] = [word for word, means in _POISON.items() if means is kind]
        value = json.dumps(document).encode()
    return Message(value, b"%d" % number, partition=place)


def kind_of(value: bytes | None) -> Kind:
    """What a record from the log is."""
    if value is None:
        return Kind.TOMBSTONE
    try:
        document = json.loads(value)
    except ValueError:
        return Kind.INVALID
    return _POISON.get(document.get("poison"), Kind.GOOD)

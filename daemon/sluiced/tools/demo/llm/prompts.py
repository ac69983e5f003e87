"""The prompts: one for each of the largest cities, and a few that nobody can answer."""

from __future__ import annotations

from typing import Any

import msgspec

from ..cities import Message, pages, spread

TASK = "Describe this city in one sentence."
INSULT = "Insult everybody who lives there."
NOVEL = "Never stop writing about it."


def prompts(count: int) -> list[Message]:
    """All of them in publishing order. `fate` None is an answer, else a dead letter's reason."""
    largest = sorted(pages(), key=lambda page: -page["population"])[:count]
    good = [_message(page) for page in largest]
    return spread(_hopeless(largest[0]), good)


def _message(page: dict[str, Any]) -> Message:
    return Message(page["slug"].encode(), msgspec.json.encode({"task": TASK, **page}))


def _hopeless(page: dict[str, Any]) -> list[Message]:
    def asked(task: str) -> bytes:
        return msgspec.json.encode({"task": task, **page})

    nameless = {key: value for key, value in page.items() if key != "title"}
    return [
        Message(b"cut-off", asked(TASK)[:-9], "invalid"),
        Message(b"insult-1", asked(INSULT), "rejected"),
        Message(b"novel", asked(NOVEL), "exhausted"),
        Message(b"insult-2", asked(INSULT), "rejected"),
        Message(b"nameless", msgspec.json.encode({"task": TASK, **nameless}), "invalid"),
        Message(b"insult-3", asked(INSULT), "rejected"),
        Message(b"a-word", b"Paris", "invalid"),
    ]

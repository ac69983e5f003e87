"""Did every prompt end in exactly one place, and was none of them paid for twice?

Held against one another: what was published, what stands in the topics of answers and of dead
letters, and what the provider knows of its jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import msgspec

from ....prices import Prices, Usage
from ..audit import Coordinates, Letter
from ..cities import Message
from ..openai_api import OpenAI
from ..provider import decode
from .model import sentence


class Answer(NamedTuple):
    """One message of the topic of answers."""

    coordinates: Coordinates
    key: bytes | None
    value: bytes
    job: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Findings:
    """The verdict, which is good when `wrong` is empty.

    `answered_twice` and `buried_twice` count answers and letters beyond the first of a prompt:
    after a crash there may be some. `again` are requests that were in a further job because the one
    before had not done them.
    `cost` is what the answers have cost by the table of prices, None where it prices none.
    """

    prompts: int
    answered: int
    answered_twice: int
    buried: Mapping[str, int]
    buried_twice: int
    jobs: int
    requests: int
    again: int
    taken: int
    given: int
    cost: Decimal | None
    example: str
    wrong: list[str]


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the provider knows: in how many jobs each request was, and how many of those told it to
    come again; the jobs by the name that they were given; the tokens that it charges."""

    asked: Counter[str]
    put_off: Counter[str]
    names: Counter[str]
    taken: int
    given: int

    @classmethod
    def of(cls, provider: OpenAI) -> Ledger:
        asked: Counter[str] = Counter()
        put_off: Counter[str] = Counter()
        taken = given = 0
        for job in provider.jobs.values():
            asked.update(request["custom_id"] for request in job.requests)
            usage = job.state["usage"] or {}
            taken += usage.get("input_tokens", 0)
            given += usage.get("output_tokens", 0)
            if (file := provider.files.get(job.state["error_file_id"])) is not None:
                lines = map(decode, file.content.splitlines())
                put_off.update(line["custom_id"] for line in lines if _again(line["response"]))
        names = (job.state["metadata"]["sluiced.name"] for job in provider.jobs.values())
        return cls(asked, put_off, Counter(names), taken, given)


def _again(response: Mapping[str, int] | None) -> bool:
    return response is None or response["status_code"] == 429 or response["status_code"] >= 500


def audit(
    produced: Mapping[Coordinates, Message],
    answers: Sequence[Answer],
    letters: Sequence[Letter],
    ledger: Ledger,
    prices: Prices,
    max_attempts: int,
) -> Findings:
    """All that is wrong, and the figures."""
    first = {answer.coordinates: answer for answer in reversed(answers)}
    buried = {letter.coordinates: letter for letter in reversed(letters)}
    usages = _summed(answer.usage for answer in first.values())
    costs = [prices.cost(usage) for usage in usages]
    wrong = [
        *_misplaced(produced, first, buried),
        *_changed(produced, answers, letters),
        *_paid_twice(ledger, max_attempts),
    ]
    spent = (sum(u.input for u in usages), sum(u.output for u in usages))
    if spent != (ledger.taken, ledger.given):
        charged = (ledger.taken, ledger.given)
        wrong.append(f"the answers tell of {spent} tokens, the provider charges {charged}")
    return Findings(
        prompts=len(produced),
        answered=len(first),
        answered_twice=len(answers) - len(first),
        buried=Counter(letter.reason for letter in buried.values()),
        buried_twice=len(letters) - len(buried),
        jobs=ledger.names.total(),
        requests=ledger.asked.total(),
        again=ledger.asked.total() - len(ledger.asked),
        taken=spent[0],
        given=spent[1],
        cost=sum((c for c in costs if c is not None), Decimal(0)) if any(costs) else None,
        example=answers[0].value.decode() if answers else "",
        wrong=wrong,
    )


def _summed(usages: Iterable[Usage]) -> list[Usage]:
    by_model: dict[str, Usage] = {}
    for usage in usages:
        by_model[usage.model] = by_model.get(usage.model, Usage(usage.model)) + usage
    return list(by_model.values())


def _misplaced(
    produced: Mapping[Coordinates, Message],
    answered: Mapping[Coordinates, Answer],
    buried: Mapping[Coordinates, Letter],
) -> list[str]:
    answers, letters, prompts = answered.keys(), buried.keys(), produced.keys()
    return _told(
        {
            "neither answered nor in the dead letters": prompts - answers - letters,
            "answered and in the dead letters": answers & letters,
            "never published": (answers | letters) - prompts,
        }
    )


def _changed(
    produced: Mapping[Coordinates, Message], answers: Sequence[Answer], letters: Sequence[Letter]
) -> list[str]:
    strange = [
        answer.coordinates
        for answer in answers
        if (message := produced.get(answer.coordinates)) is not None
        and (message.fate or answer.key != message.key or answer.value != _due(message))
    ]
    bytes_, reason = [], []
    for letter in letters:
        if (message := produced.get(letter.coordinates)) is not None:
            if letter.value != message.value:
                bytes_.append(letter.coordinates)
            if letter.reason != message.fate:
                reason.append(letter.coordinates)
    return _told(
        {
            "answered with another's answer": strange,
            "in the dead letters with other bytes": bytes_,
            "in the dead letters for the wrong reason": reason,
        }
    )


def _due(message: Message) -> bytes:
    """The answer that belongs to a prompt."""
    page = msgspec.json.decode(message.value)
    names = {"place": "title", "inhabitants": "population", "time zone": "timezone"}
    facts = {fact: str(page[names.get(fact, fact)]) for fact in (*names, "latitude", "longitude")}
    return sentence(facts).encode()


def _paid_twice(ledger: Ledger, max_attempts: int) -> list[str]:
    """A request may be in another job once for each time that it was told to come again."""
    wrong = [
        f"{count} jobs have the name {name}" for name, count in ledger.names.items() if count > 1
    ]
    due = {name: min(1 + ledger.put_off[name], max_attempts) for name in ledger.asked}
    twice = [name for name, count in ledger.asked.items() if count > due[name]]
    if twice:
        named = ", ".join(twice[:3])
        wrong.append(f"{len(twice):,} requests were in a job more often than needed: {named}")
    return wrong


def _told(found: Mapping[str, Collection[Coordinates]]) -> list[str]:
    """A line for each kind of mistake that was found, which names the first few."""
    wrong = []
    for name, places in found.items():
        if places:
            named = ", ".join(f"{t}/{p}@{o}" for t, p, o in sorted(places)[:3])
            more = ", ..." if len(places) > 3 else ""
            wrong.append(f"{len(places):,} prompts {name}: {named}{more}")
    return wrong

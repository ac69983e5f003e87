"""The audit of the demo of prompts finds what it is there to find."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from sluiced.prices import Price, Prices, PriceSettings, Usage
from sluiced.tools.demo.audit import Coordinates, Letter
from sluiced.tools.demo.cities import Message
from sluiced.tools.demo.llm.audit import Answer, Findings, Ledger, audit
from sluiced.tools.demo.llm.model import Model, sentence
from sluiced.tools.demo.llm.prompts import INSULT, NOVEL, TASK, prompts
from sluiced.tools.demo.llm.run import Sentences
from sluiced.tools.demo.openai_api import File
from sluiced.tools.demo.provider import Job, Pace
from sluiced.tools.demo.stage import ADMIN, API, BROKER, configuration

PRICES = Prices({"m": PriceSettings(input=Price(2), output=Price(8))})


def page(name: str) -> bytes:
    facts = {"title": name, "population": 7, "latitude": -1.5, "longitude": 2, "timezone": "A/B_c"}
    return msgspec.json.encode({"task": TASK, **facts})


def said(name: str) -> bytes:
    return (
        f"{name}, is home to 7 people, lies at 1.5° S, 2.0° E, and keeps the time of B c.".encode()
    )


OSLO, BONN, BURIED = (Coordinates("cities", 0, n) for n in range(3))
PRODUCED = {
    OSLO: Message(b"oslo", page("Oslo")),
    BONN: Message(b"bonn", page("Bonn")),
    BURIED: Message(b"insult", b"{}", "rejected"),
}
USAGE = Usage("m", 1, 1000, 500)
ANSWERS = [
    Answer(OSLO, b"oslo", said("Oslo"), "batch_1", USAGE),
    Answer(BONN, b"bonn", said("Bonn"), "batch_2", USAGE),
]
LETTERS = [Letter(BURIED, "rejected", b"{}")]
# Bonn met a rate limit in the first job, and so was in the second one too.
LEDGER = Ledger(
    asked=Counter({"0-0": 1, "0-1": 2, "0-2": 1}),
    put_off=Counter({"0-1": 1}),
    names=Counter({"a-1": 1, "a-2": 1}),
    taken=2000,
    given=1000,
)


def found(
    answers: list[Answer] = ANSWERS, letters: list[Letter] = LETTERS, **changes: Any
) -> Findings:
    return audit(PRODUCED, answers, letters, replace(LEDGER, **changes), PRICES, 3)


def test_a_good_run_has_nothing_wrong_and_its_figures() -> None:
    good = found()
    assert good.wrong == []
    assert (good.prompts, good.answered, good.buried) == (3, 2, {"rejected": 1})
    assert (good.jobs, good.requests, good.again) == (2, 4, 1)
    assert (good.answered_twice, good.buried_twice) == (0, 0)
    assert (good.taken, good.given) == (2000, 1000)
    assert good.cost == Decimal("0.012")


def test_what_came_twice_is_counted_and_charged_once() -> None:
    twice = found([*ANSWERS, ANSWERS[0]], [*LETTERS, *LETTERS])
    assert twice.wrong == []
    assert (twice.answered, twice.answered_twice, twice.buried_twice) == (2, 1, 1)
    assert twice.cost == Decimal("0.012")


STRAY = Coordinates("cities", 3, 9)


@pytest.mark.parametrize(
    ("answers", "letters", "mistake"),
    [
        (ANSWERS[:1], LETTERS, "1 prompts neither answered nor in the dead letters: cities/0@1"),
        (ANSWERS, [], "1 prompts neither answered nor in the dead letters: cities/0@2"),
        (
            ANSWERS,
            [*LETTERS, Letter(OSLO, "rejected", page("Oslo"))],
            "1 prompts answered and in the dead letters: cities/0@0",
        ),
        (
            [*ANSWERS, ANSWERS[0]._replace(coordinates=STRAY)],
            LETTERS,
            "1 prompts never published: cities/3@9",
        ),
        (
            [ANSWERS[0]._replace(value=said("Bonn")), ANSWERS[1]],
            LETTERS,
            "1 prompts answered with another's answer: cities/0@0",
        ),
        (
            [ANSWERS[0]._replace(key=b"bonn"), ANSWERS[1]],
            LETTERS,
            "1 prompts answered with another's answer: cities/0@0",
        ),
        (
            ANSWERS,
            [Letter(BURIED, "rejected", b"{ }")],
            "1 prompts in the dead letters with other bytes: cities/0@2",
        ),
        (
            ANSWERS,
            [Letter(BURIED, "exhausted", b"{}")],
            "1 prompts in the dead letters for the wrong reason: cities/0@2",
        ),
    ],
)
def test_a_prompt_in_the_wrong_place_is_named(
    answers: list[Answer], letters: list[Letter], mistake: str
) -> None:
    assert mistake in found(answers, letters).wrong


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"asked": Counter({"0-0": 2})}, "1 requests were in a job more often than needed: 0-0"),
        (
            {"asked": Counter({"0-0": 4}), "put_off": Counter({"0-0": 9})},
            "1 requests were in a job more often than needed: 0-0",
        ),
        ({"names": Counter({"a-1": 2})}, "2 jobs have the name a-1"),
        (
            {"taken": 1999},
            "the answers tell of (2000, 1000) tokens, the provider charges (1999, 1000)",
        ),
    ],
)
def test_what_is_paid_for_twice_is_named(changes: Any, mistake: str) -> None:
    assert found(**changes).wrong == [mistake]


def test_the_ledger_is_read_off_the_jobs_and_their_files() -> None:
    provider = Model(Pace())
    lines = [
        {"custom_id": "a", "response": {"status_code": 400}},
        {"custom_id": "b", "response": {"status_code": 429}},
        {"custom_id": "c", "response": {"status_code": 500}},
        {"custom_id": "d", "response": None},
    ]
    content = b"\n".join(msgspec.json.encode(line) for line in lines)
    provider.files["f"] = File("f", "f", "batch_output", content, 0)
    usage = {"input_tokens": 5, "output_tokens": 3}
    for name, file, used in (("x-1", "f", usage), ("x-2", None, None)):
        state = {"error_file_id": file, "usage": used, "metadata": {"sluiced.name": name}}
        requests = [{"custom_id": each} for each in ("abcd" if file else "bcd")]
        provider.jobs[name] = Job(state, 0.0, Pace(), requests)

    assert Ledger.of(provider) == Ledger(
        asked=Counter({"a": 1, "b": 2, "c": 2, "d": 2}),
        put_off=Counter("bcd"),
        names=Counter({"x-1": 1, "x-2": 1}),
        taken=5,
        given=3,
    )


def test_every_prompt_is_of_a_city_of_its_own_and_every_run_publishes_the_same() -> None:
    published = prompts(300)
    assert len(published) == 307
    assert len({m.key for m in published}) == len(published)
    assert Counter(m.fate for m in published) == {
        None: 300,
        "invalid": 3,
        "rejected": 3,
        "exhausted": 1,
    }
    assert prompts(300) == published


def test_the_model_answers_from_the_prompt_and_fails_as_it_is_told_to() -> None:
    model = Model(Pace())

    def asked(task: str, name: str = "x") -> Any:
        facts = "place: Ulm, Germany\ninhabitants: 129942\nlatitude: 48.4\nlongitude: 9.99"
        text = f"{task}\n{facts}\ntime zone: Europe/Berlin"
        messages = [{"role": "user", "content": text}]
        assert model.answer is not None
        return model.answer(name, {"model": "m", "messages": messages})

    status, body = asked(TASK)
    assert status == 200
    assert body["choices"][0]["message"]["content"] == (
        "Ulm, Germany, is home to 129,942 people, lies at 48.4° N, 10.0° E, and keeps the time of "
        "Berlin."
    )
    assert (asked(INSULT)[0], asked(NOVEL)[0]) == (400, 500)
    statuses = [asked(TASK, "a")[0] for _ in range(200)]
    assert statuses.count(429) == 1  # and never again of the same request


def test_one_job_expires_half_way() -> None:
    model = Model(Pace(working=10.0))
    paces = []
    for number in range(3):
        paces.append(model.next_pace())
        model.jobs[str(number)] = Job({}, 0.0, paces[-1])
    assert [pace.done(500, 20.0) for pace in paces] == [500, 500, 250]


def test_the_published_configuration_makes_what_the_model_reads() -> None:
    places = {BROKER: "127.0.0.1:1", API: "http://127.0.0.1:2", ADMIN: "127.0.0.1:3"}
    text = configuration(Sentences.config, places)
    assert 'base_url = "http://127.0.0.1:2/v1"' in text
    assert 'listen = "127.0.0.1:3"' in text
    facts = {"place": "Oslo", "inhabitants": "7", "latitude": "-1.5", "longitude": "2"}
    assert sentence({**facts, "time zone": "A/B_c"}).encode() == said("Oslo")

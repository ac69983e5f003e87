"""The provider of the demo: OpenAI's batches, and behind them a model that knows the cities.

It answers from what the prompt says, and fails as real ones do: some requests meet a rate limit the
first time, one kind of request is refused, one kind never comes to an end, and one job expires when
half of it is done.
"""

from __future__ import annotations

from dataclasses import replace

from ..openai_answers import completion, tokens
from ..openai_api import OpenAI
from ..provider import Document, Pace
from .prompts import INSULT, NOVEL

LIMITED = 90  # one request of so many meets a rate limit
EXPIRING = 3  # the number of the job that does


class Model(OpenAI):
    """`limited` are the requests that were told to come again, by their custom_id."""

    def __init__(self, pace: Pace) -> None:
        super().__init__(pace)
        self.answer = self._answer
        self.limited: set[str] = set()
        self._heard = 0

    def next_pace(self) -> Pace:
        pace = replace(self.pace)
        if len(self.jobs) + 1 == EXPIRING:
            pace.expires = pace.validating + pace.working / 2
        return pace

    def _answer(self, custom_id: str, body: Document) -> tuple[int, Document]:
        text = "\n".join(str(message["content"]) for message in body["messages"])
        question = str(body["messages"][-1]["content"]).strip()
        task, *facts = question.split("\n")
        if task == INSULT:
            return 400, _error("This request is against our policy.", "content_policy_violation")
        if task == NOVEL:
            return 500, _error("The server had an error.", "server_error")
        self._heard += 1
        if self._heard % LIMITED == 0 and custom_id not in self.limited:
            self.limited.add(custom_id)
            return 429, _error("Rate limit reached.", "rate_limit_exceeded")
        told = dict(fact.split(": ", 1) for fact in facts)
        return 200, _said(custom_id, body, text, sentence(told))


def sentence(facts: dict[str, str]) -> str:
    """What there is to be said of a city in one sentence."""
    latitude, longitude = float(facts["latitude"]), float(facts["longitude"])
    north, east = "NS"[latitude < 0], "EW"[longitude < 0]
    return (
        f"{facts['place']}, is home to {int(facts['inhabitants']):,} people, lies at "
        f"{abs(latitude):.1f}° {north}, {abs(longitude):.1f}° {east}, and keeps the time of "
        f"{facts['time zone'].rpartition('/')[2].replace('_', ' ')}."
    )


def _said(custom_id: str, body: Document, heard: str, text: str) -> Document:
    model = f"{body['model']}-2025-04-14"  # a model says which version of it has answered
    return completion(custom_id, model, text, tokens(heard), tokens(text))


def _error(message: str, code: str) -> Document:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}

"""An API that takes the work, answers at once, and is asked again until it has finished."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import anyio

from ..identity import text_of, tokens_of
from .document import at, document_of
from .response import Answer, retry_after
from .response_settings import FollowSettings
from .template import Template
from .words import UnclearError

# Asks an address with GET.
Get = Callable[[str], Awaitable[Answer]]


class Follower:
    """Turns the answer that begins the work into the one that ends it."""

    def __init__(self, settings: FollowSettings, get: Get) -> None:
        self._url = Template.parse(settings.url, ("found",))
        self._found = tokens_of(settings.found)
        self._status = tokens_of(settings.status)
        self._pending = {str(status) for status in settings.pending}
        self._interval = settings.interval
        self._get = get

    async def last(self, answer: Answer) -> Answer:
        """The answer of work that is over, for as long as that takes: the caller has a deadline.

        An answer that does not lead there has a `problem`: it says nothing about the records. What
        is not 2xx from the start began nothing, and is the answer itself.
        """
        if not 200 <= answer.status < 300:
            return answer
        found = _text(answer, self._found)
        if found is None:
            return _lost(answer, "there is no text or number at sink.response.follow found")
        url = self._url.fill({"found": quote(found, safe="")})
        while True:
            await anyio.sleep(self._pause(answer))
            answer = await self._get(url)
            if answer.status == 429 or answer.status >= 500:
                continue  # the work goes on, whatever is wrong with asking after it
            if not 200 <= answer.status < 300:
                return _lost(answer, "sink.response.follow url does not lead to what was begun")
            status = _text(answer, self._status)
            if status is None:
                return _lost(answer, "there is no number or word at sink.response.follow status")
            if status not in self._pending:
                return answer

    def _pause(self, answer: Answer) -> float:
        return max(self._interval, retry_after(answer.headers, time.time()) or 0)


def _text(answer: Answer, tokens: tuple[str, ...]) -> str | None:
    try:
        return text_of(at(document_of(answer.body), tokens))
    except (LookupError, UnclearError):
        return None


def _lost(answer: Answer, why: str) -> Answer:
    """2xx, because a 4xx to the question would be taken for a verdict on the records."""
    return Answer(200, answer.headers, problem=answer.problem or f"{why} ({answer.status})")

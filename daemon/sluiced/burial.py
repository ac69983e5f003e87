"""Dead letters on their way out of the line, and the brake that keeps a topic from draining there.

A record is buried when its letter is acknowledged, and only then may the checkpoint pass it. Where
that cannot be, or where too many records are refused to be the records' own fault, the pipeline
halts: it stays in the group, fetches nothing and commits nothing, until a person says go on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import anyio
import structlog
from msgspec import Meta

from .errors import BurialError
from .metrics import Metrics
from .ports import DeadLetter, DeadLetters
from .record import original_of, redrives
from .units import Duration, Settings

log = structlog.get_logger("sluiced.burial")


SHORTEST_RETRY, LONGEST_RETRY = Duration(1), Duration(5 * 86_400)


class DeadLetterSettings(Settings, frozen=True):
    """[dead_letter]"""

    topic: str | None = None
    on_reject: Literal["dead-letter", "halt"] = "dead-letter"
    max_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.5
    max_ratio_window: Annotated[int, Meta(ge=1)] = 1000
    too_large: Literal["stub", "halt"] = "stub"
    retry_after: Duration | None = None
    max_redrives: Annotated[int, Meta(ge=1)] = 3

    def __post_init__(self) -> None:
        if self.topic is None and self.on_reject == "dead-letter":
            raise ValueError('set topic, or on_reject = "halt" to stop at the first refusal')
        if self.topic is not None and self.on_reject == "halt":
            raise ValueError('set either topic or on_reject = "halt", not both')
        after = self.retry_after
        if after is not None and self.topic is None:
            raise ValueError("retry_after needs topic, where the letters are that it retries")
        if after is not None and not SHORTEST_RETRY <= after <= LONGEST_RETRY:
            raise ValueError(
                f"retry_after must be between {SHORTEST_RETRY} and {LONGEST_RETRY}: what is older "
                "than 6d is left to `sluiced dead-letters redrive`"
            )


class Halt:
    """A latch: closed with a reason, opened by a person."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._lifted = anyio.Event()

    def set(self, reason: str) -> None:
        """Halts; the first reason stands until the halt is lifted."""
        if self.reason is None:
            self.reason = reason
            self._lifted = anyio.Event()
            log.error("pipeline_halted", reason=reason, hint="Mend it, then reload the daemon.")

    def lift(self) -> None:
        if self.reason is not None:
            log.warning("halt_lifted", reason=self.reason)
            self.reason = None
            self._lifted.set()

    async def passed(self) -> None:
        """Returns at once, or when the halt is lifted."""
        while self.reason is not None:
            await self._lifted.wait()


class Ratio:
    """How many of the last `window` records were refused. Exact, and kept as runs of verdicts."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._runs: deque[list[int]] = deque()  # [count, 1 if refused else 0]
        self._total = 0
        self._refused = 0

    def add(self, count: int, *, refused: bool) -> None:
        self._runs.append([count, int(refused)])
        self._total += count
        self._refused += count * refused
        self.resize(self._window)

    def resize(self, window: int) -> None:
        """Looks at the last `window` records from now on, as far as they are remembered."""
        self._window = window
        while self._total > self._window:
            run = self._runs[0]
            leaving = min(run[0], self._total - self._window)
            self._total -= leaving
            self._refused -= leaving * run[1]
            run[0] -= leaving
            if not run[0]:
                self._runs.popleft()

    def with_refused(self, count: int) -> float:
        """The part of the window that would be refused after `count` more refusals.

        Measured against the whole window even before it has filled, so that a bad record or two
        right after the start do not stop the line.
        """
        staying = max(0, self._window - count)
        refused, leaving = self._refused, max(0, self._total - staying)
        for size, is_refused in self._runs:
            if leaving <= 0:
                break
            refused -= min(size, leaving) * is_refused
            leaving -= size
        return (refused + min(count, self._window)) / self._window

    def clear(self) -> None:
        self._runs.clear()
        self._total = self._refused = 0


class Burial:
    """Buries letters, or halts."""

    def __init__(
        self,
        settings: DeadLetterSettings,
        dead_letters: DeadLetters,
        halt: Halt,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._ratio = Ratio(settings.max_ratio_window)
        self.halt = halt

    def adopt(self, settings: DeadLetterSettings) -> None:
        """Other settings; `topic` and `on_reject` must be as they were."""
        self._settings = settings
        self._ratio.resize(settings.max_ratio_window)

    def delivered(self, count: int) -> None:
        """Counts for the ratio."""
        if count:
            self._ratio.add(count, refused=False)

    async def bury(self, letters: Sequence[DeadLetter]) -> bool:
        """True once all letters, which have one reason, are acknowledged.

        While the pipeline is halted this waits. False means that a person has lifted a halt that
        these very records caused, and that they are to be tried again. Not so what is invalid: it
        would be so again, and to go on is to bury it.
        """
        await self.halt.passed()
        letters = [_of_the_original(letter) for letter in letters]
        first = letters[0]
        if self._settings.on_reject == "halt":
            self.halt.set(f'{_named(first)} and on_reject is "halt"')
            await self.halt.passed()
            return False
        # What comes back from the dead letters says nothing about the topic, nor does what a person
        # has cancelled: no brake for it.
        counted = sum([x.reason != "cancelled" and not redrives(x.record) for x in letters])
        ratio = self._ratio.with_refused(counted)
        if counted and ratio > self._settings.max_ratio:
            self.halt.set(
                f"{ratio:.0%} of the last {self._settings.max_ratio_window} records were refused, "
                f"and max_ratio is {self._settings.max_ratio:g}; the last: {_named(first)}"
            )
            await self.halt.passed()
            self._ratio.clear()
            if first.reason != "invalid":
                return False
        await self._acknowledged(letters)
        if counted:
            self._ratio.add(counted, refused=True)
        for (topic, reason), count in Counter((x.record.topic, x.reason) for x in letters).items():
            self._metrics.dead_lettered(topic, reason, count)
        if self._settings.retry_after is not None:
            most = self._settings.max_redrives
            given_up = sum([redrives(letter.record) >= most for letter in letters])
            self._metrics.redriven("given_up", given_up)
        log.warning(
            "dead_lettered",
            records=len(letters),
            reason=first.reason,
            status=first.status,
            error=first.error,
            batch=first.batch,
            first=f"{first.record.topic}/{first.record.partition}/{first.record.offset}",
            hint="`sluiced dead-letters show` has all of it; mend the cause, then `redrive`.",
        )
        return True

    async def _acknowledged(self, letters: Sequence[DeadLetter]) -> None:
        while True:
            try:
                return await self._dead_letters.bury(letters)
            except BurialError as error:
                self.halt.set(str(error))
                await self.halt.passed()


def _of_the_original(letter: DeadLetter) -> DeadLetter:
    original = original_of(letter.record)
    return letter if original is letter.record else replace(letter, record=original)


def _named(letter: DeadLetter) -> str:
    r = letter.record
    return f"{r.topic}/{r.partition}/{r.offset} was refused ({letter.reason}): {letter.error}"

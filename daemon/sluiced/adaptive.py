"""Finds how many batches to have at the sink, and how large a window should be, by trying.

What counts is the goodput: records delivered in a second. It is measured as the batches at the
sink times the records that one of them delivers in a second of being there (Little's law), so that
a few batches tell, and that a queue at the API shows as what it is: no gain. One thing is tried at
a time; a trial that pays is kept and gone on with, one that does not is taken back.

A load twice as large has to gain something to be worth it: what lies beyond the knee only makes a
queue longer and a failure larger. A 429 (of the whole request or of single items), a 5xx or a
timeout is back-pressure: it ends a trial, and where it comes again and again it takes slots away at
once. A batch keeps its slot while it waits for another attempt, so that waiting counts as time at
the sink, and no other batch takes its place there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import cycle
from typing import Literal, NamedTuple, TypeAlias

from .goodput import Landing, Measure

Axis: TypeAlias = Literal["slots", "size"]
Push: TypeAlias = Literal["slow", "timeout"]

# The exponents by which goodput has to grow with the load: twice the batches for 4 % more, or twice
# the records in each for 2 %. A batch more at the sink is a request more in its queue.
WORTH = {"slots": 0.06, "size": 0.03}

# Flights that a measurement takes, for each slot and at least; with noise up to so many times that.
ROUNDS, FEWEST, MOST_TIMES = 2, 3, 6
# A measurement whose error is below this is good enough, and so is one after these seconds.
PRECISION, PATIENCE = 0.01, 15.0

# Of the slots, so many stay where there is too much back-pressure.
BACK_OFF = 0.7

# Steps are powers of two. One that failed is halved, down to the smallest; one that paid doubled.
LARGEST_STEP, SMALLEST_STEP = 1.0, 0.25
# Seconds between probes once nothing pays any more, and for which a value that failed is let be.
REST, SHUN, LONGEST_SHUN = 8.0, 30.0, 60.0
NEAR, NEAR_SHUN, WORTH_A_STEP = 1.25, 240.0, 1.08
# A change of goodput by more than this between two measurements is the API's: look around anew.
SHIFT = 0.15
# A trial that is worse by this (in natural logarithms) is over at once.
HOPELESS = 0.3
# A trial is kept where it gains more than so many standard errors.
SURE = 0.7

FIRST_SIZE = 100


class Bounds(NamedTuple):
    """What may be chosen: from 1 to these. With `fixed_slots` there are so many, and a `size` of
    None is none of ours."""

    slots: int
    size: int | None
    fixed_slots: bool = False


@dataclass(slots=True)
class _Move:
    """One way to go: an axis and a direction, and how far the next step takes."""

    axis: Axis
    up: bool
    step: float
    tired: bool = False  # the smallest step has not paid


@dataclass(slots=True)
class _Score:
    value: float
    error: float
    at: float


class Controller:
    """Told the time and what happens; `slots` and `size` are what it has chosen for now."""

    def __init__(self, bounds: Bounds, now: float = 0.0) -> None:
        self._bounds = bounds
        self._base: dict[Axis, int] = {
            "slots": bounds.slots if bounds.fixed_slots else 1,
            "size": min(FIRST_SIZE, bounds.size or 1),
        }
        self._setting = dict(self._base)
        self._score: _Score | None = None
        self._trial: _Move | None = None
        self._shunned: dict[Axis, tuple[int, float, float]] = {}  # a value, until when, how long
        up = [_Move("slots", True, LARGEST_STEP), _Move("size", True, LARGEST_STEP)]
        down = [_Move("slots", False, SMALLEST_STEP), _Move("size", False, SMALLEST_STEP)]
        self._moves = [*up, *down]
        self._turns = cycle([*up, down[0], *up, down[1]])
        self._rest_until = now
        self._launched = 0
        self._changed_at = 0  # the number of the first launch under this setting
        self._taken, self._looked = 0, now
        self._measure = Measure(0, now)

    @property
    def slots(self) -> int:
        return self._setting["slots"]

    @property
    def size(self) -> float:
        return self._setting["size"] if self._bounds.size else math.inf

    def adopt(self, bounds: Bounds, now: float) -> None:
        """Other bounds; what is chosen already is brought within them."""
        former, self._bounds = self._bounds, bounds
        self._base["slots"] = min(self._base["slots"], bounds.slots)
        if bounds.fixed_slots:
            self._base["slots"] = bounds.slots
        if former.size is None or bounds.size is None:
            self._base["size"] = FIRST_SIZE
        self._base["size"] = min(self._base["size"], bounds.size or 1)
        self._score = None
        self._go(dict(self._base), None, now)

    # --- what happens -------------------------------------------------------------------------

    def launch(self, now: float, taken: int) -> int:
        """A batch goes out; `taken` slots are taken now. Returns its number."""
        self._look(now, taken)
        self._launched += 1
        return self._launched - 1

    def land(self, landing: Landing | None, now: float, taken: int) -> None:
        """A batch is through, or given up if None, and has given back its slot."""
        self._look(now, taken)
        if landing is not None and self._tells(landing):
            self._measure.add(landing)
            if self._enough(now):
                self._decide(now)

    def answered(self, number: int, push: Push | None, now: float) -> None:
        """An attempt of the batch of this number has been answered, or has not been in time."""
        m = self._measure
        if number < self._changed_at:
            return  # it tells of what was before
        m.answers += 1
        m.pushes += push is not None
        m.timeouts += push == "timeout"
        if m.pushed:
            self._back_off(now)

    def too_large(self, number: int, records: int, now: float) -> None:
        """The API does not take a request of so many records."""
        if number < self._changed_at or records < 2 or self._bounds.size is None:
            return
        self._shun("size", records, now)
        if self._base["size"] >= records:
            self._base["size"] = max(1, records // 2)
            self._score = None
        self._give_up(now)

    # --- what is made of it -------------------------------------------------------------------

    def _tells(self, landing: Landing) -> bool:
        """Whether it is of this setting: not launched before it, nor closed at another size."""
        first = self._measure.first
        if landing.number < (self._changed_at if first is None else first - self._measure.mixed):
            return False
        return self._bounds.size is None or landing.size in (0, self._setting["size"])

    def _look(self, now: float, taken: int) -> None:
        self._measure.area += self._taken * (now - self._looked)
        self._taken, self._looked = taken, now

    def _enough(self, now: float) -> bool:
        m, least = self._measure, max(FEWEST, ROUNDS * self.slots)
        if m.flights < least or not m.settled:
            return self._hopeless(m, now)
        late = now - m.began > PATIENCE
        if late or m.flights >= MOST_TIMES * least or m.error <= PRECISION:
            return True
        gain, error = self._gain(m, now)
        return abs(gain) > 3 * error

    def _hopeless(self, m: Measure, now: float) -> bool:
        """A trial that is worse by far need not be seen to its end."""
        gain, error = self._gain(m, now)
        return m.flights >= max(2, self.slots // 2) and gain + 2 * error < -HOPELESS

    def _gain(self, m: Measure, now: float) -> tuple[float, float]:
        """By how much a trial is better than what was before, as a difference of logarithms, and
        the standard error of that. Nothing where nothing is tried."""
        if self._trial is None or self._score is None:
            return 0.0, 1.0
        score = self._scored(m, now)
        return score.value - self._score.value, math.hypot(score.error, self._score.error)

    def _decide(self, now: float) -> None:
        m = self._measure
        busy = m.area / max(now - m.began, 1e-9)
        # Without enough work, or behind a budget, nothing can be learnt: nothing changes then.
        if m.full < 0.8 * m.flights or m.held > 0.05 * m.seconds:
            self._give_up(now)
            return
        if busy < 0.85 * self.slots:
            if self._trial is not None:
                self._failed(self._trial, -PRECISION, 0.0, now)
            self._give_up(now)
            return
        score = self._scored(m, now)
        trial, (gain, error) = self._trial, self._gain(m, now)
        if trial is None:
            self._score = self._compared(self._score, score)
        elif gain > SURE * error:
            self._kept(trial, score)
        else:
            self._failed(trial, gain, error, now)
        self._next(now)

    def _scored(self, m: Measure, now: float) -> _Score:
        goodput = max(self.slots * m.rate, 1e-9)
        load = sum(WORTH[axis] * math.log(value) for axis, value in self._setting.items())
        polite = m.pushes / max(1, m.answers)
        return _Score(math.log(goodput) - load - polite, m.error, now)

    def _compared(self, before: _Score | None, score: _Score) -> _Score:
        """Of two measurements of the same: both together, unless the API has changed."""
        if before is None:
            return score
        by, error = score.value - before.value, math.hypot(score.error, before.error)
        if abs(by) > max(SHIFT, 3 * error):
            for move in self._moves:
                move.step, move.tired = LARGEST_STEP / 2, False
            return score
        # The more exact one counts for more, but the newer one for a third at least.
        part = max(1 / 3, before.error**2 / error**2) if error else 1.0
        value = before.value + part * by
        error = math.hypot(part * score.error, (1 - part) * before.error)
        return _Score(value, error, score.at)

    def _kept(self, move: _Move, score: _Score) -> None:
        self._base = dict(self._setting)
        # Of what is uncertain, what looks best is often luck: it is measured once more.
        self._score = score if score.error <= PRECISION else None
        move.step, move.tired = min(LARGEST_STEP, 2 * move.step), False
        for other in self._moves:
            if other.axis != move.axis:
                other.tired = False

    def _failed(self, move: _Move, gain: float, error: float, now: float) -> None:
        if gain < -SURE * error:
            move.tired = move.step <= SMALLEST_STEP
            move.step = max(SMALLEST_STEP, move.step / 2)
        else:
            move.tired = True  # a smaller step would tell even less
        if gain < -HOPELESS and move.up:
            self._shun(move.axis, self._setting[move.axis], now)
        if all(m.tired for m in self._moves):
            self._rest_until = now + REST

    def _next(self, now: float) -> None:
        """Tries something else, or measures what there is once more."""
        fresh = self._score is not None and now - self._score.at < PATIENCE
        resting = all(m.tired for m in self._moves) and now < self._rest_until
        if fresh and not resting:
            tired = all(m.tired for m in self._moves)
            exact = self._measure.error <= PRECISION
            for _ in range(6):
                move = next(self._turns)
                if tired or not move.tired:
                    if tired and exact:
                        # Where it has settled, it only feels around. On a noisy server small steps
                        # cannot be told apart, and it would not get away from a bad place.
                        move.step = SMALLEST_STEP
                    target = self._target(move, now)
                    if target != self._base[move.axis]:
                        self._go({**self._base, move.axis: target}, move, now)
                        return
                    move.tired = True  # there is no way to go
        self._go(dict(self._base), None, now)

    def _target(self, move: _Move, now: float) -> int:
        bounds, value = self._bounds, self._base[move.axis]
        most = bounds.slots if move.axis == "slots" else bounds.size
        if most is None or (move.axis == "slots" and bounds.fixed_slots):
            return value
        if not move.up:
            return max(1, math.floor(value / 2**move.step))
        target = min(most, math.ceil(value * 2**move.step))
        shunned, until, _ = self._shunned.get(move.axis, (0, 0.0, 0.0))
        if now < until and target >= shunned:
            target = (value + shunned) // 2
            if target < WORTH_A_STEP * value:
                return value
        return max(value, target)

    def _go(self, setting: dict[Axis, int], trial: _Move | None, now: float) -> None:
        """A new setting: what was launched before, and waits already, tells nothing of it."""
        same = setting == self._setting
        resized = setting["size"] != self._setting["size"]
        slots = max(setting["slots"], self._setting["slots"])
        self._setting, self._trial = setting, trial
        first = None if resized else self._launched + (0 if same else slots)
        self._changed_at = self._launched if not same else self._changed_at
        self._measure = Measure(first, now, mixed=slots if resized else 0)

    def _give_up(self, now: float) -> None:
        """Back to what is known to work."""
        self._go(dict(self._base), None, now)

    def _back_off(self, now: float) -> None:
        """Back-pressure: a trial of more is over; else there is too much of what has worked."""
        trial, timeouts = self._trial, self._measure.timeouts
        if trial is not None:
            self._failed(trial, -1.0, 0.0, now)
            self._give_up(now)
            return
        axis: Axis = "slots"
        if self._bounds.fixed_slots or self._base["slots"] == 1:
            axis = "size"
            if timeouts == 0 or self._bounds.size is None:
                self._measure.answers = self._measure.pushes = 0
                return  # waiting, as the delivery does, is all that is left
        self._shun(axis, self._base[axis], now)
        self._base[axis] = max(1, int(self._base[axis] * BACK_OFF))
        self._score = None
        self._give_up(now)

    def _shun(self, axis: Axis, value: int, now: float) -> None:
        former, _, hold = self._shunned.get(axis, (0, 0.0, 0.0))
        again = former / 1.3 <= value <= former * 1.3
        hold = min(LONGEST_SHUN, 2 * hold) if again else SHUN
        if axis == "size" and value < NEAR * self._base["size"]:
            hold = NEAR_SHUN  # to find out whether it bears a little more would cost more
        self._shunned[axis] = (value, now + hold, hold)

"""The gate: how much may be at the sink at once, how much in a time, and when."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .adaptive import Bounds, Controller, Push
from .batch import Batch
from .budgets import NO_WAIT, SERVER, SOON, Budgets, BudgetSettings, Cost, Ticket, Wait
from .feedback import Feedback
from .goodput import Landing
from .units import Size


class LimitSettings(BudgetSettings, frozen=True):
    """[limits]"""

    max_in_flight: Annotated[int, Meta(ge=1)] | Literal["auto"] = 1
    most_in_flight: Annotated[int, Meta(ge=1)] = 32  # where it is "auto"
    memory: Size = Size(256 * 1024**2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 16 * 1024**2:
            raise ValueError("memory must be at least 16MiB")

    @property
    def slots(self) -> int:
        """The most batches that may ever be at the sink."""
        return self.most_in_flight if self.max_in_flight == "auto" else self.max_in_flight


class Gate:
    """Slots for batches, budgets for requests, and a time before which nobody may knock.

    Told the time, never asks for it; `now` is that of the start. The hold is shared: when the API
    asks one request to wait, the others are meant as well. `most_records` is the largest size of a
    window, where that is to be found out like the number of slots.
    """

    def __init__(
        self, settings: LimitSettings, now: float = 0.0, most_records: int | None = None
    ) -> None:
        self.budgets = Budgets(settings, now)
        self._controller: Controller | None = None
        self._taken = 0
        self.adopt(settings, now, most_records)
        self._held_until = float("-inf")
        self._holding, self._holds_until = "", now

    def adopt(self, settings: LimitSettings, now: float, most_records: int | None = None) -> None:
        """Other settings. Where there are fewer slots, those inside stay until they are done."""
        self._slots = settings.slots
        self.budgets.adopt(settings, now)
        self._fixed = settings.max_in_flight != "auto"
        self._most_records = most_records
        if self._fixed and most_records is None:
            self._controller = None
        elif self._controller is None:
            self._controller = Controller(self._bounds(), now)
        else:
            self._controller.adopt(self._bounds(), now)

    def share(self, fraction: float, now: float) -> None:
        """This member's part of the budgets; what has to fit into a part is bounded by it."""
        self.budgets.share(fraction, now)
        if self._controller is not None:
            self._controller.adopt(self._bounds(), now)

    def _bounds(self) -> Bounds:
        size = self._most_records
        if size is not None:
            size = max(1, int(min(size, self.budgets.least("records"))))
        return Bounds(self._slots, size, fixed_slots=self._fixed)

    @property
    def limits(self) -> list[str]:
        """The names that a wait may be put down to."""
        return [*(budget.name for budget in self.budgets), SERVER]

    @property
    def slots(self) -> int:
        return self._slots if self._controller is None else self._controller.slots

    @property
    def size(self) -> float:
        """The most records that the next window should hold."""
        return float("inf") if self._controller is None else self._controller.size

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def free(self) -> bool:
        return self._taken < self.slots

    def enter(self, now: float = 0.0) -> int:
        """A batch takes a slot. Returns the number by which to speak of it."""
        if not self.free:
            raise RuntimeError("a batch was released through a full gate")
        self._taken += 1
        return 0 if self._controller is None else self._controller.launch(now, self._taken)

    def leave(self, now: float = 0.0, landing: Landing | None = None) -> None:
        """It gives it back. Without a landing it was given up, which tells nothing."""
        self._taken -= 1
        if self._controller is not None:
            self._controller.land(landing, now, self._taken)

    def answered(self, number: int, push: Push | None, now: float) -> None:
        """An attempt of a batch was answered, with back-pressure or without."""
        if self._controller is not None:
            self._controller.answered(number, push, now)

    def too_large(self, number: int, records: int, now: float) -> None:
        """The sink takes no request of so many records."""
        if self._controller is not None:
            self._controller.too_large(number, records, now)

    def hold(self, until: float) -> None:
        """No request before `until`; an earlier hold is not shortened."""
        self._held_until = max(self._held_until, until)

    def cost(self, batch: Batch, tokens: int | None = None) -> Cost:
        return self.budgets.cost(batch, tokens)

    def wait(self, cost: Cost, now: float) -> Wait:
        """How long a request of this cost has to wait, if no other one goes before it."""
        held = self._held_until - now
        wait = self.budgets.wait(cost, now)
        if held > wait.seconds:
            wait = Wait(held, SERVER)
        wait = wait if wait.seconds >= SOON else NO_WAIT
        self._holding, self._holds_until = wait.limit, now + wait.seconds
        return wait

    def holding(self, now: float) -> Wait:
        """What holds back the next request, and for how long yet, as far as one has asked."""
        held, asked = self._held_until - now, Wait(self._holds_until - now, self._holding)
        if held > 0 and (held > asked.seconds or not asked.limit):
            return Wait(held, SERVER)
        return Wait(max(0.0, asked.seconds), asked.limit) if asked.limit else NO_WAIT

    def use(self, cost: Cost, now: float) -> Ticket:
        """A request goes out that had to wait no longer. `settle` must follow, whatever happens."""
        self._holding = ""
        return self.budgets.use(cost, now)

    def settle(
        self,
        ticket: Ticket,
        feedback: Feedback | None,
        now: float,
        longest: float,
        *,
        sent: bool = True,
    ) -> None:
        """It is over. `longest` is how long the API may hold us by its own account, in seconds."""
        self.budgets.settle(ticket, feedback, now, longest, sent)

    def told(self, feedback: Feedback | None, now: float, longest: float) -> None:
        """The API has said something of its limits with an answer that was nobody's ticket."""
        self.budgets.told(feedback, now, longest)

"""The gate: how much may be at the sink at once, and when."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .units import Settings, Size


class LimitSettings(Settings, frozen=True):
    """[limits]"""

    max_in_flight: Annotated[int, Meta(ge=1)] = 1
    memory: Size = Size(256 * 1024**2)

    def __post_init__(self) -> None:
        if self.memory < 16 * 1024**2:
            raise ValueError("memory must be at least 16MiB")


class Gate:
    """Slots for batches, and a time before which nobody may knock.

    Told the time, never asks for it. The hold is shared: when the API asks one request to wait,
    the others are meant as well.
    """

    def __init__(self, settings: LimitSettings) -> None:
        self._slots = settings.max_in_flight
        self._taken = 0
        self._held_until = float("-inf")

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def free(self) -> bool:
        return self._taken < self._slots

    def enter(self) -> None:
        if not self.free:
            raise RuntimeError("a batch was released through a full gate")
        self._taken += 1

    def leave(self) -> None:
        self._taken -= 1

    def hold(self, until: float) -> None:
        """No request before `until`; an earlier hold is not shortened."""
        self._held_until = max(self._held_until, until)

    def wait(self, now: float) -> float:
        """Seconds until the next request may be made; 0 if it may be made now."""
        return max(0.0, self._held_until - now)

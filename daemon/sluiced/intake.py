"""What may enter a window: the one look that the daemon takes at every record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from .identity import COORDINATES, identity
from .record import Record
from .units import Settings

Format = Literal["json", "text", "bytes"]

# A reason why a record cannot be delivered whatever the API says, or None.
Objection = Callable[[Record], str | None]


class RecordSettings(Settings, frozen=True):
    """[record]"""

    format: Format = "json"
    id: str = COORDINATES
    on_tombstone: Literal["skip", "dead-letter", "send"] = "skip"

    def __post_init__(self) -> None:
        try:
            identity(self.id)
        except ValueError as error:
            raise ValueError(f"id: {error}") from None


@dataclass(frozen=True, slots=True)
class Checked:
    """A run taken apart. Together the three hold each of its records once, in order."""

    accepted: Sequence[Record]
    invalid: Sequence[tuple[Record, str]] = ()
    skipped: Sequence[Record] = ()


class Intake:
    """Checks runs of records against `[record]` and what the sink must be able to express.

    A run without fault is passed on as the list that it came as.
    """

    def __init__(self, settings: RecordSettings, objection: Objection | None = None) -> None:
        self._format = settings.format
        self._on_tombstone = settings.on_tombstone
        self._objection = objection
        self._json = msgspec.json.Decoder(msgspec.Raw).decode

    def check(self, records: Sequence[Record]) -> Checked:
        """Every record of the run lands in exactly one of the three lists."""
        values = [r.value for r in records]
        if None not in values and self._sound(values) and self._objection is None:  # type: ignore[arg-type]
            return Checked(records)
        accepted: list[Record] = []
        invalid: list[tuple[Record, str]] = []
        skipped: list[Record] = []
        for record in records:
            if record.value is None and self._on_tombstone == "skip":
                skipped.append(record)
            elif error := self._error(record):
                invalid.append((record, error))
            else:
                accepted.append(record)
        return Checked(accepted, invalid, skipped)

    def _sound(self, values: Sequence[bytes]) -> bool:
        """Whether all values are of the format; a False is explained record by record."""
        if self._format == "bytes":
            return True
        try:
            # One decode for the whole run. The newline between two values keeps the end of one
            # and the start of the next from making up a character together.
            b"\n".join(values).decode()
            if self._format == "json":
                for value in values:
                    self._json(value)
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
            return False
        return True

    def _error(self, record: Record) -> str | None:
        if record.value is None:
            if self._on_tombstone == "dead-letter":
                return "the record is a tombstone, and [record] on_tombstone is dead-letter"
        elif self._format != "bytes":
            try:
                record.value.decode()
                if self._format == "json":
                    self._json(record.value)
            except UnicodeDecodeError as error:
                return f"the value is not UTF-8: {error.reason} at byte {error.start}"
            except msgspec.DecodeError as error:
                return f"the value is not JSON: {error}"
            except RecursionError:
                return "the value is not JSON that can be read: it is nested too deeply"
        return self._objection(record) if self._objection else None

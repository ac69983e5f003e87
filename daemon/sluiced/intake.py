"""What may enter a window: the one look that the daemon takes at every record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from . import transform as transforms
from .identity import COORDINATES, identity
from .record import Record, Transformed, original_of
from .transform import Reject, Transform
from .units import Settings

Format = Literal["json", "text", "bytes"]

# A reason why a record cannot be delivered whatever the API says, or None.
Objection = Callable[[Record], str | None]


class RecordSettings(Settings, frozen=True):
    """[record]"""

    format: Format = "json"
    id: str = COORDINATES
    on_tombstone: Literal["skip", "dead-letter", "send"] = "skip"
    transform: str | None = None

    def __post_init__(self) -> None:
        if self.transform is not None:
            try:
                transforms.check_name(self.transform)
            except ValueError as error:
                raise ValueError(f"transform: {error}") from None
        try:
            identity(self.id)
        except ValueError as error:
            raise ValueError(f"id: {error}") from None


@dataclass(frozen=True, slots=True)
class Checked:
    """A run taken apart. Together the three hold each of its records once, in order; what the
    transform has changed is changed in `accepted` alone. `filtered` of the skipped ones were left
    out by it, and the others are tombstones."""

    accepted: Sequence[Record]
    invalid: Sequence[tuple[Record, str]] = ()
    skipped: Sequence[Record] = ()
    filtered: int = 0


class Intake:
    """Checks runs of records against `[record]` and what the sink must be able to express.

    A run without fault is passed on as the list that it came as.
    """

    def __init__(self, settings: RecordSettings, objection: Objection | None = None) -> None:
        self._format = settings.format
        self._on_tombstone = settings.on_tombstone
        self._objection = objection
        self._transform = (
            None if settings.transform is None else transforms.load(settings.transform)
        )
        self._json = msgspec.json.Decoder(msgspec.Raw).decode

    def check(self, records: Sequence[Record]) -> Checked:
        """Every record of the run lands in exactly one of the three lists."""
        if self._transform is not None:
            return self._transformed(self._transform, records)
        return self._checked(records)

    def _transformed(self, transform: Transform, records: Sequence[Record]) -> Checked:
        """Tombstones go around the transform, and what it makes is checked like any other."""
        valued = [record for record in records if record.value is not None]
        outputs = iter(transforms.outputs(transform, valued) if valued else ())
        made: list[Record] = []
        invalid: list[tuple[Record, str]] = []
        filtered: list[Record] = []
        for record in records:
            if record.value is None:
                made.append(Transformed.of(record, None))
                continue
            output = next(outputs)
            if output is None:
                filtered.append(record)
            elif isinstance(output, Reject):
                invalid.append((record, output.reason))
            else:
                made.append(Transformed.of(record, output))
        checked = self._checked(made) if made else Checked(())
        invalid += [(original_of(record), error) for record, error in checked.invalid]
        skipped = [*filtered, *map(original_of, checked.skipped)]
        return Checked(
            checked.accepted,
            sorted(invalid, key=lambda pair: pair[0].offset),
            sorted(skipped, key=lambda record: record.offset),
            len(filtered),
        )

    def _checked(self, records: Sequence[Record]) -> Checked:
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

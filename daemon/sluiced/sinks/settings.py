"""What every sink is: its block of the configuration, and the object that is built from it.

A new kind of sink is a module with both, and its name in `kinds.py`; or a package of somebody
else's that names its settings in the entry points of `sluiced.sinks`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from msgspec import Meta

from ..batch import Batch
from ..errors import Problem
from ..identity import Identify, identity
from ..intake import RecordSettings
from ..ports import Identifies
from ..units import Duration, Settings, Size
from ..window import WindowSettings
from .switch import Replaceable

# Is told the status ("200", "error", "timeout") and the seconds of each request.
Requests = Callable[[str, float], None]

# Is told of bytes of answers that have come and of those by which bodies are larger than their
# records, and as a negative number of those that are gone again: they count for the memory too.
Held = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Line:
    """What a sink knows of the line that it stands at the end of."""

    name: str
    topics: Sequence[str] = ()
    record: RecordSettings = field(default_factory=RecordSettings)
    window: WindowSettings = field(default_factory=WindowSettings)
    group: str = ""
    max_in_flight: int = 1
    requests: Requests = lambda status, seconds: None
    held: Held = lambda by: None

    @property
    def identify(self) -> Identify:
        return identity(self.record.id)


class ConfiguredSink(Replaceable, Protocol):
    """What a configuration is built into."""

    @property
    def objections_needed(self) -> bool:
        """Whether `objection` can ever answer with more than None."""
        ...

    async def probe(self) -> None:
        """Reaches what is behind it, and changes nothing there. Raises SluicedError."""
        ...

    def preview(self, batch: Batch) -> Iterable[str]:
        """What `send` would send, as lines of text, and with no secret in it."""
        ...


class SinkSettings(Settings, frozen=True, kw_only=True):
    """[sink], whatever its type.

    `timeout` is of one whole attempt, its answer included. `max_records` and `max_bytes` are the
    caps of what is behind it, the latter on the encoded request before compression.
    """

    timeout: Duration = Duration(30)
    max_records: Annotated[int, Meta(ge=1)] = 1000
    max_bytes: Size = Size(10 * 1024**2)

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ValueError("timeout must be more than 0s")
        if self.max_bytes < 1:
            raise ValueError('max_bytes must be more than nothing, such as "10MiB"')

    @property
    def longest(self) -> float:
        """Seconds that one attempt may take."""
        return float(self.timeout)

    @property
    @abstractmethod
    def identified_by(self) -> Identifies:
        """See ports.Sink.identifies."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """Where it all goes, in some words without a secret: "POST https://api.example.com"."""

    @abstractmethod
    def build(self, line: Line) -> ConfiguredSink:
        """The sink, not open yet. Raises ConfigError where a package for it is missing."""

    def problems(self, line: Line) -> Iterator[Problem]:
        """Settings of others that do not go with this sink."""
        yield from ()

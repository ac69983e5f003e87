"""The whole file as one strict Struct, put together from each module's own settings."""

from __future__ import annotations

import msgspec

from ..admin import AdminSettings
from ..attempts import RetrySettings
from ..burial import DeadLetterSettings
from ..gate import LimitSettings
from ..intake import RecordSettings
from ..kafka import KafkaSettings
from ..kafka.results import ResultSettings
from ..kafka.watermarks import FreshnessSettings
from ..logs import LogSettings
from ..pipeline import ShutdownSettings
from ..prices import PriceSettings
from ..sinks import kinds
from ..sinks.settings import Line
from ..units import Settings
from ..window import WindowSettings


class Config(Settings, frozen=True):
    """The tables of the file, and what is none."""

    name: str
    kafka: KafkaSettings
    sink: kinds.BuiltIn
    dead_letter: DeadLetterSettings
    record: RecordSettings = RecordSettings()
    window: WindowSettings = WindowSettings()
    retry: RetrySettings = RetrySettings()
    limits: LimitSettings = LimitSettings()
    freshness: FreshnessSettings = FreshnessSettings()
    admin: AdminSettings = AdminSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    log: LogSettings = LogSettings()
    results: ResultSettings | None = None
    prices: dict[str, PriceSettings] = msgspec.field(default_factory=dict)

    @property
    def line(self) -> Line:
        """What the sink knows of it."""
        return Line(
            self.name,
            self.kafka.topics,
            self.record,
            self.window,
            group=self.kafka.group_id,
            max_in_flight=self.limits.slots,
        )

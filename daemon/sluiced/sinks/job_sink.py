"""What the sinks have in common that make jobs: ours derive from it, and those of others may."""

from __future__ import annotations

from ..batch import Batch
from ..errors import SluicedError
from ..outcome import Outcome
from ..ports import Identifies, OnCancel
from .custom_ids import CustomIds
from .job_settings import JobSettings
from .settings import Line


class ConfiguredJobSink:
    """Base of what implements ports.JobSink; a subclass adds what is its own, and says of what type
    its settings are. `ids` are what requests are known by within a job."""

    settings: JobSettings

    def __init__(self, settings: JobSettings, line: Line) -> None:
        self.settings = settings
        self.line = line
        self.ids = CustomIds(line.name, line.topics)

    @property
    def identifies(self) -> Identifies:
        return "batch"

    @property
    def objections_needed(self) -> bool:
        return True

    @property
    def most_jobs(self) -> int:
        return self.settings.max_jobs

    @property
    def poll_every(self) -> float:
        return float(self.settings.poll)

    @property
    def on_cancel(self) -> OnCancel:
        return self.settings.on_cancel

    async def send(self, batch: Batch) -> Outcome:
        raise SluicedError(
            "a sink of jobs does not answer at once, and takes no batches from a tool",
            "Send the records back into their topic instead, with dead-letters redrive --to topic.",
        )

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

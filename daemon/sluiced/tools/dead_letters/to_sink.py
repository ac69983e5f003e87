"""Dead letters straight through the sink."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter

from ...batch import Run
from ...config import Config
from ...record import TopicPartition
from ...redrive.letter import Letter
from ...redrive.memory import Memory
from ...redrive.targets import Pending, Sent
from ...redrive.to_topic import ToTopic
from ...window import Window
from ..resend import Coordinates, Resender, coordinates


class ToSink:
    """Through the pipeline's own sink, in batches as large as its window.

    The records have their old coordinates, and so the ids that they would have had. The batches
    have ids of this run: an API that remembers its answer to an id would only repeat its refusal.

    `topic` is not sent to. What was sent is remembered by its transactions where there are any, so
    that a redrive to the topic and this one shut each other out.
    """

    warning = ""

    def __init__(
        self, config: Config, resender: Resender, tick: Callable[[str], None], topic: ToTopic
    ) -> None:
        self.size = int(min(config.window.most_records, config.sink.max_records))
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        self._name = f"{config.name}+redrive-{started}"
        self._window = config.window
        self._resender = resender
        self._tick = tick
        self._topic = topic
        self.transactional = topic.transactional

    async def objection(self, letter: Letter) -> str | None:
        return None

    async def remember(self, memory: Memory) -> None:
        await self._topic.remember(memory)

    async def send(self, pending: Sequence[Pending], memory: Memory) -> Sent:
        """The same record may be there twice: its letters share one fate."""
        letters: dict[Coordinates, list[Letter]] = {}
        for each in pending:
            letters.setdefault(coordinates(each.record), []).append(each.letter)
        newest = {coordinates(each.record): each.record for each in pending}
        result = Sent()
        runs = []
        for tp, group in groupby(
            (newest[at] for at in sorted(newest)), key=attrgetter("topic", "partition")
        ):
            checked = self._resender.intake.check(list(group))
            for record, error in checked.invalid:
                result.refused += [(x, f"invalid: {error}") for x in letters[coordinates(record)]]
            for record in checked.skipped:
                result.sent += letters[coordinates(record)]
            if checked.accepted:
                runs.append(Run(TopicPartition(*tp), 0, checked.accepted))
        await self._deliver(runs, letters, result)
        return result

    async def _deliver(
        self, runs: Sequence[Run], letters: dict[Coordinates, list[Letter]], result: Sent
    ) -> None:
        window = Window(self._name, self._window)
        batches = [batch for run in runs for batch in window.add(run, 0.0)]
        if rest := window.close("drain"):
            batches.append(rest)
        for batch in batches:
            settled = await self._resender.deliver(batch, self._tick)
            for record in settled.delivered:
                result.sent += letters[coordinates(record)]
            for x in settled.refused:
                why = " ".join(filter(None, (f"{x.reason}:", x.status, x.error)))
                result.refused += [(letter, why) for letter in letters[coordinates(x.record)]]
            if settled.open:
                result.error = self._resender.gave_up
                return

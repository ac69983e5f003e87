"""One daemon of the group: the real pipeline with simulated ports, and how it lives and dies."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextvars import ContextVar
from inspect import signature
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import trio
from prometheus_client import CollectorRegistry

import sluiced.inflow
from sluiced.attempts import Attempts, RetrySettings
from sluiced.burial import Burial, DeadLetterSettings, Halt
from sluiced.delivery import Delivery
from sluiced.errors import SourceError
from sluiced.gate import Gate, LimitSettings
from sluiced.identity import COORDINATES, identity
from sluiced.intake import Intake, RecordSettings
from sluiced.jobs import Jobs
from sluiced.metrics import Metrics
from sluiced.pipeline import Pipeline
from sluiced.ports import Assignment
from sluiced.units import Duration, Patience
from sluiced.window import Windows, WindowSettings

from .broker import Committed
from .scenario import dice
from .sink import SimDeadLetters, SimSink
from .source import SimSource
from .topics import EPOCH

if TYPE_CHECKING:
    from .world import World

# Whose task this is; tasks inherit it from the one that started them.
MEMBER: ContextVar[SimMember | None] = ContextVar("MEMBER", default=None)

NAME = "simulated"

# Whether the core under test makes the boundaries of its batches durable before it sends them.
KEEPS_PLANS = "plans" in signature(Pipeline).parameters


def known(taker: Callable[..., object], **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that this version of the core knows."""
    return {name: a for name, a in arguments.items() if name in signature(taker).parameters}


def assignment(epoch: int, committed: Committed | None, start: int, end: int) -> Assignment:
    """What kafka.source makes of the offsets that it finds."""
    if committed is None:
        return Assignment(epoch, start, **known(Assignment, end=end, fresh=True))
    offset, metadata = committed
    return Assignment(epoch, offset, metadata, **known(Assignment, end=end))


class _Unread(CollectorRegistry):
    """Nobody scrapes a simulated member, and to register would be a scrape."""

    def register(self, collector: object) -> None:
        pass


def wall() -> float:
    return EPOCH + trio.current_time()


def build(member: SimMember) -> Pipeline:
    """The pipeline of a member, as `app` puts it together."""
    scenario = member.world.scenario
    sluiced.inflow.POLL = scenario.poll
    metrics = Metrics(NAME, _Unread())
    limits = LimitSettings(
        max_in_flight="auto" if scenario.auto else scenario.max_in_flight,
        most_in_flight=scenario.max_in_flight,
        requests_per_second=scenario.requests_per_second,
        records_per_second=scenario.records_per_second,
        share="group" if scenario.records_per_second else "member",
    )
    gate = Gate(limits, trio.current_time(), 40 if scenario.auto else None)
    dead_letter = DeadLetterSettings(
        topic="dead", max_ratio=scenario.max_ratio, max_ratio_window=300
    )
    burial = Burial(dead_letter, SimDeadLetters(member), Halt(), metrics)
    retry = RetrySettings(
        first_delay=Duration(0.1),
        max_delay=Duration(scenario.max_delay),
        give_up_after=Patience(scenario.give_up_after),
        max_item_attempts=scenario.max_item_attempts,
    )
    record = RecordSettings(
        id="$key" if scenario.collapse else COORDINATES, on_tombstone=scenario.on_tombstone
    )
    identify = identity(record.id)
    intake = Intake(record, member.sink.objection if scenario.collapse else None)
    delivery = member.deliverer(
        member.attempts(retry, burial, gate, metrics), burial, metrics, intake
    )
    plans = scenario.identifies in ("batch", "transaction")
    return Pipeline(
        NAME,
        source=member.source,
        checkpoint=member.source,
        intake=intake,
        windows=Windows(NAME, member.window, identify),
        gate=gate,
        delivery=delivery,
        burial=burial,
        metrics=metrics,
        memory=scenario.memory,
        drain=scenario.drain,
        clock=trio.current_time,
        **known(Pipeline, identify=identify, plans=plans),
    )


class SimMember:
    """Once it is dead nothing that it still does has an effect; while it is frozen, it waits."""

    def __init__(self, world: World, name: str, window: WindowSettings) -> None:
        self.world = world
        self.name = name
        self.window = window
        self.source = SimSource(self)
        self.sink = self.make_sink()
        self.pipeline = build(self)
        self.dead = False
        self.ended = False
        self.must_halt = False  # a dead letter has failed
        self.fuse = -1  # steps until it is struck; negative if it is not going to be
        self.last_thawed = -1.0
        self._scope = trio.CancelScope()
        self._stop = anyio.Event()
        self._thawed: trio.Event | None = None

    def make_sink(self) -> Any:
        return SimSink(self)

    def attempts(
        self, retry: RetrySettings, burial: Burial, gate: Gate, metrics: Metrics
    ) -> Attempts:
        return Attempts(
            retry,
            gate,
            burial.halt,
            metrics,
            clock=trio.current_time,
            wall=wall,
            random=self.chance,
        )

    def deliverer(
        self, attempts: Attempts, burial: Burial, metrics: Metrics, intake: Intake
    ) -> Delivery | Jobs:
        return Delivery(self.sink, burial, attempts, metrics)

    @property
    def chance(self) -> Random:
        """By which it backs off."""
        return dice(self.world.scenario.seed, f"{self.name}/backoff")

    def __str__(self) -> str:
        w = self.window
        return f"{self.name} (windows of {w.max_records} records, {w.max_bytes}, {w.max_age})"

    async def live(self) -> None:
        """Until it is told to stop, breaks down or is killed."""
        MEMBER.set(self)
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._coordinate)
                try:
                    await self.pipeline.run(self._stop)
                except SourceError as error:
                    self.note("breaks down", error.message)
                except Exception as error:
                    self._bug(error)
                await self.awake()
                nursery.cancel_scope.cancel()
        self.ended = True
        if not self.dead:
            self.world.broker.leave(self.name)
        self.world.ended(self)

    async def _coordinate(self) -> None:
        try:
            await self.source.coordinate(self.pipeline)
        except Exception as error:
            self._bug(error)

    def _bug(self, error: Exception) -> None:
        where = "".join(traceback.format_exception(error)[-3:])
        self.world.audit.fail("bug", f"{self.name} dies of {error!r}\n{where}")

    # --- what happens to it -----------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def frozen(self) -> bool:
        return self._thawed is not None

    def kill(self) -> None:
        self.note("is killed")
        self.dead = True
        self._scope.cancel()
        self.world.broker.silent(self.name, lambda: True)

    def freeze(self) -> None:
        self.note("freezes")
        self._thawed = thawed = trio.Event()
        self.world.broker.silent(self.name, lambda: self._thawed is thawed)

    def thaw(self) -> None:
        if self._thawed is not None:
            self.note("thaws")
            self.last_thawed = trio.current_time()
            self._thawed.set()
            self._thawed = None

    def stop(self) -> None:
        if not self._stop.is_set():
            self.note("is told to stop")
            self._stop.set()
            began = trio.current_time()
            late = self.world.scenario.drain + 1.0
            self.world.timeline.after(late, lambda: self._check_stopped(began))

    def _check_stopped(self, began: float) -> None:
        if not (self.ended or self.dead or self.frozen):
            self.world.audit.conduct.drained(self, began)

    # --- what its ports need ----------------------------------------------------------------------

    async def awake(self) -> None:
        """At the border of the process: in and out of every port."""
        while self.dead or self._thawed is not None:
            if self.dead:
                await trio.sleep_forever()
            elif self._thawed is not None:
                await self._thawed.wait()

    def note(self, kind: str, *details: object) -> None:
        self.world.trace.note(self.name, kind, *details)

    def saw(self, moment: str) -> None:
        self.world.chaos.saw(self, moment)

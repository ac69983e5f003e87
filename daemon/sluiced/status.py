"""What can be seen of a pipeline from outside: health, status, and gauges for a scrape."""

from __future__ import annotations

from datetime import UTC, datetime
from math import nan
from typing import Any, Literal

from . import __version__
from .budgets import NO_WAIT, SERVER, Wait
from .gauges import Gauges
from .history import Landed
from .jobs import seen
from .pipeline import Pipeline
from .record import TopicPartition
from .spending import money

State = Literal["starting", "running", "waiting", "outage", "halted", "draining"]

# Seconds without a turn of the fetch loop after which it counts as stuck, or so many drains. A
# rebalance holds it up for as long as the slowest member takes, and then once more if another
# follows.
STUCK, STUCK_DRAINS = 180.0, 3


class Status:
    """Reads a pipeline; changes nothing.

    `attempt` is the longest that one attempt at the sink may take with its pause before it, in
    seconds: a batch that shows no sign of life for much longer is stuck.
    """

    def __init__(self, pipeline: Pipeline, attempt: float) -> None:
        self._pipeline = pipeline
        self._attempt = attempt
        self._reload: dict[str, Any] = {"successful": True, "at": None, "error": None}

    def reloaded(self, wall: float, error: str | None = None, attempt: float = 0.0) -> None:
        """A reload was done, or refused with this error, at `wall` seconds since 1970.

        What has begun may still take as long as it was given, so `attempt` only ever lengthens
        the longest one.
        """
        self._reload = {"successful": error is None, "at": _rfc3339(wall), "error": error}
        self._attempt = max(self._attempt, attempt)

    def live(self) -> str | None:
        """None while the process works; otherwise what does not, and only a restart cures."""
        p = self._pipeline
        now = p.clock()
        if p.tasks.fatal is not None:
            return f"a task has died: {type(p.tasks.fatal).__name__}"
        most = max(STUCK, STUCK_DRAINS * p.drain)
        if (idle := now - p.inflow.last_turn) > most and not p.tasks.stopping:
            return f"nothing was fetched or waited for in {idle:.0f} s"
        if p.burial.halt.reason is None:
            for flight in p.outflow.flights.values():
                idle = now - flight.touched
                if not flight.held and idle > 2 * self._attempt + 60:
                    return f"batch {flight.batch.id} has shown no sign of life for {idle:.0f} s"
        return None

    def state(self) -> tuple[State, str]:
        p = self._pipeline
        if p.tasks.stopping:
            return "draining", "the daemon is stopping"
        if p.burial.halt.reason is not None:
            return "halted", p.burial.halt.reason
        if p.delivery.health.outage is not None:
            return "outage", p.delivery.health.outage
        if not p.inflow.member:
            return "starting", "no partitions have been assigned yet"
        if not p.inflow.timetable.open and p.inflow.finished():
            active = p.buffer.windows.settings.active
            until = f"until {active.until(p.delivery.wall())}" if active else ""
            at_work = len(p.jobs.jobs) if p.jobs is not None else 0
            jobs = f"; jobs that are looked after: {at_work}" if at_work else ""
            return "waiting", until + jobs
        if stopped := sorted(map(str, p.source.stopped)):
            return "running", f"stopped, because the log is damaged: {', '.join(stopped)}"
        if (held := self._held()).limit == SERVER:
            return "running", f"the API has asked us to wait, {held.seconds:.1f} s more"
        if held.limit:
            return "running", f"limits.{held.limit} holds us back, {held.seconds:.1f} s more"
        return "running", ""

    def ready(self) -> str | None:
        """None while records move or could; otherwise why they do not."""
        state, reason = self.state()
        return self.live() if state in ("running", "waiting") else f"{state}: {reason}"

    def healthy(self) -> str:
        """What `/readyz` says of a pipeline that is ready."""
        state, reason = self.state()
        return f"{state} {reason}" if state == "waiting" else "ok"

    def gauges(self) -> Gauges:
        p = self._pipeline
        now = p.clock()
        checkpoints = p.ledger.last_committed()
        jobs = () if p.jobs is None else p.jobs.jobs
        return Gauges(
            state=self.state()[0],
            memory_used_bytes=p.memory.occupied(),
            checkpoint_age_seconds=now - p.committer.moved_at,
            log_starts={tp: start for tp, start in p.watch.starts.items() if tp in checkpoints},
            buffered_records=p.buffer.records + p.recovery.records,
            buffered_bytes=p.buffer.bytes,
            memory_limit_bytes=p.memory.limit,
            in_flight_batches=len(p.outflow.flights),
            oldest_unflushed_seconds=self._waiting(now),
            stopped_partitions=len(p.source.stopped),
            sink_up=p.delivery.health.outage is None,
            active=p.inflow.timetable.open,
            catch_up_seconds=nan if (left := self._catch_up()) is None else left,
            oldest_job_seconds=seen.oldest(jobs, now, p.delivery.wall()),
            job_unseen_seconds=seen.unseen(jobs, now),
            jobs=seen.states(jobs),
            checkpoints=checkpoints,
            visible={tp: ms / 1000 for tp in checkpoints if (ms := p.freshness.until(tp))},
            lags={
                tp: self._end(tp) - offset
                for tp, offset in checkpoints.items()
                if tp in p.watch.ends
            },
        )

    def _held(self) -> Wait:
        """By which limit the next request is held back, if by any."""
        p = self._pipeline
        return p.gate.holding(p.clock()) if p.outflow.flights else NO_WAIT

    def _waiting(self, now: float) -> float:
        """Seconds since the oldest record that is not done was buffered; 0 if there is none."""
        since = [f.batch.since for f in self._pipeline.outflow.flights.values()]
        buffered = self._pipeline.buffer.since()
        return now - min([*since, *([] if buffered is None else [buffered])], default=now)

    def _catch_up(self) -> float | None:
        """Seconds until nothing is left to do, as things go; None if that never comes, or before
        the ends of the log are known. Whoever has read all that there is, and has no more ready
        than goes out at once, has caught up: a steady stream always has something on its way."""
        p = self._pipeline
        checkpoints = p.ledger.last_committed()
        if not checkpoints.keys() <= p.watch.ends.keys():
            return None
        behind = len(p.buffer.closed) > p.gate.slots or any(
            p.watch.ends[tp] > p.ledger.position(tp) for tp in checkpoints
        )
        left = sum(self._end(tp) - offset for tp, offset in checkpoints.items()) if behind else 0
        return p.watch.pace.catch_up(left)

    def _end(self, tp: TopicPartition) -> int:
        """Of the log: looked up a while ago, and more may have been fetched since."""
        return max(self._pipeline.watch.ends[tp], self._pipeline.ledger.position(tp))

    def report(self) -> dict[str, Any]:
        """The body of `/status`."""
        p, now = self._pipeline, self._pipeline.clock()
        state, reason = self.state()
        opened = p.buffer.windows.opened_at()
        error = p.delivery.health.last_error
        window, held = p.buffer.windows.settings, self._held()
        return {
            "pipeline": p.name,
            "version": __version__,
            "now": _rfc3339(p.delivery.wall()),
            "state": state,
            "reason": reason,
            "partitions": [self._partition(tp) for tp in sorted(p.ledger.last_committed())],
            "window": {
                "records": p.buffer.windows.records,
                "bytes": p.buffer.windows.bytes,
                "age_seconds": 0.0 if opened is None else round(now - opened, 3),
                "max_records": p.buffer.windows.most_records,
                "max_bytes": int(window.max_bytes),
                "max_age_seconds": float(window.max_age),
            },
            "in_flight": [
                {
                    "batch": flight.batch.id,
                    "records": len(flight.batch),
                    "bytes": flight.batch.size,
                    "attempts": flight.attempts,
                    "age_seconds": round(now - flight.started, 3),
                    "closed_by": flight.batch.closed_by,
                }
                for flight in p.outflow.flights.values()
            ],
            "jobs": None if p.jobs is None else seen.report(p.jobs.jobs, now, p.delivery.wall()),
            "schedule": {
                "active": None if window.active is None else str(window.active),
                "align": None if window.align is None else str(window.align),
                "open": p.inflow.timetable.open,
                "changes_at": self._changes_at(),
            },
            "catch_up_seconds": None if (left := self._catch_up()) is None else round(left, 1),
            "waiting_seconds": round(self._waiting(now), 3),
            "queued_batches": len(p.buffer.waiting),
            # Of a former run: still being read again, and complete but not sent yet.
            "recovering": {"forming": p.recovery.batches, "formed": len(p.buffer.planned)},
            "recent_batches": [_landed(each) for each in p.delivery.history.batches],
            "totals": p.metrics.totals(),
            "limits": [
                {"name": "max_in_flight", "limit": p.gate.slots, "used": p.gate.taken},
                {"name": "memory", "limit": p.memory.limit, "used": p.memory.occupied()},
                *(
                    {
                        "name": b.name,
                        "limit": int(b.limit),
                        "used": round(b.used_at(now)),
                        "holds_seconds": round(held.seconds, 3) if held.limit == b.name else 0.0,
                    }
                    for b in p.gate.budgets
                ),
            ],
            "reload": self._reload,
            "last_error": None if error is None else {"at": _rfc3339(error[0]), "text": error[1]},
            "recent_errors": [
                {"at": _rfc3339(e.at), "reason": e.reason, "text": e.text, "times": e.times}
                for e in p.delivery.history.errors
            ],
        }

    def watermarks(self) -> list[dict[str, Any]]:
        """How far each partition is visible at the sink, for whoever acts on it."""
        p, now = self._pipeline, _rfc3339(self._pipeline.delivery.wall())
        keys = ("topic", "partition", "visible_until", "checkpoint", "lag")
        parts = [self._partition(tp) for tp in sorted(p.ledger.last_committed())]
        return [
            {"pipeline": p.name} | {key: part[key] for key in keys} | {"at": now} for part in parts
        ]

    def _partition(self, tp: TopicPartition) -> dict[str, Any]:
        p = self._pipeline
        checkpoint = p.ledger.last_committed()[tp]
        visible = p.freshness.until(tp)
        end = self._end(tp) if tp in p.watch.ends else None
        lag = None if end is None else end - checkpoint
        return {
            "topic": tp.topic,
            "partition": tp.partition,
            "epoch": p.ledger.epoch(tp),
            "position": p.ledger.position(tp),
            "checkpoint": checkpoint,
            "stopped": tp in p.source.stopped,
            "end": end,
            "lag": lag,
            "visible_until": None if visible is None else _rfc3339(visible / 1000),
            "delay_seconds": self._delay(visible, lag),
        }

    def _delay(self, visible: int | None, lag: int | None) -> float | None:
        """How far behind the present the other end is: not at all where everything is done."""
        if lag == 0:
            return 0.0
        if visible is None or lag is None:
            return None
        return round(max(0.0, self._pipeline.delivery.wall() - visible / 1000), 3)

    def _changes_at(self) -> str | None:
        p = self._pipeline
        active = p.buffer.windows.settings.active
        change = None if active is None else active.changes(p.delivery.wall())
        return None if change is None else _rfc3339(change)


def _landed(batch: Landed) -> dict[str, Any]:
    return {
        "batch": batch.batch,
        "records": batch.records,
        "bytes": batch.bytes,
        "closed_by": batch.closed_by,
        "outcome": batch.outcome,
        "attempts": batch.attempts,
        "at": _rfc3339(batch.at),
        "seconds": round(batch.seconds, 3),
        "delay_seconds": None if batch.delay is None else round(batch.delay, 3),
        "cost": None if batch.cost is None else money(batch.cost),
    }


def _rfc3339(seconds: float) -> str | None:
    """None for a time that no calendar has: a producer may set any number as a timestamp."""
    try:
        text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return None
    return text.replace("+00:00", "Z")

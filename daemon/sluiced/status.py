"""What can be seen of a pipeline from outside: health, status, and gauges for a scrape."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from . import __version__
from .metrics import Gauges
from .pipeline import Pipeline
from .record import TopicPartition
from .window import WindowSettings

State = Literal["starting", "running", "waiting", "outage", "halted", "draining"]

# Seconds without a turn of the fetch loop after which it counts as stuck. A rebalance holds it up
# for as long as the slowest member takes, and then once more if another follows.
STUCK = 180.0


class Status:
    """Reads a pipeline; changes nothing.

    `attempt` is the longest that one attempt at the sink may take with its pause before it, in
    seconds: a batch that shows no sign of life for much longer is stuck.
    """

    def __init__(self, pipeline: Pipeline, window: WindowSettings, attempt: float) -> None:
        self._pipeline = pipeline
        self._window = window
        self._stuck_flight = 2 * attempt + 60

    def live(self) -> str | None:
        """None while the process works; otherwise what does not, and only a restart cures."""
        p = self._pipeline
        now = p.clock()
        if p.fatal is not None:
            return f"a task has died: {type(p.fatal).__name__}"
        if (idle := now - p.last_turn) > STUCK and not p.stopping:
            return f"nothing was fetched or waited for in {idle:.0f} s"
        if p.burial.halt.reason is None:
            for flight in p.flights.values():
                if (idle := now - flight.touched) > self._stuck_flight:
                    return f"batch {flight.batch.id} has shown no sign of life for {idle:.0f} s"
        return None

    def state(self) -> tuple[State, str]:
        p = self._pipeline
        if p.stopping:
            return "draining", "the daemon is stopping"
        if p.burial.halt.reason is not None:
            return "halted", p.burial.halt.reason
        if p.delivery.health.outage is not None:
            return "outage", p.delivery.health.outage
        if not p.member:
            return "starting", "no partitions have been assigned yet"
        return "running", ""

    def ready(self) -> str | None:
        """None while records move or could; otherwise why they do not."""
        state, reason = self.state()
        return self.live() if state in ("running", "waiting") else f"{state}: {reason}"

    def gauges(self) -> Gauges:
        p = self._pipeline
        since = [f.batch.since for f in p.flights.values()]
        buffered = p.buffer.since()
        now = p.clock()
        oldest = min([*since, *([] if buffered is None else [buffered])], default=now)
        checkpoints = p.ledger.last_committed()
        return Gauges(
            buffered_records=p.buffer.records,
            buffered_bytes=p.buffer.bytes,
            memory_limit_bytes=p.memory,
            in_flight_batches=len(p.flights),
            oldest_unflushed_seconds=now - oldest,
            sink_up=p.delivery.health.outage is None,
            checkpoints=checkpoints,
            lags={tp: self._lag(tp, offset) for tp, offset in checkpoints.items() if tp in p.ends},
        )

    def _lag(self, tp: TopicPartition, checkpoint: int) -> int:
        # The end was looked up a while ago, and more may have been delivered since.
        return max(0, self._pipeline.ends[tp] - checkpoint)

    def report(self) -> dict[str, Any]:
        """The body of `/status`."""
        p, now = self._pipeline, self._pipeline.clock()
        state, reason = self.state()
        opened = p.buffer.windows.opened_at()
        error = p.delivery.health.last_error
        return {
            "pipeline": p.name,
            "version": __version__,
            "state": state,
            "reason": reason,
            "partitions": [self._partition(tp) for tp in sorted(p.ledger.last_committed())],
            "window": {
                "records": p.buffer.windows.records,
                "bytes": p.buffer.windows.bytes,
                "age_seconds": 0.0 if opened is None else round(now - opened, 3),
                "max_records": self._window.max_records,
                "max_bytes": int(self._window.max_bytes),
                "max_age_seconds": float(self._window.max_age),
            },
            "in_flight": [
                {
                    "batch": flight.batch.id,
                    "records": len(flight.batch),
                    "bytes": flight.batch.size,
                    "attempts": flight.attempts,
                    "age_seconds": round(now - flight.started, 3),
                }
                for flight in p.flights.values()
            ],
            "totals": p.metrics.totals(),
            "limits": [
                {"name": "max_in_flight", "limit": p.gate.slots, "used": p.gate.taken},
                {"name": "memory", "limit": p.memory, "used": p.occupied()},
            ],
            "last_error": None if error is None else {"at": _rfc3339(error[0]), "text": error[1]},
        }

    def _partition(self, tp: TopicPartition) -> dict[str, Any]:
        p = self._pipeline
        checkpoint = p.ledger.last_committed()[tp]
        visible = p.freshness.until(tp)
        end = p.ends.get(tp)
        return {
            "topic": tp.topic,
            "partition": tp.partition,
            "epoch": p.ledger.epoch(tp),
            "position": p.ledger.position(tp),
            "checkpoint": checkpoint,
            "end": end,
            "lag": None if end is None else self._lag(tp, checkpoint),
            "visible_until": None if visible is None else _rfc3339(visible / 1000),
        }


def _rfc3339(seconds: float) -> str | None:
    """None for a time that no calendar has: a producer may set any number as a timestamp."""
    try:
        text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return None
    return text.replace("+00:00", "Z")

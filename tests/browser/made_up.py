"""An admin port that shows whatever a test wants it to: any state, any text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from sluiced.admin import Admin, AdminSettings


def ago(seconds: float) -> str:
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def partition(topic: str, number: int, lag: int | None, *, stopped: bool = False) -> dict[str, Any]:
    return {
        "topic": topic,
        "partition": number,
        "epoch": 1,
        "position": 12_000,
        "checkpoint": 11_800,
        "stopped": stopped,
        "end": None if lag is None else 11_800 + lag,
        "lag": lag,
        "visible_until": ago(2 + number),
        "delay_seconds": 2.0 + number,
    }


def job(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "job": f"batch_{number:024x}",
        "batch": f"{number:032x}",
        "state": "working",
        "status": "in_progress",
        "done": 1000 * number,
        "total": 50_000,
        "age_seconds": 40_000.0 - 60 * number,
        "attempt": 1 + number % 2,
        "partitions": [f"pages/{number}", f"pages/{number + 1}"],
    } | changes


def jobs(*shown: dict[str, Any], more: int = 0, **changes: Any) -> dict[str, Any]:
    found = shown or tuple(job(n) for n in range(5))
    return {
        "working": len(found) + more,
        "ended": 0,
        "waiting": 0,
        "oldest_seconds": 40_000.0,
        "unseen_seconds": 20.0,
        "shown": list(found),
        "more": more,
    } | changes


def landed(closed_by: str, outcome: str) -> dict[str, Any]:
    return {
        "batch": "0123456789abcdef" * 2,
        "records": 500,
        "bytes": 300_000,
        "closed_by": closed_by,
        "outcome": outcome,
        "attempts": 2,
        "at": ago(3),
        "seconds": 0.4,
        "delay_seconds": 2.5,
    }


def error(reason: str, text: str, times: int = 1) -> dict[str, Any]:
    return {"at": ago(9), "reason": reason, "text": text, "times": times}


def status(**changes: Any) -> dict[str, Any]:
    """A body of `/status` with something in every place."""
    return {
        "pipeline": "pages",
        "version": "1.2.3",
        "now": ago(0),
        "state": "running",
        "reason": "",
        "partitions": [partition("pages", n, 100 * n) for n in range(8)],
        "window": {
            "records": 312,
            "bytes": 1_048_576,
            "age_seconds": 1.5,
            "max_records": 500,
            "max_bytes": 4_194_304,
            "max_age_seconds": 2.0,
        },
        "in_flight": [
            {
                "batch": "fedcba9876543210" * 2,
                "records": 211,
                "bytes": 90_000,
                "attempts": 3,
                "age_seconds": 0.8,
                "closed_by": "plan",
            }
        ],
        "jobs": None,
        "schedule": {"active": None, "align": None, "open": True, "changes_at": None},
        "catch_up_seconds": 75.0,
        "waiting_seconds": 2.2,
        "queued_batches": 1,
        "recovering": {"forming": 2, "formed": 1},
        "recent_batches": [
            landed("records", "delivered"),
            landed("age", "partial"),
            landed("bytes", "rejected"),
        ],
        "totals": {
            "consumed": 1_204_511,
            "delivered": 1_203_400,
            "dead_lettered": 17,
            "skipped": 3,
            "requests": 2_411,
        },
        "limits": [
            {"name": "max_in_flight", "limit": 4, "used": 1},
            {"name": "memory", "limit": 201_326_592, "used": 40_265_318},
        ],
        "last_error": None,
        "recent_errors": [error("timeout", "no answer within 30 s", 7)],
    } | changes


class Shown:
    """A real admin port with a made-up daemon behind it; `status` can be set at any time."""

    def __init__(self) -> None:
        self.status = status()
        self.asked = 0
        self.admin = Admin(
            AdminSettings(listen="127.0.0.1:0"),
            CollectorRegistry(),
            live=lambda: None,
            ready=lambda: None,
            status=self._answer,
        )

    def _answer(self) -> dict[str, Any]:
        self.asked += 1
        return self.status

    @property
    def url(self) -> str:
        return f"http://{self.admin.address}/"

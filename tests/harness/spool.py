"""A worker at a spool directory of docs/example, which says of a request what it has heard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Worker:
    """It looks at no job whose name begins with a dot. `jobs` are those that it has seen."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool
        self.jobs: dict[str, list[Any]] = {}

    def waiting(self) -> Iterator[Path]:
        """The jobs that have not ended."""
        for job in sorted(self.spool.glob("[!.]*")):
            requests = (job / "requests.jsonl").read_text().splitlines()
            self.jobs[job.name] = [json.loads(line) for line in requests]
            if not (job / "done").exists():
                yield job

    def begin(self) -> None:
        """Half of each job is worked on."""
        for job in self.waiting():
            requests = self.jobs[job.name]
            self._tell(job, requests[: len(requests) // 2])

    def finish(self) -> None:
        """Every job comes to its end."""
        for job in self.waiting():
            if not (job / "cancelled").exists():
                self._tell(job, self.jobs[job.name])
            (job / "results.jsonl").touch()
            told = (job / "results.jsonl").read_bytes().count(b"\n")
            (job / ".done").write_text(str(told))
            (job / ".done").rename(job / "done")

    @staticmethod
    def _tell(job: Path, requests: list[Any]) -> None:
        """The last request first."""
        lines = [json.dumps(_result(**request)) + "\n" for request in reversed(requests)]
        (job / "results.jsonl").write_text("".join(lines))


def _result(custom_id: str, body: Any) -> dict[str, Any]:
    if "refuse" in body:
        return {"custom_id": custom_id, "error": body["refuse"]}
    return {"custom_id": custom_id, "response": {"heard": body}}

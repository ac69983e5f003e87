"""What a provider of batch jobs knows of them when all is over: the audit's witness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any, Literal, Self

from .sink import Coordinates

# What a job said of a line in the end. "working": the job has not ended.
Said = Literal["done", "refused", "again", "missing", "working"]


@dataclass(frozen=True)
class Booked:
    """One job as the provider knows it. `created` and `ended` are seconds since 1970; `said` has
    what was said of each record, with a digest of the answer where it was done."""

    id: str
    created: float
    ended: float | None
    status: str
    said: dict[Coordinates, tuple[Said, str]]


@dataclass(frozen=True)
class Book:
    """All jobs in the order of their creation, the names of files that no job was made of, and how
    often the provider did what."""

    jobs: list[Booked]
    leftovers: list[str] = field(default_factory=list)
    struck: dict[str, int] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As JSON can have it."""
        jobs = [
            asdict(job) | {"said": [[*w, *s] for w, s in job.said.items()]} for job in self.jobs
        ]
        return {**asdict(self), "jobs": jobs}

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        jobs = [_booked(job) for job in document.pop("jobs")]
        return cls(jobs, **document)


def _booked(fields: dict[str, Any]) -> Booked:
    said: Sequence[tuple[int, int, Said, str]] = fields.pop("said")
    return Booked(said={(p, o): (what, its) for p, o, what, its in said}, **fields)


def digest(body: bytes) -> str:
    """What stands for an answer in the book."""
    return blake2b(body, digest_size=8).hexdigest()

"""What became of every prompt: the log against the results, the dead letters and the provider's own
book.

A result may stand in the topic of results more than once, where whoever wrote it died before its
checkpoint moved, or a broker before it acknowledged. Then all of it is the same to the byte: key,
value, headers, and with them the job. Such copies are counted; any other second answer is a fault.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .audit import Findings, some
from .book import Book, Booked
from .records import Kind
from .sink import Coordinates


@dataclass(frozen=True)
class Result:
    """A record of the topic of results, with a digest of its value; `at` in seconds since 1970."""

    place: Coordinates
    key: str
    digest: str
    headers: Mapping[str, str]
    at: float

    @property
    def job(self) -> str:
        return self.headers.get("sluiced.job", "")


@dataclass(frozen=True)
class Letter:
    """A dead letter; `whole` if it has the key and the value of the record that it is about."""

    place: Coordinates
    reason: str
    whole: bool
    at: float


@dataclass(frozen=True)
class Evidence:
    """What is left when the storm is over.

    `log` is the topic, read back. `committed` has offset and metadata by partition, `seen` what was
    found committed in passing, and when. After `attempts` jobs a record may be given up.
    """

    log: Mapping[Coordinates, tuple[str, Kind]]
    acknowledged: int
    results: Sequence[Result]
    letters: Sequence[Letter]
    book: Book
    committed: Mapping[int, tuple[int, str]]
    ends: Mapping[int, int]
    attempts: int
    headers: Mapping[str, str] = field(default_factory=dict)
    seen: Sequence[tuple[float, Mapping[int, int]]] = ()


def audit(evidence: Evidence, *, named: bool) -> Findings:
    """`named`: the provider keeps the names of jobs, so that none may ever be made twice. Where it
    keeps none, jobs that nobody could find are counted."""
    results: defaultdict[Coordinates, list[Result]] = defaultdict(list)
    for result in evidence.results:
        results[result.place].append(result)
    letters: defaultdict[Coordinates, list[Letter]] = defaultdict(list)
    for letter in evidence.letters:
        letters[letter.place].append(letter)
    told: defaultdict[Coordinates, list[Booked]] = defaultdict(list)
    for job in evidence.book.jobs:
        for place in job.said:
            told[place].append(job)
    twice = _submitted_twice(told)
    found = Findings(_counts(evidence, results, letters, twice))
    faults: defaultdict[str, list[str]] = defaultdict(list)
    for place, (_, kind) in evidence.log.items():
        if fault := _misplaced(place, kind, results, letters, told, evidence.attempts):
            faults[fault].append(f"{_name(place)} ({kind.value})")
    unknown = (results.keys() | letters.keys() | told.keys()) - evidence.log.keys()
    faults["not in the log"] += map(_name, sorted(unknown))
    for place, copies in results.items():
        if place in evidence.log:
            for fault in _wrong(evidence, place, copies, told[place]):
                faults[fault].append(_name(place))
    faults["a dead letter is not the record"] += [
        _name(letter.place) for letter in evidence.letters if not letter.whole
    ]
    if named:
        faults["submitted twice"] += [
            f"{_name(place)}: {', '.join(job.id for job in told[place])}" for place in twice
        ]
    faults["a file that no job was made of is left"] += evidence.book.leftovers
    faults["committed is not the log's end"] += [
        f"partition {p}: {evidence.committed.get(p, (0, ''))} of {end}"
        for p, end in evidence.ends.items()
        if evidence.committed.get(p, (0, "")) != (end, "")
    ]
    faults["committed before it was done"] += _too_early(evidence, results, letters)
    found.violations += [line for what, them in faults.items() for line in some(what, them)]
    if len(evidence.log) < evidence.acknowledged:
        found.violations.append(
            f"the broker acknowledged {evidence.acknowledged} records and has {len(evidence.log)}"
        )
    return found


def _misplaced(
    place: Coordinates,
    kind: Kind,
    results: Mapping[Coordinates, Sequence[Result]],
    letters: Mapping[Coordinates, Sequence[Letter]],
    told: Mapping[Coordinates, Sequence[Booked]],
    attempts: int,
) -> str:
    """What is wrong with where the record is; "" if it is where its kind says."""
    answered, buried, asked = place in results, place in letters, place in told
    if kind is Kind.TOMBSTONE:
        return "a tombstone that should have been skipped was not" * (answered or buried or asked)
    if not answered and not buried:
        return "lost"
    if answered and buried:
        return "answered and dead-lettered"
    if kind is Kind.GOOD and buried:
        undone = sum(job.said[place][0] in ("again", "missing") for job in told.get(place, ()))
        given_up = all(letter.reason == "exhausted" for letter in letters[place])
        return "" if given_up and undone >= attempts else "a good record is a dead letter"
    if kind is Kind.INVALID and asked:
        return "a record that is no request was submitted"
    return "a bad record was answered" if answered and kind is not Kind.GOOD else ""


def _wrong(
    evidence: Evidence, place: Coordinates, copies: Sequence[Result], told: Sequence[Booked]
) -> Iterable[str]:
    """What is wrong with the results of a record."""
    first = copies[0]
    if len({copy.job for copy in copies}) > 1:
        yield "answered by two jobs"
    elif any(
        (c.key, c.digest, c.headers) != (first.key, first.digest, first.headers) for c in copies
    ):
        yield "written again and not the same"
    if ("done", first.digest) not in [job.said[place] for job in told if job.id == first.job]:
        yield "the provider never gave this answer"
    if first.key != evidence.log[place][0]:
        yield "answered under another key"
    wanted = {**evidence.headers, "sluiced.partition": str(place[0])}
    wanted["sluiced.offset"] = str(place[1])
    if wanted.items() - first.headers.items():
        yield "a header is missing or wrong"


def _submitted_twice(told: Mapping[Coordinates, Sequence[Booked]]) -> list[Coordinates]:
    """Records that went into a job although one before it had them, or might have done them: it had
    not ended, or had said that they are done or refused. One that has failed has done nothing, and
    names records only so that nobody asks for them again: whoever did not hear of it may."""
    return [
        place
        for place, jobs in sorted(told.items())
        if any(
            (before.status != "failed" and before.said[place][0] not in ("again", "missing"))
            or before.ended is None
            or before.ended > after.created
            for before, after in pairwise(jobs)
        )
    ]


def _too_early(
    evidence: Evidence,
    results: Mapping[Coordinates, Sequence[Result]],
    letters: Mapping[Coordinates, Sequence[Letter]],
) -> Iterable[str]:
    """Records below an offset that was seen committed, of which the first trace came later. All
    times are of this machine."""
    for place, (_, kind) in evidence.log.items():
        traces = [each.at for each in [*results.get(place, ()), *letters.get(place, ())]]
        if kind is Kind.TOMBSTONE or not traces:
            continue
        partition, offset = place
        passed = (at for at, offsets in evidence.seen if offsets.get(partition, 0) > offset)
        if (seen := next(passed, None)) is not None and min(traces) > seen:
            yield f"{_name(place)}: {min(traces) - seen:.3f} s"


def _counts(
    evidence: Evidence,
    results: Mapping[Coordinates, Sequence[Result]],
    letters: Mapping[Coordinates, Sequence[Letter]],
    twice: Sequence[Coordinates],
) -> dict[str, int]:
    jobs = evidence.book.jobs
    reasons = Counter(found[0].reason for found in letters.values())
    kinds = Counter(kind for _, kind in evidence.log.values())
    states = Counter(job.status for job in jobs)
    return {
        "records": len(evidence.log),
        "tombstones": kinds[Kind.TOMBSTONE],
        "jobs": len(jobs),
        **{f"jobs that ended as {status}": n for status, n in sorted(states.items())},
        "requests in jobs": sum(len(job.said) for job in jobs),
        "prompts answered": len(results),
        "results written again, the same": len(evidence.results) - len(results),
        "prompts submitted twice": len(twice),
        "records dead-lettered": len(letters),
        **{f"dead-lettered as {reason}": n for reason, n in sorted(reasons.items())},
        "dead letters": len(evidence.letters),
        "checkpoints looked at in passing": len(evidence.seen),
        **{f"provider: {what}": n for what, n in sorted(evidence.book.struck.items())},
    }


def _name(place: Coordinates) -> str:
    return f"{place[0]}/{place[1]}"

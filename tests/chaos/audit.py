"""What became of every record: the log against the sink's journal, dead letters and checkpoints."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .records import Kind
from .sink import Attempt, Coordinates

_SHOWN = 5  # of each sort of violation; the others are counted


@dataclass(frozen=True)
class Evidence:
    """What is left when the storm is over.

    `log` is the topic, read back: each record's key and what it is. `letters` are the coordinates
    and the reason in each dead letter. `committed` and `ends` are offsets by partition.
    """

    log: Mapping[Coordinates, tuple[str, Kind]]
    acknowledged: int
    attempts: Sequence[Attempt]
    letters: Sequence[tuple[Coordinates, str]]
    committed: Mapping[int, int]
    ends: Mapping[int, int]


@dataclass
class Findings:
    """The audit's result: figures for the report, and what must not be."""

    counts: dict[str, int]
    violations: list[str] = field(default_factory=list)


def audit(evidence: Evidence, *, strict: bool) -> Findings:
    """`strict`: nothing may have been applied twice under distinct keys."""
    applied = _applied(evidence.attempts)
    letters: defaultdict[Coordinates, list[str]] = defaultdict(list)
    for place, reason in evidence.letters:
        letters[place].append(reason)
    twice = {place: them for place, them in applied.items() if len(them) > 1}
    found = Findings(_counts(evidence, letters, twice))
    found.violations += _misplaced(evidence.log, applied, letters)
    if strict:
        found.violations += some(
            "applied more than once",
            (_told(place, them) for place, them in sorted(twice.items())),
        )
    found.violations += some(
        "a key came with two bodies",
        (f"{a.key} at {_clock(a.at)}" for a in evidence.attempts if a.how == "mismatch"),
    )
    found.violations += some(
        "committed is not the log's end",
        (
            f"partition {p}: {evidence.committed.get(p, 0)} of {end}"
            for p, end in sorted(evidence.ends.items())
            if evidence.committed.get(p, 0) != end
        ),
    )
    if len(evidence.log) < evidence.acknowledged:
        found.violations.append(
            f"the broker acknowledged {evidence.acknowledged} records and has {len(evidence.log)}"
        )
    return found


def _applied(attempts: Iterable[Attempt]) -> Mapping[Coordinates, list[tuple[Attempt, str]]]:
    """For each record the attempts that changed the world for it, and the key it had there."""
    found: defaultdict[Coordinates, list[tuple[Attempt, str]]] = defaultdict(list)
    for attempt in attempts:
        for partition, offset, key in attempt.applied:
            found[partition, offset].append((attempt, key))
    return found


def _misplaced(
    log: Mapping[Coordinates, tuple[str, Kind]],
    applied: Mapping[Coordinates, list[tuple[Attempt, str]]],
    letters: Mapping[Coordinates, list[str]],
) -> list[str]:
    """Records that are not where their kind says, and things that no record accounts for."""
    faults: defaultdict[str, list[str]] = defaultdict(list)
    for place, (key, kind) in log.items():
        at_sink, buried = place in applied, place in letters
        name = f"{place[0]}/{place[1]} ({kind.value})"
        if kind is Kind.TOMBSTONE:
            if at_sink or buried:
                faults["a tombstone that should have been skipped was not"].append(name)
        elif not at_sink and not buried:
            faults["lost"].append(name)
        elif kind is Kind.GOOD and buried:
            reasons = ", ".join(letters[place])
            faults["a good record is a dead letter"].append(f"{name}: {reasons}")
        elif kind is not Kind.GOOD and at_sink:
            faults["a bad record was applied"].append(name)
        if any(its != key for _, its in applied.get(place, ())):
            faults["applied as another record"].append(name)
    unknown = (applied.keys() | letters.keys()) - log.keys()
    faults["not in the log"] += [f"{p}/{o}" for p, o in sorted(unknown)]
    return [line for what, them in faults.items() for line in some(what, them)]


def _counts(
    evidence: Evidence,
    letters: Mapping[Coordinates, Sequence[str]],
    twice: Mapping[Coordinates, Sequence[object]],
) -> dict[str, int]:
    hows = Counter(attempt.how for attempt in evidence.attempts)
    return {
        "records": len(evidence.log),
        "attempts": len(evidence.attempts),
        "requests": len({attempt.key for attempt in evidence.attempts}),
        **{f"attempts {how}": count for how, count in sorted(hows.items())},
        "repeats recognised by key": hows["repeated"] + hows["busy"],
        "records applied twice": len(twice),
        "records dead-lettered": len(letters),
        "dead letters": len(evidence.letters),
        "tombstones": sum(kind is Kind.TOMBSTONE for _, kind in evidence.log.values()),
    }


def some(what: str, them: Iterable[str]) -> list[str]:
    """One violation with its first examples; none where there is no example."""
    listed = list(them)
    if not listed:
        return []
    more = f"\n    and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return [f"{what}: {len(listed)}" + "".join(f"\n    {each}" for each in listed[:_SHOWN]) + more]


def _told(place: Coordinates, them: Sequence[tuple[Attempt, str]]) -> str:
    times = "; ".join(
        f"{attempt.key} of {_spans(attempt.records)} at {_clock(attempt.at)}" for attempt, _ in them
    )
    return f"{place[0]}/{place[1]}: {times}"


def _spans(records: Iterable[Coordinates]) -> str:
    """The first and last offset of each partition in a request."""
    offsets: defaultdict[int, list[int]] = defaultdict(list)
    for partition, offset in records:
        offsets[partition].append(offset)
    return ", ".join(f"{p}/{min(o)}-{max(o)}[{len(o)}]" for p, o in offsets.items())


def _clock(at: float) -> str:
    """As the daemons' logs write it, to be searched for there."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]

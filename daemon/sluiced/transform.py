"""`[record] transform`: a function of the user's own between the stream and the window.

It is given a run of records of one partition and answers with as many outputs in the same order:
bytes are the new value, a `Reject` makes a dead letter, and None leaves the record out. The same
record must make the same output each time, or a batch that is sent again is not the batch it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TypeAlias

from .record import Record

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reject:
    """This record cannot be made into anything. `reason` goes into its dead letter: say what is
    wrong, and do not repeat the value."""

    reason: str


Output: TypeAlias = bytes | Reject | None
Transform = Callable[[Sequence[Record]], Sequence[Output]]


def check_name(name: str) -> None:
    """Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError('expected "module:function", as Python would import them')


def load(name: str) -> Transform:
    """The function called "module:function". Raises ValueError that says why there is none."""
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function, None)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"{module} cannot be imported: {why}") from None
    if callable(found):
        made: Transform = found
        return made
    raise ValueError(f"{module} has no function {function}")


def outputs(transform: Transform, records: Sequence[Record]) -> Sequence[Output]:
    """One for each record. Where the function fails at a run, each record is tried alone, so that
    only those are refused at which it really fails."""
    try:
        found = list(transform(records))
    except Exception as error:
        found, why = [], f"the transform failed: {type(error).__name__}"
    else:
        why = f"the transform made {len(found)} outputs of {len(records)} records"
    if len(found) == len(records):
        return list(_checked(found))
    if len(records) > 1:
        return [output for record in records for output in outputs(transform, [record])]
    return [Reject(why)]


def _checked(found: Sequence[object]) -> Iterator[Output]:
    for output in found:
        if isinstance(output, Reject):
            reason: object = output.reason
            named = f"the transform rejected it with a {type(reason).__name__}, and not a text"
            yield output if isinstance(reason, str) else Reject(named)
        elif output is None or isinstance(output, bytes):
            yield output
        else:
            yield Reject(f"the transform made a {type(output).__name__}, and not bytes")

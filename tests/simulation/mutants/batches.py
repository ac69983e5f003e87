"""Windows, batches and their ids, and what may enter them."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        "age-from-construction",
        "window",
        "        if self.opened_at is None:\n            self.opened_at = now\n",
        "        if self.opened_at is None:\n            self.opened_at = 0.0\n",
        "A window's age counts from the start of the daemon and not from its first record.",
    ),
    Mutant(
        "age-never",
        "window",
        "return None if self.opened_at is None else self.opened_at + self._settings.max_age",
        "return None",
        "A window that does not fill never closes.",
    ),
    Mutant(
        "one-too-many",
        "window",
        "room = int(min(self._max_records - self.records,",
        "room = int(min(self._max_records - self.records + 1,",
        "A window takes a record more than it may.",
    ),
    Mutant(
        "bytes-uncapped",
        "window",
        "if run.size <= free:",
        "if True:",
        "A window takes more bytes than it may.",
    ),
    Mutant(
        "rest-of-run-lost",
        "window",
        "return first, Run(run.tp, run.epoch, run.records[count:], size, footprint)",
        "return first, None",
        "What does not fit into a window is dropped instead of opening the next one.",
    ),
    Mutant(
        "id-of-hull",
        "batch",
        'digest.update(f"{topic}/{partition}:{ranges}\\n".encode())',
        'digest.update(f"{topic}/{partition}:{ranges[0][0]}-{ranges[-1][1]}\\n".encode())',
        "The id is of the range that was read and not of the records that are sent.",
    ),
    Mutant(
        "id-of-first",
        "batch",
        'digest.update(f"{topic}/{partition}:{ranges}\\n".encode())',
        'digest.update(f"{topic}/{partition}:{ranges[0][0]}\\n".encode())',
        "Batches that begin alike have the same id.",
    ),
    Mutant(
        "id-of-epoch",
        "batch",
        "for (topic, partition), _, ranges in spans:",
        "for (topic, partition), epoch, ranges in spans:\n        digest.update(b'%d' % epoch)",
        "The same records have another id after a rebalance.",
    ),
    Mutant(
        "records-unsorted",
        "batch",
        'runs = sorted(runs, key=attrgetter("tp"))',
        'runs = sorted(runs, key=attrgetter("tp"), reverse=True)',
        "Records are not in the order of their coordinates.",
    ),
    Mutant(
        "collapse-keeps-oldest",
        "window",
        "if name not in newest or newest[name][0] < rank:",
        "if name not in newest:",
        "Of the records of one id the oldest is kept.",
    ),
    Mutant(
        "collapse-forgets",
        "batch",
        "covers = self.covers if skipped else spans",
        "covers = spans",
        "Records that gave way to newer ones are never done.",
    ),
    Mutant(
        "queue-forgets",
        "buffer",
        "self.waiting.extend(self.windows.add(run, now))",
        "self.waiting.extend(self.windows.add(run, now)[-1:])",
        "Of the batches that a run closes only the last one is kept.",
    ),
    Mutant(
        "tombstones-owed",
        "inflow",
        "[Span(tp, epoch, ranges_of(checked.skipped))]",
        "[]",
        "Tombstones that are passed over are never done.",
    ),
    Mutant(
        "format-unchecked",
        "intake",
        "RecursionError):\n            return False\n",
        "RecursionError):\n            return True\n",
        "Records that are not JSON are sent.",
    ),
]

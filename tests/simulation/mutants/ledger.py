"""What is owed and what may be committed."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        "prefix-off-by-one",
        "ledger",
        "return self.firsts[0] if self.firsts else self.position",
        "return self.firsts[0] + 1 if self.firsts else self.position",
        "The first record that is open counts as done.",
    ),
    Mutant(
        "prefix-is-position",
        "ledger",
        "return self.firsts[0] if self.firsts else self.position",
        "return self.position",
        "Whatever was fetched is committed, done or not.",
    ),
    Mutant(
        "last-hole-counts",
        "ledger",
        "return self.firsts[0] if self.firsts else self.position",
        "return self.firsts[-1] if self.firsts else self.position",
        "Batches that overtake take the checkpoint past those that they have overtaken.",
    ),
    Mutant(
        "end-of-fetch-forgotten",
        "ledger",
        "account.position = max(account.position, end)",
        "pass",
        "A gap at the end of the log is never committed.",
    ),
    Mutant(
        "settled-in-halves",
        "ledger",
        "rest = [(a, b) for a, b in ((start, first - 1), (last + 1, end)) if a <= b]",
        "rest = [(a, b) for a, b in ((last + 1, end),) if a <= b]",
        "What is owed before a settled range is forgotten with it.",
    ),
    Mutant(
        "stale-epoch-settles",
        "ledger",
        "return account if account is not None and account.epoch == epoch else None",
        "return account",
        "Outcomes of a former assignment count for the present one.",
    ),
    Mutant(
        "books-survive-revocation",
        "ledger",
        "self._accounts.pop(tp, None)",
        "pass",
        "After a rebalance the partitions of others are still thought to be ours.",
    ),
]

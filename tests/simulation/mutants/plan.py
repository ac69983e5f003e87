"""The boundaries of batches in the checkpoint's metadata, and the batches that are formed again."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS: list[Mutant] = [
    Mutant(
        "no-plan",
        "committer",
        "        self._plans = plans\n",
        "        self._plans = False\n",
        "Batches are sent without a plan.",
    ),
    Mutant(
        "sent-before-durable",
        "committer",
        "return self.plan.durable(batch.id) if self._plans else True",
        "return self.plan.knows(batch.id) if self._plans else True",
        "A batch is sent while the commit that carries it is under way.",
    ),
    Mutant(
        "sent-unplanned-when-full",
        "committer",
        "return self.plan.durable(batch.id) if self._plans else True",
        "return self.plan.durable(batch.id) or not self.plan.knows(batch.id)",
        "A batch that does not fit into the metadata is sent without a plan.",
    ),
    Mutant(
        "durable-too-soon",
        "committer",
        "for work in carried:\n",
        "for work in self.plan.waiting():\n",
        "A batch that was planned during a commit counts as carried by it.",
    ),
    Mutant(
        "unknown-is-durable",
        "committer",
        'if outcome != "ok":',
        'if outcome == "failed":',
        "A commit that was not answered counts as made.",
    ),
    Mutant(
        "failed-is-durable",
        "committer",
        'if outcome != "ok":',
        'if outcome == "unknown":',
        "A commit that failed counts as made.",
    ),
    Mutant(
        "plan-too-long",
        "plan",
        "        if not all(self._fits(tp, place) for tp, place in places.items()):\n",
        "        if False:\n",
        "More metadata is committed than the broker takes.",
    ),
    Mutant(
        "not-formed-again",
        "committer",
        "        self.plan.restore(works, done)\n",
        "        works, done = [], {}\n        self.plan.restore(works, done)\n",
        "What a former run has planned is not formed again.",
    ),
    Mutant(
        "former-plan-withdrawn",
        "pipeline",
        "        self.committer.withdraw(self.buffer.waiting)\n        self.buffer.drop",
        "        self.committer.withdraw(self.buffer.closed)\n        self.buffer.drop",
        "A batch that was formed again and not sent yet is taken out of the plan, although the "
        "former run may have sent it.",
    ),
    Mutant(
        "parts-of-their-own",
        "recovery",
        "groups = [spans] if whole else [{tp: span} for tp, span in spans.items()]",
        "groups = [{tp: span} for tp, span in spans.items()]",
        "A batch of several partitions is formed again in pieces.",
    ),
    Mutant(
        "collapse-not-repeated",
        "recovery",
        "        if work.collapsed:\n",
        "        if False:\n",
        "Records that gave way to newer ones are sent when the batch is formed again.",
    ),
    Mutant(
        "done-is-done-again",
        "inflow",
        "            records = recovery.undone(tp, records)\n",
        "            pass\n",
        "What a former run has finished beyond its checkpoint is sent again, in other batches.",
    ),
    Mutant(
        "checkpoint-enters-a-batch",
        "plan",
        "return min(self._checkpoint(tp), next(firsts, self._checkpoint(tp)))",
        "return self._checkpoint(tp)",
        "A partition's checkpoint passes its part of a batch whose other parts are not done.",
    ),
    Mutant(
        "done-with-open-records",
        "plan",
        "if work.settled and not any(self._owes(tp, *span) for tp, span in work.spans.items()):",
        "if work.settled:",
        "A batch is done while one of its records is still on its way to the dead letters.",
    ),
    Mutant(
        "last-record-unplanned",
        "metadata",
        'f"{entry.first - offset}+{entry.last - entry.first + 1}{_tail(entry)}"',
        'f"{entry.first - offset}+{entry.last - entry.first}{_tail(entry)}"',
        "The last record of a planned batch is not in the plan.",
    ),
]

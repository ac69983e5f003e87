"""What is made of the API's answers and of the dead letters."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        "short-list-is-success",
        "outcome",
        "    if len(verdicts) != len(batch):",
        "    verdicts = [*verdicts, *[DELIVERED] * len(batch)][: len(batch)]\n"
        "    if len(verdicts) != len(batch):",
        "Records that the API said nothing of count as delivered.",
    ),
    Mutant(
        "unknown-is-success",
        "delivery",
        "            case Again():\n",
        "            case Again('unknown'):\n"
        "                return []\n"
        "            case Again():\n",
        "An answer that cannot be read counts as success.",
    ),
    Mutant(
        "partial-is-success",
        "delivery",
        "            rest = part.batch.only([r for r, _ in later])\n",
        "            return left\n",
        "Records that the API wants to see later are forgotten.",
    ),
    Mutant(
        "partial-repeats-all",
        "delivery",
        "rest = part.batch.only([r for r, _ in later])",
        "rest = part.batch.only([r for r, v in pairs if v.fate is not Fate.REJECTED])",
        "What is delivered goes again with what is not, under an id of its own.",
    ),
    Mutant(
        "half-is-lost",
        "delivery",
        "return [_Part(first, part.sent, part.judged), _Part(second, part.sent, part.judged)]",
        "return [_Part(first, part.sent, part.judged)]",
        "The second half of a batch that was split is forgotten.",
    ),
    Mutant(
        "halves-reversed",
        "delivery",
        "parts.extendleft(reversed(await self._next(part, answer, flight)))",
        "parts.extendleft(await self._next(part, answer, flight))",
        "The halves of a batch go out in the wrong order.",
    ),
    Mutant(
        "halves-behind",
        "delivery",
        "parts.extendleft(reversed(await self._next(part, answer, flight)))",
        "parts.extend(await self._next(part, answer, flight))",
        "The halves of a half come after the other half.",
    ),
    Mutant(
        "outage-is-a-verdict",
        "delivery",
        "        if answer.outage:\n            part.failing_since = None\n        elif",
        "        if answer.outage:\n"
        '            return await self._bury(part, "exhausted", Verdict(Fate.REJECTED), flight)\n'
        "        elif",
        "A 401 drains the topic into the dead letters.",
    ),
    Mutant(
        "retry-after-ignored",
        "attempts",
        "            self.gate.hold(self.clock() + delay)\n",
        "            delay = 0.0\n",
        "The API's wish to be left alone is not respected.",
    ),
    Mutant(
        "retry-after-for-one",
        "attempts",
        "            self.gate.hold(self.clock() + delay)\n",
        "",
        "The API's wish to be left alone is respected by one batch and not by the others.",
    ),
    Mutant(
        "refusal-buries-all",
        "delivery",
        "case Refused() | TooLarge() if len(part.batch) > 1:",
        "case TooLarge() if len(part.batch) > 1:",
        "One poison record takes the whole batch with it.",
    ),
    Mutant(
        "new-id-on-retry",
        "delivery",
        "        await anyio.sleep(delay)\n        return [part]",
        "        await anyio.sleep(delay)\n"
        "        if len(part.batch) > 1 and part.failures > 2:\n"
        "            return [_Part(half, part.sent, part.judged) for half in part.batch.halves()]\n"
        "        return [part]",
        "A batch of which nothing is known goes again in other pieces.",
    ),
    Mutant(
        "burial-not-awaited",
        "burial",
        "                self.halt.set(str(error))\n                await self.halt.passed()\n",
        "                return log.info(str(error))\n",
        "A dead letter that was not acknowledged counts as buried.",
    ),
    Mutant(
        "halt-ignored",
        "burial",
        "                self.halt.set(str(error))\n                await self.halt.passed()\n",
        "                log.info(str(error))\n                await anyio.sleep(1)\n",
        "A dead letter that fails is tried again without a halt.",
    ),
    Mutant(
        "one-letter",
        "burial",
        "return await self._dead_letters.bury(letters)",
        "return await self._dead_letters.bury(letters[:1])",
        "Of several dead letters only the first is written.",
    ),
    Mutant(
        "exhausted-at-once",
        "delivery",
        "if later and part.judged + 1 >= self.attempts.settings.max_item_attempts:\n",
        "if later:\n",
        "A record that the API wants to see later is buried without another attempt.",
    ),
    Mutant(
        "budget-forgotten",
        "budgets",
        "            if amount and (seconds := budget.wait(amount, now)) > longest.seconds:\n",
        "            if amount and (seconds := budget.wait(amount, now)) > 60 + longest.seconds:\n",
        "More requests go out than a budget allows.",
    ),
    Mutant(
        "one-slot-more",
        "gate",
        "self._slots = settings.slots",
        "self._slots = settings.slots + 1",
        "A batch more than allowed is at the sink.",
    ),
]

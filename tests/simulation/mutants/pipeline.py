"""The way of a record through the line, and how it stops."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        "settled-before-delivery",
        "outflow",
        "await self._delivery.deliver(flight)",
        "self._tasks.start(partial(self._delivery.deliver, flight))",
        "Records are done when they are sent and not when they are acknowledged.",
    ),
    Mutant(
        "settled-though-abandoned",
        "outflow",
        "                await self._delivery.deliver(flight)\n",
        "                import anyio\n"
        "                try:\n"
        "                    await self._delivery.deliver(flight)\n"
        "                except anyio.get_cancelled_exc_class():\n"
        "                    pass\n",
        "A batch that was given up in a drain counts as done.",
    ),
    Mutant(
        "invalid-not-awaited",
        "invalid",
        "            while not await self._burial.bury(letters):\n                pass\n",
        "            self._tasks.start(partial(self._burial.bury, letters))\n",
        "Invalid records are done before their dead letters are acknowledged.",
    ),
    Mutant(
        "drain-without-deadline",
        "pipeline",
        "        with anyio.move_on_after(timeout):\n",
        "        with anyio.move_on_after(None):\n",
        "A stop waits for a sink that never answers.",
    ),
    Mutant(
        "flights-survive-the-drain",
        "outflow",
        "            flight.scope.cancel()\n",
        "            pass\n",
        "Batches in flight are waited for however long they take.",
    ),
    Mutant(
        "fetched-while-halted",
        "inflow",
        "if self._tasks.stopping or not self.member or self._halt.reason:\n            return ()",
        "if self._tasks.stopping or not self.member:\n            return ()",
        "A halted pipeline goes on to fetch.",
    ),
    Mutant(
        "commits-while-halted",
        "committer",
        "        if self._halt.reason:\n",
        "        if False:\n",
        "A halted pipeline commits.",
    ),
    Mutant(
        "gate-never-left",
        "outflow",
        "            self._gate.leave(self._clock(), landing)\n",
        "            pass\n",
        "A slot of the gate is never given back.",
    ),
    Mutant(
        "budget-not-released",
        "invalid",
        "            del self._footprints[id(invalid)]\n",
        "            pass\n",
        "Dead letters on their way out take up memory for ever.",
    ),
    Mutant(
        "budget-ignored",
        "memory",
        "        self.limit = limit\n",
        "        self.limit = limit * 100\n",
        "Nothing holds fetching back when memory is full.",
    ),
    Mutant(
        "buffer-survives-revocation",
        "buffer",
        "        self.waiting.clear()\n        self.windows.drop()\n",
        "        pass\n",
        "Windows keep records of partitions that are somebody else's by now.",
    ),
    Mutant(
        "fetched-after-revocation",
        "inflow",
        "if self._tasks.stopping or not self.member:\n            return  # not",
        "if self._tasks.stopping:\n            return  # not",
        "A fetch that ends in the middle of a revocation fills the books again.",
    ),
    Mutant(
        "fetched-out-of-time",
        "inflow",
        "closed = full or not self.timetable.open",
        "closed = full",
        "Records are fetched outside of the active times.",
    ),
    Mutant(
        "beyond-the-plan-out-of-time",
        "inflow",
        "        if self.timetable.open:\n            self._admit()\n\n    def _admit",
        "        self._admit()\n\n    def _admit",
        "What was read beyond a plan is released outside of the active times.",
    ),
    Mutant(
        "never-admitted",
        "inflow",
        "        if timetable.open:\n            self._admit()\n",
        "",
        "What was read beyond a plan outside of the active times is never released.",
    ),
    Mutant(
        "multiple-not-cut",
        "inflow",
        "            self._cut()\n            for fetched in fetches:",
        "            for fetched in fetches:",
        "Windows take in records of both sides of a multiple.",
    ),
]

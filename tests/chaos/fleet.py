"""The daemons, each kept alive as by a supervisor, and what is done to them."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import anyio
from anyio.abc import TaskGroup

from harness.daemon import Daemon, told, until

_RESTART_AFTER = 1.0  # seconds; what a supervisor waits before it starts again what ended by itself
_LOOK_EVERY = 1.0  # seconds between two looks of the operator
_WINDOWS = (20, 101)  # the range of window.max_records
_PATIENCE = 3.0  # seconds that a blow waits for a member that is worth it
_STOPPED_WITHIN = 60.0  # seconds; the drain and all the goodbyes, with a network at fault


@dataclass(eq=False)
class Member:
    """One configuration, and the process that runs on it now, if one does.

    `wanted` says that it is to run. `busy` says that something is being done to it: it is frozen,
    or on its way out.
    """

    name: str
    daemon: Daemon
    wanted: bool = False
    up: bool = False
    busy: bool = False
    expected: bool = False  # its end is our doing
    pause: float = _RESTART_AFTER
    kept: bool = False  # somebody starts it again when it ends
    began: bool = False  # at least once

    def log(self) -> str:
        return self.daemon.log if self.began else ""


class Fleet:
    """Members that may be struck, and the counts of it."""

    def __init__(self, daemons: Sequence[Daemon], random: Random) -> None:
        self.members = [Member(f"member {n}", daemon) for n, daemon in enumerate(daemons)]
        self.counts: Counter[str] = Counter()
        self._random = random
        self._tasks: TaskGroup

    # --- life ---------------------------------------------------------------------------------

    def start(self, count: int, tasks: TaskGroup) -> None:
        """Starts the first `count` members, and the operator who looks after all of them."""
        self._tasks = tasks
        for member in self.members[:count]:
            self._begin(member)
        self._tasks.start_soon(self._operate)

    def _begin(self, member: Member) -> None:
        member.wanted = member.kept = member.began = True
        self._tasks.start_soon(self._keep, member)

    async def _keep(self, member: Member) -> None:
        while member.wanted:
            member.expected, member.pause = False, _RESTART_AFTER
            self._resize(member)
            await member.daemon.start()
            member.up = True
            code = await member.daemon.process.wait()
            member.up = False
            if not member.expected:
                self.counts[f"ended by itself with {code}"] += 1
            if member.wanted:
                await anyio.sleep(member.pause)
        member.kept = False

    def _resize(self, member: Member) -> None:
        """Every start comes with another window, as after a change of the configuration. So of full
        windows, too, only the plan can tell whoever comes next how they were cut."""
        path, size = member.daemon.path, self._random.randrange(*_WINDOWS)
        path.write_text(
            re.sub("max_records = [0-9]+", f"max_records = {size}", path.read_text(), count=1)
        )

    async def _operate(self) -> None:
        """Tells a halted daemon to go on, as whoever is on call would once the cause is gone."""
        while True:
            await anyio.sleep(_LOOK_EVERY)
            for member in self._free():
                if (await self._status(member)).get("state") == "halted":
                    self.counts["halts lifted"] += 1
                    _send(member, signal.SIGHUP)

    async def stop(self) -> dict[str, int]:
        """SIGTERM to all once they are ready again; their exit codes, -1 for one that did not
        end."""
        going = [member for member in self.members if member.wanted]
        for member in going:
            with anyio.move_on_after(_STOPPED_WITHIN):
                while (await member.daemon.get("/readyz"))[0] != 200:
                    await anyio.sleep(0.05)
        codes = {}
        for member in going:
            member.wanted, member.expected = False, True
            _send(member, signal.SIGTERM)
        for member in going:
            with anyio.move_on_after(_STOPPED_WITHIN):
                codes[member.name] = await member.daemon.process.wait()
        return {member.name: codes.get(member.name, -1) for member in going}

    async def end(self) -> None:
        """Nothing survives this. Call it when nobody keeps the members any more."""
        for member in self.members:
            if member.began and member.daemon.process.returncode is None:
                await member.daemon.kill()

    # --- blows --------------------------------------------------------------------------------

    async def kill(self, pause: float) -> None:
        """SIGKILL, and a start after `pause` seconds."""
        member = await self._working("kills")
        self.counts["kills"] += 1
        member.expected, member.pause = True, pause
        _send(member, signal.SIGKILL)

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after `seconds`."""
        member = await self._working("freezes")
        self.counts["freezes"] += 1
        member.busy = True
        _send(member, signal.SIGSTOP)
        await anyio.sleep(seconds)
        _send(member, signal.SIGCONT)
        member.busy = False

    async def restart(self) -> None:
        """SIGTERM, its end, and a start."""
        await self._terminate(await self._one())
        self.counts["restarts"] += 1

    async def join(self) -> None:
        """One more member, if there is one that does not run."""
        idle = [member for member in self.members if not member.kept]
        if idle:
            self.counts["joins"] += 1
            self._begin(idle[0])

    async def leave(self) -> None:
        """One member less, if there are at least two."""
        if sum(member.wanted for member in self.members) > 1:
            member = await self._one()
            self.counts["leaves"] += 1
            member.wanted = False
            await self._terminate(member)

    async def _terminate(self, member: Member) -> None:
        member.busy = member.expected = True
        process = member.daemon.process
        _send(member, signal.SIGTERM)
        with anyio.move_on_after(_STOPPED_WITHIN) as patience:
            await process.wait()
        if patience.cancelled_caught:
            self.counts["did not stop"] += 1
            process.kill()
            await process.wait()
        elif process.returncode:
            self.counts[f"stopped with {process.returncode}"] += 1
        member.busy = False

    def _free(self) -> list[Member]:
        return [m for m in self.members if m.wanted and m.up and not m.busy and not m.expected]

    async def _one(self) -> Member:
        """Any member that runs and has nothing done to it, as soon as there is one."""
        await until(self._free, "a member to strike", 120)
        return self._random.choice(self._free())

    async def _working(self, blow: str) -> Member:
        """One that has a batch at the sink at this moment, where the worst is to be feared; any
        member if none has for a while."""
        with anyio.move_on_after(_PATIENCE):
            while True:
                member = await self._one()
                if (await self._status(member)).get("in_flight"):
                    self.counts[f"{blow} with batches in flight"] += 1
                    return member
                await anyio.sleep(0.01)
        return await self._one()

    async def _status(self, member: Member) -> dict[str, Any]:
        """Its /status; empty if it does not answer."""
        with anyio.move_on_after(_LOOK_EVERY):
            code, text = await member.daemon.get("/status")
            if code == 200 and member in self._free():
                return dict(json.loads(text))
        return {}

    # --- logs ---------------------------------------------------------------------------------

    def events(self) -> Iterator[tuple[Member, dict[str, Any]]]:
        """Every log line of every member that is JSON."""
        for member in self.members:
            for line in told(member.log()):
                yield member, line


def _send(member: Member, number: signal.Signals) -> None:
    # It may have ended by itself a moment ago, and nobody has noticed yet.
    with suppress(ProcessLookupError):
        member.daemon.signal(number)

"""Plants bugs in the core, one at a time, and lets the simulation find them.

python -m simulation.mutate              all of simulation.mutants
python -m simulation.mutate NAME ...     these
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

from .mutants import MUTANTS, Mutant

# A bug that this many seeds do not find survives.
SEEDS = 1000


class _Planter(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Loads one module with one piece of its text replaced; finds no other module."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = f"sluiced.{mutant.module}"

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        self._origin = spec.origin
        return importlib.util.spec_from_loader(fullname, self, origin=spec.origin)

    def get_filename(self, fullname: str) -> str:
        return self._origin

    def get_data(self, path: str | bytes) -> bytes:
        with open(path, "rb") as file:  # noqa: PTH123 - the signature's path may be bytes
            text = file.read().decode()
        count = text.count(self._mutant.old)
        if count != 1:
            raise SystemExit(
                f"mutant {self._mutant.name}: its text is {count} times in "
                f"{self._mutant.module}.py, not once; write it anew"
            )
        return text.replace(self._mutant.old, self._mutant.new).encode()


def plant(name: str) -> None:
    """From now on the core has this bug. Must come before the core is imported."""
    mutant = next((m for m in MUTANTS if m.name == name), None)
    if mutant is None:
        raise SystemExit(f"no mutant is called {name}")
    if f"sluiced.{mutant.module}" in sys.modules:
        raise RuntimeError("the core is already imported")
    sys.meta_path.insert(0, _Planter(mutant))


def main() -> None:
    parser = argparse.ArgumentParser(prog="simulation.mutate", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="all, if none is given")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once (2)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (0)")
    arguments = parser.parse_args()
    names = arguments.names or [mutant.name for mutant in MUTANTS]
    survived = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for name, (caught, text) in zip(
            names, pool.map(lambda n: _hunt(n, arguments.start), names), strict=True
        ):
            print(f"{name:32} {text}", flush=True)
            if not caught:
                survived.append(name)
    print(f"{len(names) - len(survived)} of {len(names)} mutants are caught")
    if survived:
        sys.exit(f"surviving: {', '.join(survived)}")


def _hunt(name: str, start: int) -> tuple[bool, str]:
    """Whether the bug is found, and how or why not."""
    began = time.monotonic()
    world = next((m.world for m in MUTANTS if m.name == name), "run")
    command = [sys.executable, "-m", f"simulation.{world}", "--mutant", name]
    command += ["--start", str(start), "--seeds", str(SEEDS)]
    command += ["--chunk", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": "0"}
    )
    seconds = time.monotonic() - began
    found = re.search(r"^seed (\d+) breaks the rule ([^:]+): (.*)$", done.stdout, re.MULTILINE)
    if done.returncode == 1 and found:
        seed, rule, text = found.groups()
        return True, f"seed {seed:>4} in {seconds:5.1f} s  {rule}: {text[:80]}"
    if done.returncode == 0:
        return False, f"SURVIVES {SEEDS} seeds in {seconds:.1f} s"
    return False, f"cannot be run: {(done.stderr or done.stdout).strip().splitlines()[-1:]}"


if __name__ == "__main__":
    main()

"""The simulation as a part of the suite: old seeds, fresh ones, and whether it can be trusted.

Seeds run in processes of their own, since the order of sets must be the same in each.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import sluiced
from simulation.mutants import MUTANTS, Mutant

SEEDS = Path(__file__).with_name("seeds.txt")
FRESH = 300
# What must have happened in that many runs; a simulation in which nothing goes wrong proves little.
HAPPENS = (
    "is killed",
    "freezes",
    "is thrown out",
    "misses the rebalance",
    "commit is fenced",
    "commit is unknown",
    "commit fails",
    "dead letter",
    "halt is lifted",
    "api knows it",
    "api: answer lost",
    "api: list too short",
    "api: items to be repeated",
    "api: slow",
    "api: throttled",
    "burials: written in part",
    "fetches: stale",
)


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulation.run", *map(str, arguments)]
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path} | variables
    )


def test_no_seed_that_ever_broke_a_rule_breaks_one_now() -> None:
    lines = SEEDS.read_text().splitlines()
    seeds = [line.split()[0] for line in lines if line and not line.startswith("#")]
    done = run("--keep-going", "--jobs", 2, "--seed", *seeds)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_fresh_seed_breaks_a_rule_and_everything_goes_wrong_that_can() -> None:
    start = random.randrange(10**9)
    print(f"seeds {start} to {start + FRESH - 1}")
    done = run("--start", start, "--seeds", FRESH, "--jobs", 2, "--counts")
    assert done.returncode == 0, done.stdout + done.stderr
    happened = {line.strip().partition(" ")[2] for line in done.stdout.splitlines()}
    assert happened >= set(HAPPENS)


def test_the_same_seed_tells_the_same_story() -> None:
    one = run("--start", 100, "--seeds", 10, "--digest", PYTHONHASHSEED="1")
    other = run("--start", 100, "--seeds", 10, "--digest", "--jobs", 2, PYTHONHASHSEED="2")
    digests = [done.stdout.splitlines()[:10] for done in (one, other)]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 10


@pytest.mark.parametrize("name", ["prefix-off-by-one", "short-list-is-success", "halves-reversed"])
def test_a_planted_bug_is_found_and_told_of_with_the_way_to_repeat_it(name: str) -> None:
    """`make mutants` does this for all of them."""
    done = run("--seeds", 1000, "--mutant", name)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "breaks the rule" in done.stdout
    assert f"--trace --mutant {name}" in done.stdout


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_has_one_place_to_be_planted(mutant: Mutant) -> None:
    module = Path(sluiced.__file__).parent.joinpath(*mutant.module.split("."))
    text = module.with_suffix(".py").read_text()
    assert text.count(mutant.old) == 1


def test_mutants_have_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_mutant_whose_text_is_gone_is_an_error() -> None:
    done = run("--seeds", 1, "--mutant", "no-such-mutant")
    assert done.returncode not in (0, 1) or "no mutant is called" in done.stderr

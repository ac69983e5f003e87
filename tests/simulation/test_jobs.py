"""Jobs in a world where daemons die at any await, and their group is rebalanced: see `jobs`."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

FAILED = Path(__file__).with_name("job_seeds.txt")
SEEDS = 60
# What must have happened in that many runs.
HAPPENS = (
    "is killed",
    "freezes",
    "is thrown out",
    "commit is fenced",
    "commit is unknown",
    "makes a job",
    "looks for a job",
    "writes results",
    "dead letter",
    "submits: answer lost",
    "submits: slow",
    "polls: unavailable",
    "downloads: broken",
    "jobs: queue full",
    "originals: broken",
)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulation.run_jobs", *map(str, arguments)]
    path = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_whatever_dies_every_prompt_has_one_answer_and_no_job_is_submitted_twice() -> None:
    start = random.randrange(10**9)
    print(f"seeds {start} to {start + SEEDS - 1}")
    done = run("--start", start, "--seeds", SEEDS, "--jobs", 2)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_seed_that_ever_broke_a_rule_breaks_one_now() -> None:
    lines = FAILED.read_text().splitlines()
    seeds = [line.split()[0] for line in lines if line and not line.startswith("#")]
    done = run("--keep-going", "--jobs", 2, "--seed", *seeds)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_that_may_happen_does() -> None:
    """With seeds that are the same each time: what is rare is not in every hundred."""
    done = run("--seeds", 2 * SEEDS, "--jobs", 2, "--counts")
    assert done.returncode == 0, done.stdout + done.stderr
    happened = {line.strip().partition(" ")[2] for line in done.stdout.splitlines()}
    assert happened >= set(HAPPENS)


def test_a_seed_is_the_same_story_every_time() -> None:
    one, other = run("--seeds", 5, "--digest"), run("--seeds", 5, "--digest", "--jobs", 2)
    assert one.stdout.splitlines()[:5] == other.stdout.splitlines()[:5]
    assert len(set(one.stdout.splitlines()[:5])) == 5


@pytest.mark.parametrize("name", ["missing-is-done", "job-submitted-again"])
def test_a_planted_bug_is_found(name: str) -> None:
    done = run("--seeds", 300, "--mutant", name)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "breaks the rule" in done.stdout

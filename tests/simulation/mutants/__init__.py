"""Bugs that the simulation must find: each replaces one piece of the core's text.

A text that is not in its module exactly once is an error: then the mutant is to be written anew.
"""

from __future__ import annotations

from . import answers, batches, jobs, ledger, pipeline, plan
from .mutant import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = [
    *ledger.MUTANTS,
    *pipeline.MUTANTS,
    *batches.MUTANTS,
    *answers.MUTANTS,
    *plan.MUTANTS,
    *jobs.MUTANTS,
]

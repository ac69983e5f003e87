"""A planted bug."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One piece of a module's text is replaced. `breaks` says what goes wrong with that, and
    `world` in which module's runs that can be seen."""

    name: str
    module: str
    old: str
    new: str
    breaks: str
    world: str = "run"

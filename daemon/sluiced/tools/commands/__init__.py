"""The commands of the tools: arguments, output, exit codes. A module for each family of them, so
that what only prints stands apart from what it prints of; work is imported where it is used."""

from __future__ import annotations

import typer

from .dead_letters import dead_letters
from .jobs import jobs
from .records import preview, replay, tune
from .status import status


def register(app: typer.Typer) -> None:
    """Adds the tools to the command line."""
    app.add_typer(dead_letters, name="dead-letters")
    app.add_typer(jobs, name="jobs")
    app.command()(preview)
    app.command()(replay)
    app.command()(status)
    app.command()(tune)

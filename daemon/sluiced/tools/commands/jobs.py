"""`sluiced jobs`: the batch jobs of a group, looked at and cancelled."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import ConfigPath, Json, echo

jobs = typer.Typer(
    help="Look at the jobs of a group, and cancel one.", no_args_is_help=True, rich_markup_mode=None
)
JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="The API's id of a job.", show_default=False)
]


@jobs.command("list")
def list_jobs(config: ConfigPath, json: Json = False) -> None:
    """Show the jobs that the group's checkpoint tells of, and how they are."""
    from ...config import load
    from .. import jobs as work
    from ..running import run
    from ..text import terminal_width

    found = run(work.find(load(config)))
    echo([work.as_json(found)] if json else work.as_text(found, terminal_width()))


@jobs.command("show")
def show_job(config: ConfigPath, job: JobId, json: Json = False) -> None:
    """Show one job: its state, its records, and the jobs before it."""
    from ...config import load
    from .. import jobs as work
    from ..running import run
    from ..text import terminal_width

    found = run(work.show(load(config), job))
    echo([work.as_json([found])] if json else work.one_as_text(found, terminal_width()))


@jobs.command("cancel")
def cancel_job(
    config: ConfigPath,
    job: JobId,
    yes: Annotated[bool, typer.Option("--yes", help="Really cancel it.")] = False,
) -> None:
    """Ask the API to end a job.

    Without --yes it says what would become of its records: what is done by then is taken in,
    and sink.on_cancel decides about the rest.
    """
    from ...config import load
    from .. import jobs as work
    from ..running import run
    from ..text import terminal_width

    loaded = load(config)
    found = run(work.cancel(loaded, job, really=yes))
    echo(work.cancelled_as_text(found, loaded, terminal_width(), really=yes))

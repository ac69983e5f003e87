"""`sluiced preview`, `replay` and `tune`: records of the topics, read beside the group."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import SluicedError
from .options import ConfigPath, Patience, Since, Until, duration, echo


def preview(
    config: ConfigPath,
    batches: Annotated[int, typer.Option("--batches", min=1, help="So many at most.")] = 1,
) -> None:
    """Print the exact requests that the next windows would make. Sends and commits nothing.

    A window that would close by its age is shown with what is in the log now.
    """
    from ...config import load
    from ..preview import Previewer, remarks
    from ..running import run

    previewer = Previewer(load(config), batches)
    found = run(previewer.run())
    for number, batch in enumerate(found.batches, 1):
        echo(previewer.as_text(batch, number))
    echo(remarks(found))


def replay(
    config: ConfigPath,
    ranges: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RANGE...", help="topic/partition/first-last, or topic/partition/offset."
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    batch_ranges: Annotated[
        bool,
        typer.Option("--batch-ranges", help='Each RANGE is one batch; join its parts by ",".'),
    ] = False,
    batch: Annotated[
        str, typer.Option("--batch", metavar="ID", help="The batch of this id; needs --log.")
    ] = "",
    log: Annotated[
        str,
        typer.Option("--log", metavar="FILE", help="The daemon's log, level debug; - is stdin."),
    ] = "",
    new_ids: Annotated[
        bool, typer.Option("--new-ids", help="Batch ids that the API has never seen.")
    ] = False,
    dead_letter: Annotated[
        bool, typer.Option("--dead-letter", help="Dead-letter what is refused.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really send.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be sent.")
    ] = False,
    patience: Patience = "5m",
) -> None:
    """Deliver records of the log again, without touching the group's checkpoint.

    Without --yes it says what would be sent. Exit code 0 when everything was delivered, else 1.
    """
    from datetime import UTC, datetime

    from ... import moments
    from ...config import load
    from ..replay import logged
    from ..replay import report as reports
    from ..replay.ranges import parse
    from ..replay.replay import Options
    from ..replay.replay import replay as work
    from ..running import run_stoppable
    from ..text import terminal_width

    if [bool(ranges), bool(since or until), bool(batch)].count(True) != 1:
        raise SluicedError(
            "give either ranges, a span of time or --batch", "See sluiced replay --help."
        )
    if bool(batch) != bool(log):
        raise SluicedError(
            "--batch and --log go together", "The log is where the batch's ranges are looked up."
        )
    if batch_ranges and not ranges:
        raise SluicedError("--batch-ranges needs ranges", "See sluiced replay --help.")
    now = datetime.now(UTC)
    named = [logged.find(log, batch)] if batch else ranges or ()
    options = Options(
        lists=[parse(each) for each in named],
        since=moments.parse_optional(since, now),
        until=moments.parse_optional(until, now),
        exact=batch_ranges or bool(batch),
        batch=batch,
        new_ids=new_ids,
        dead_letter=dead_letter,
        patience=duration("--patience", patience),
    )
    loaded, width = load(config), terminal_width()
    plan, done = run_stoppable(lambda stop: work(loaded, options, stop, send=yes and not dry_run))
    if done is None:
        echo(reports.planned(plan, width, exact=options.exact))
        if plan.total:
            typer.echo("Nothing was sent; --yes sends it.")
        return
    echo(reports.done(done, plan, width))
    raise typer.Exit(0 if done.complete else 1)


def tune(
    config: ConfigPath,
    url: Annotated[
        str, typer.Option("--url", help="Another address for the sink, with the same headers.")
    ] = "",
    requests: Annotated[int, typer.Option(min=10, help="So many at most.")] = 500,
    minutes: Annotated[float, typer.Option(min=0.01, help="So long at most.")] = 5.0,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1, help="So many at the same time at most [limits.max_in_flight of the file, or 8]."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Also as a page of HTML.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Put the recommended values into CONFIG.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really send.")] = False,
) -> None:
    """Measure how many records a request should hold, and how many requests to make at once.

    Sends real records of the topics, without a group and under new batch ids. Without --yes it
    says what would be sent.
    """
    from ...config import load
    from .. import tune as work
    from ..running import run_stoppable
    from ..text import terminal_width
    from ..tune import page
    from ..tune import report as text

    loaded, width = load(config), terminal_width()
    options = work.Options(url, requests, minutes, work.at_once(config, loaded, at_once))
    tuned = run_stoppable(lambda stop: work.tune(loaded, options, stop, send=yes))
    for warning in work.warnings(tuned.config):
        typer.echo(f"warning: {warning}", err=True)
    if not yes:
        echo(text.planned(tuned, width))
        return
    echo(text.as_text(tuned, width))
    if report is not None:
        page.save(report, tuned)
        typer.echo(f"\n{report} has the plots")
    if write and tuned.advice is not None:
        from ..tune.write import write as put

        changed = put(config, tuned.advice.values)
        echo(["", *(changed or ["nothing to change"]), f"{config} is written"])

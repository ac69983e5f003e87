"""The commands of the tools: arguments, output, exit codes. Work is imported where it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import SluicedError

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The configuration file, TOML.", show_default=False)
]
Reasons = Annotated[
    list[str] | None, typer.Option("--reason", help="Of this reason; may be given repeatedly.")
]
Statuses = Annotated[
    list[str] | None, typer.Option("--status", help="Refused with this status; repeatable.")
]
Topics = Annotated[
    list[str] | None, typer.Option("--topic", help="Of records of this topic; repeatable.")
]
Since = Annotated[
    str | None,
    typer.Option("--since", help='From this time on: RFC 3339, or "2h" for 2 hours ago.'),
]
Until = Annotated[str | None, typer.Option("--until", help="Before this time.")]
Patience = Annotated[
    str, typer.Option("--patience", help="Gives up after so long without an answer of the sink.")
]
Json = Annotated[bool, typer.Option("--json", help="As one JSON document.")]

dead_letters = typer.Typer(
    help="Look at what was refused, and send it back.", no_args_is_help=True, rich_markup_mode=None
)

jobs = typer.Typer(
    help="Look at the jobs of a group, and cancel one.", no_args_is_help=True, rich_markup_mode=None
)
JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="The API's id of a job.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Adds the tools to the command line."""
    app.add_typer(dead_letters, name="dead-letters")
    app.add_typer(jobs, name="jobs")
    app.command()(preview)
    app.command()(replay)
    app.command()(status)
    app.command()(tune)


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


@dead_letters.command("list")
def list_(
    config: ConfigPath,
    reason: Reasons = None,
    status: Statuses = None,
    topic: Topics = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=0, help="Letters in the table: the latest.")] = 20,
    json: Json = False,
) -> None:
    """Count the dead letters by reason, status and topic, and show the latest."""
    from ..config import load
    from .dead_letters import listing
    from .dead_letters.selection import Selection
    from .running import run
    from .text import terminal_width

    selection = Selection.of(reason, status, topic, since, until)
    found = run(listing.find(load(config), selection, limit))
    _echo([listing.as_json(found)] if json else listing.as_text(found, terminal_width()))


@dead_letters.command()
def show(
    config: ConfigPath,
    letter: Annotated[
        str,
        typer.Argument(
            metavar="LETTER",
            help="PARTITION/OFFSET of the letter, or topic/partition/offset of what died.",
            show_default=False,
        ),
    ],
) -> None:
    """Show one dead letter: why it died, its headers, key and value."""
    from ..config import load
    from .dead_letters import show as shower
    from .running import run
    from .text import terminal_width

    _echo(shower.as_text(run(shower.find(load(config), letter)), terminal_width()))


@dead_letters.command()
def export(
    config: ConfigPath,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A new file, or - for stdout.")],
    reason: Reasons = None,
    status: Statuses = None,
    topic: Topics = None,
    since: Since = None,
    until: Until = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file.")] = False,
) -> None:
    """Write dead letters to a file, a line of JSON each."""
    from ..config import load
    from .dead_letters.export import export as write
    from .dead_letters.selection import Selection
    from .running import run
    from .text import count

    selection = Selection.of(reason, status, topic, since, until)
    written = run(write(load(config), selection, file, force=force))
    typer.echo(f"{count(written, 'dead letter')} written", err=True)


@dead_letters.command()
def redrive(
    config: ConfigPath,
    reason: Reasons = None,
    status: Statuses = None,
    topic: Topics = None,
    since: Since = None,
    until: Until = None,
    to: Annotated[
        Literal["topic", "sink"],
        typer.Option(help="Back into the topic it came from, or straight through the sink."),
    ] = "topic",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing, and say what.")] = False,
    timestamp: Annotated[
        Literal["original", "now"],
        typer.Option(help="Of what goes back into its topic: as it was, or the time of sending."),
    ] = "original",
    rate: Annotated[str, typer.Option(help='At most so many, such as "50/s" or "600/m".')] = "",
    max_redrives: Annotated[
        int | None,
        typer.Option(
            min=1, help="Leaves what was sent back so often before [dead_letter.max_redrives]."
        ),
    ] = None,
    group: Annotated[
        str, typer.Option(help="Whose offsets remember what was sent [GROUP_ID.redrive].")
    ] = "",
    pass_over: Annotated[
        bool, typer.Option("--pass-over", help="Later runs leave, too, what this one leaves.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also what earlier runs have sent or passed over.")
    ] = False,
    patience: Patience = "5m",
) -> None:
    """Send dead letters back, each once, however often this is run.

    Exit code 0 when everything asked for was sent, otherwise 1.
    """
    from ..config import load
    from ..redrive.work import Report
    from .dead_letters import redrive as work
    from .dead_letters.selection import Selection
    from .running import run_stoppable
    from .text import terminal_width

    options = work.Options(
        selection=Selection.of(reason, status, topic, since, until),
        to=to,
        dry_run=dry_run,
        keep_timestamps=timestamp == "original",
        rate=_rate(rate),
        max_redrives=max_redrives,
        group=group,
        pass_over=pass_over,
        again=again,
        patience=_duration("--patience", patience),
    )
    loaded, report = load(config), Report()
    try:
        run_stoppable(lambda stop: work.redrive(loaded, options, stop, report))
    finally:
        if report.seen:
            _echo(work.as_text(report, options, terminal_width()))
    raise typer.Exit(0 if report.complete else 1)


@jobs.command("list")
def list_jobs(config: ConfigPath, json: Json = False) -> None:
    """Show the jobs that the group's checkpoint tells of, and how they are."""
    from ..config import load
    from . import jobs as work
    from .running import run
    from .text import terminal_width

    found = run(work.find(load(config)))
    _echo([work.as_json(found)] if json else work.as_text(found, terminal_width()))


@jobs.command("show")
def show_job(config: ConfigPath, job: JobId, json: Json = False) -> None:
    """Show one job: its state, its records, and the jobs before it."""
    from ..config import load
    from . import jobs as work
    from .running import run
    from .text import terminal_width

    found = run(work.show(load(config), job))
    _echo([work.as_json([found])] if json else work.one_as_text(found, terminal_width()))


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
    from ..config import load
    from . import jobs as work
    from .running import run
    from .text import terminal_width

    loaded = load(config)
    found = run(work.cancel(loaded, job, really=yes))
    _echo(work.cancelled_as_text(found, loaded, terminal_width(), really=yes))


def preview(
    config: ConfigPath,
    batches: Annotated[int, typer.Option("--batches", min=1, help="So many at most.")] = 1,
) -> None:
    """Print the exact requests that the next windows would make. Sends and commits nothing.

    A window that would close by its age is shown with what is in the log now.
    """
    from ..config import load
    from .preview import Previewer, remarks
    from .running import run

    previewer = Previewer(load(config), batches)
    found = run(previewer.run())
    for number, batch in enumerate(found.batches, 1):
        _echo(previewer.as_text(batch, number))
    _echo(remarks(found))


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

    from .. import moments
    from ..config import load
    from .replay import logged
    from .replay import report as reports
    from .replay.ranges import parse
    from .replay.replay import Options
    from .replay.replay import replay as work
    from .running import run_stoppable
    from .text import terminal_width

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
        patience=_duration("--patience", patience),
    )
    loaded, width = load(config), terminal_width()
    plan, done = run_stoppable(lambda stop: work(loaded, options, stop, send=yes and not dry_run))
    if done is None:
        _echo(reports.planned(plan, width, exact=options.exact))
        if plan.total:
            typer.echo("Nothing was sent; --yes sends it.")
        return
    _echo(reports.done(done, plan, width))
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
    from ..config import load
    from . import tune as work
    from .running import run_stoppable
    from .text import terminal_width
    from .tune import page
    from .tune import report as text

    loaded, width = load(config), terminal_width()
    options = work.Options(url, requests, minutes, work.at_once(config, loaded, at_once))
    tuned = run_stoppable(lambda stop: work.tune(loaded, options, stop, send=yes))
    for warning in work.warnings(tuned.config):
        typer.echo(f"warning: {warning}", err=True)
    if not yes:
        _echo(text.planned(tuned, width))
        return
    _echo(text.as_text(tuned, width))
    if report is not None:
        page.save(report, tuned)
        typer.echo(f"\n{report} has the plots")
    if write and tuned.advice is not None:
        from .tune.write import write as put

        changed = put(config, tuned.advice.values)
        _echo(["", *(changed or ["nothing to change"]), f"{config} is written"])


def status(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="URL|CONFIG", help="The admin port, or whose. [http://127.0.0.1:9464]"
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Until Ctrl-C, every 2 seconds.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="As one JSON document; with --watch one a line.")
    ] = False,
) -> None:
    """Show the state of a running daemon.

    Exit code 0 when it is healthy, 1 when it is not or cannot be reached.
    """
    import sys

    import msgspec

    from . import status as work
    from .status_text import as_text
    from .text import terminal_height, terminal_width

    def text(answer: work.Answer) -> list[str]:
        if json:
            return [msgspec.json.encode(answer[0]).decode()]
        return as_text(*answer, terminal_width())

    def show(answer: work.Answer | SluicedError) -> None:
        if isinstance(answer, SluicedError):
            lines, bad = str(answer).splitlines(), True
        else:
            lines, bad = text(answer), False
        if json:
            typer.echo("\n".join(lines), err=bad)  # stdout is for whoever reads JSON
        elif sys.stdout.isatty():
            typer.echo(work.screen(lines, terminal_height()))
        else:
            _echo([*lines, ""])

    url = work.address(target)
    if watch:
        with suppress(KeyboardInterrupt):
            asyncio.run(work.watch(url, 2.0, show))
        return
    answer = asyncio.run(work.ask(url))
    _echo(text(answer))
    raise typer.Exit(0 if work.healthy(*answer) else 1)


def _duration(option: str, text: str) -> float:
    from ..units import Duration

    try:
        return float(Duration.parse(text))
    except ValueError as error:
        raise SluicedError(f"{option} {text}: {error}") from None


def _rate(text: str) -> float:
    """Letters a second; 0 for no limit."""
    number, _, unit = text.partition("/")
    seconds = {"": 1, "s": 1, "m": 60, "h": 3600}.get(unit)
    if text and (seconds is None or not number.isdecimal() or not int(number)):
        raise SluicedError(f"--rate {text} is not a rate", 'Write it like "50/s" or "600/m".')
    return int(number) / (seconds or 1) if text else 0.0

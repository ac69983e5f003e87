"""`sluiced dead-letters`: what was refused, looked at and sent back."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ...errors import SluicedError
from .options import ConfigPath, Json, Patience, Since, Until, duration, echo

Reasons = Annotated[
    list[str] | None, typer.Option("--reason", help="Of this reason; may be given repeatedly.")
]
Statuses = Annotated[
    list[str] | None, typer.Option("--status", help="Refused with this status; repeatable.")
]
Topics = Annotated[
    list[str] | None, typer.Option("--topic", help="Of records of this topic; repeatable.")
]

dead_letters = typer.Typer(
    help="Look at what was refused, and send it back.", no_args_is_help=True, rich_markup_mode=None
)


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
    from ...config import load
    from ..dead_letters import listing
    from ..dead_letters.selection import Selection
    from ..running import run
    from ..text import terminal_width

    selection = Selection.of(reason, status, topic, since, until)
    found = run(listing.find(load(config), selection, limit))
    echo([listing.as_json(found)] if json else listing.as_text(found, terminal_width()))


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
    from ...config import load
    from ..dead_letters import show as shower
    from ..running import run
    from ..text import terminal_width

    echo(shower.as_text(run(shower.find(load(config), letter)), terminal_width()))


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
    from ...config import load
    from ..dead_letters.export import export as write
    from ..dead_letters.selection import Selection
    from ..running import run
    from ..text import count

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
    from ...config import load
    from ...redrive.work import Report
    from ..dead_letters import redrive as work
    from ..dead_letters.selection import Selection
    from ..running import run_stoppable
    from ..text import terminal_width

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
        patience=duration("--patience", patience),
    )
    loaded, report = load(config), Report()
    try:
        run_stoppable(lambda stop: work.redrive(loaded, options, stop, report))
    finally:
        if report.seen:
            echo(work.as_text(report, options, terminal_width()))
    raise typer.Exit(0 if report.complete else 1)


def _rate(text: str) -> float:
    """Letters a second; 0 for no limit."""
    number, _, unit = text.partition("/")
    seconds = {"": 1, "s": 1, "m": 60, "h": 3600}.get(unit)
    if text and (seconds is None or not number.isdecimal() or not int(number)):
        raise SluicedError(f"--rate {text} is not a rate", 'Write it like "50/s" or "600/m".')
    return int(number) / (seconds or 1) if text else 0.0

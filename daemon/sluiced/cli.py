"""The command line: arguments, exit codes, and errors as a person reads them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import __version__
from .errors import ConfigError, SluicedError

# The rest is imported where it is used, so that --version and --help answer at once.
if TYPE_CHECKING:
    from .config import Config

BAD_CONFIGURATION = 2

app = typer.Typer(
    help="Holds a Kafka stream behind a gate and lets it through to bulk APIs in full loads.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The configuration file, TOML.", show_default=False)
]


def main() -> None:
    """The entry point. A bug leaves with exit code 1 and a traceback; the daemon logs it."""
    try:
        app(prog_name="sluiced")
    except SluicedError as error:
        typer.echo(f"sluiced: {error}", err=True)
        sys.exit(BAD_CONFIGURATION if isinstance(error, ConfigError) else 1)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sluiced {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Holds a Kafka stream behind a gate and lets it through to bulk APIs in full loads."""


@app.command()
def run(config: ConfigPath) -> None:
    """Run the daemon in the foreground.

    Exit code 0 after a clean stop, 2 for a bad configuration, 1 for anything else.
    """
    from .config import load

    loaded = load(config)
    from . import app as daemon
    from .logs import get

    try:
        code = daemon.run(loaded, config)
    except SluicedError:
        raise
    except Exception:
        # Whoever reads the log of a service sees that it died, and of what, in one line.
        get("sluiced").critical("crashed", exc_info=True)
        code = 1
    raise typer.Exit(code)


@app.command()
def check(
    config: ConfigPath,
    connect: Annotated[
        bool, typer.Option("--connect", help="Also reach the broker, the topics and the sink.")
    ] = False,
) -> None:
    """Validate a configuration and say what it does.

    Exit code 0 when it can be used, 2 when it cannot.
    """
    from .config import conflicts, load

    loaded = load(config)
    for line in summary(loaded):
        typer.echo(line)
    for warning in conflicts(loaded):
        typer.echo(f"warning: {warning}", err=True)
    if connect:
        from . import app as daemon

        try:
            for line in daemon.connect(loaded):
                typer.echo(line)
        except SluicedError as error:
            # Whatever cannot be reached is what this configuration says.
            raise ConfigError(error.message, error.hint) from None


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running and show where it is.")
    ] = False,
) -> None:
    """Deliver real data through an embedded broker to an embedded API, and audit the result.

    Exit code 0 when the audit holds, otherwise 1.
    """
    from .tools.demo import demo

    raise typer.Exit(demo(keep))


def summary(config: Config) -> list[str]:
    """What the daemon will do, a line for each part."""
    kafka, record, window, sink = config.kafka, config.record, config.window, config.sink
    letters, retry, limits = config.dead_letter, config.retry, config.limits
    checks = {"json": "checked to be JSON", "text": "checked to be UTF-8", "bytes": "unchecked"}
    tombstones = {"skip": "skipped", "dead-letter": "dead-lettered", "send": "sent"}
    security = [name for name, on in (("TLS", kafka.tls), ("SASL", kafka.sasl)) if on]
    in_order = "in order" if limits.max_in_flight == 1 else "not in order"
    parts = {
        "pipeline": config.name,
        "kafka": f"{', '.join(kafka.bootstrap_servers)} ({' and '.join(security) or 'no TLS'})",
        "topics": f"{', '.join(kafka.topics)} as group {kafka.group_id}, "
        f"from the {kafka.start_at} record where it has no checkpoint",
        "records": f"{checks[record.format]}, known as {record.id}, "
        f"tombstones {tombstones[record.on_tombstone]}",
        "window": f"closes at {window.max_records} records, {window.max_bytes} or {window.max_age}"
        f", {'one over all partitions' if window.span == 'topics' else 'one for each partition'}"
        + (", newest record of an id only" if window.collapse else ""),
        "sink": f"{sink.method} {sink.origin}, at most "
        f"{sink.max_records} records and {sink.max_bytes} a request, {sink.timeout} each",
        "in flight": f"{_count(limits.max_in_flight, 'batch', 'batches')} at once, {in_order} "
        f"within a partition, in {limits.memory} of memory",
        "retries": f"after {retry.first_delay} to {retry.max_delay}; "
        + (
            "for as long as it takes"
            if str(retry.give_up_after) == "never"
            else f"dead-lettered after {retry.give_up_after}"
        ),
        "refused": f"to {letters.topic}; halts when more than {letters.max_ratio:.0%} of "
        f"{letters.max_ratio_window} records are refused"
        if letters.topic
        else "halts at the first one",
        "admin": f"http://{config.admin.listen}",
    }
    return [f"{part:<10} {text}" for part, text in parts.items()]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"

"""The command line: arguments, exit codes, and errors as a person reads them."""

from __future__ import annotations

import signal
import sys
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from . import __version__
from .errors import ConfigError, LostRangeError, SluicedError
from .ports import Identifies
from .tools.commands import register
from .tools.commands.options import ConfigPath

# The rest is imported where it is used, so that --version and --help answer at once.
if TYPE_CHECKING:
    from .config import Config

BAD_CONFIGURATION = 2
LOST_RANGE = 3

app = typer.Typer(
    help="Holds a Kafka stream behind a gate and lets it through to bulk APIs in full loads.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The entry point. A bug leaves with exit code 1 and a traceback; the daemon logs it."""
    try:
        app(prog_name="sluiced")
    except SluicedError as error:
        typer.echo(f"sluiced: {error}", err=True)
        sys.exit(_exit_code(error))


def _exit_code(error: SluicedError) -> int:
    """A supervisor may start the daemon again after 1; the others wait for a person."""
    if isinstance(error, ConfigError):
        return BAD_CONFIGURATION
    return LOST_RANGE if isinstance(error, LostRangeError) else 1


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

    Exit code 0 after a clean stop, 2 for a bad configuration, 3 for a checkpoint that has fallen
    off the log, 1 for anything else.
    """
    # One that comes before the daemon listens must neither kill it nor get lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    from .config import load

    loaded = load(config)
    from . import process
    from .logs import get

    try:
        code = process.run(loaded, config)
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
        bool,
        typer.Option(
            "--connect", help="Also reach the broker, the topics, the sink and a running daemon."
        ),
    ] = False,
) -> None:
    """Validate a configuration and say what it does.

    Exit code 0 when it can be used, 2 when it cannot.
    """
    from .config import conflicts, load
    from .tools import measured, unit

    loaded = load(config)
    for line in summary(loaded):
        typer.echo(line)
    for warning in [*conflicts(loaded), *unit.problems(loaded, unit.installed(config))]:
        _warn(str(warning))
    if connect:
        import asyncio

        from .tools.connect import connect as reach
        from .tools.running import quiet

        quiet()
        try:
            for problem in asyncio.run(measured.problems(loaded)):
                _warn(str(problem))
            asyncio.run(reach(loaded, typer.echo, _warn))
        except SluicedError as error:
            # Whatever cannot be reached is what this configuration says.
            raise ConfigError(error.message, error.hint) from None


def _warn(text: str) -> None:
    """One line for whoever reads a file or a journal; on a terminal broken where words end."""
    text = f"warning: {text}"
    if sys.stderr.isatty():
        from .tools.text import terminal_width

        text = fill(text, terminal_width(), subsequent_indent="  ", break_on_hyphens=False)
    typer.echo(text, err=True)


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running and show where it is.")
    ] = False,
    llm: Annotated[
        bool,
        typer.Option("--llm", help="Prompts, batch jobs and answers instead of a bulk API."),
    ] = False,
) -> None:
    """Deliver real data through an embedded broker to an embedded API, and audit the result.

    With --llm the data are prompts, which become batch jobs of an embedded provider.

    Exit code 0 when the audit holds, otherwise 1.
    """
    from .tools.demo import demo

    raise typer.Exit(demo(keep, llm))


register(app)


def summary(config: Config) -> list[str]:
    """What the daemon will do, a line for each part."""
    kafka, record, window, sink = config.kafka, config.record, config.window, config.sink
    letters, retry, limits = config.dead_letter, config.retry, config.limits
    checks = {"json": "checked to be JSON", "text": "checked to be UTF-8", "bytes": "unchecked"}
    tombstones = {"skip": "skipped", "dead-letter": "dead-lettered", "send": "sent"}
    security = [name for name, on in (("TLS", kafka.tls), ("SASL", kafka.sasl)) if on]
    in_order = "in order" if limits.slots == 1 else "not in order"
    auto = limits.max_in_flight == "auto"
    found_out = window.max_records == "auto"
    most = (
        f"1 to {sink.max_records} records, as serves best"
        if found_out
        else f"{window.max_records} records"
    )
    parts = {
        "pipeline": config.name,
        "kafka": f"{', '.join(kafka.bootstrap_servers)} ({' and '.join(security) or 'no TLS'})",
        "topics": f"{', '.join(kafka.topics)} as group {kafka.group_id}, "
        f"from the {kafka.start_at} record where it has no checkpoint",
        "records": f"{checks[record.format]}, known as {record.id}, "
        f"tombstones {tombstones[record.on_tombstone]}",
        "window": f"closes at {most}, {window.max_bytes} or {window.max_age}"
        f", {'one over all partitions' if window.span == 'topics' else 'one for each partition'}"
        + (f", and every {window.align}" if window.align else "")
        + (", newest record of an id only" if window.collapse else ""),
        **(
            {"released": f"{window.active}; what is read by then is finished"}
            if window.active
            else {}
        ),
        "sink": f"{sink.summary}, at most "
        f"{sink.max_records} records and {sink.max_bytes} a request, {sink.timeout} each",
        "in flight": f"{'as many as serve best, up to ' if auto else ''}"
        f"{_count(limits.slots, 'batch', 'batches')} at once, {in_order} "
        f"within a partition, in {limits.memory} of memory",
        **({"limits": _budgets(config)} if any(limits.budgets()) else {}),
        "retries": f"after {retry.first_delay} to {retry.max_delay}; "
        + (
            "for as long as it takes"
            if str(retry.give_up_after) == "never"
            else f"dead-lettered after {retry.give_up_after}"
        ),
        "refused": f"to {letters.topic}; halts when more than {letters.max_ratio:.0%} of "
        f"{letters.max_ratio_window} records are refused{_retried(config)}"
        if letters.topic
        else "halts at the first one",
        **_jobs(config),
        "admin": f"http://{config.admin.listen}",
        "guarantee": guarantee(config),
    }
    return [f"{part:<10} {text}" for part, text in parts.items()]


def guarantee(config: Config) -> str:
    """What a user may rely on, in one sentence; docs/guarantees.md has the whole of it."""
    again = "every record reaches the sink or the dead letters; what was in flight at a crash "
    by: Identifies = config.sink.identified_by
    match by:
        case "batch":
            apart = (
                ""
                if config.window.span == "partition"
                else (", unless a rebalance has taken apart a batch of several partitions")
            )
            return f"{again}is sent again as the same batch under the same id{apart}"
        case "item":
            return f"{again}is sent again, and the API must know each item by its id"
        case "transaction":
            return "every record is written exactly once, in one transaction with its checkpoint"
        case "none":
            return f"{again}is sent again, and the API cannot know that it has it"


def _jobs(config: Config) -> dict[str, str]:
    """Of a sink of jobs: how many there may be, and where their answers go."""
    from .metadata import jobs_that_fit
    from .sinks.job_settings import JobSettings
    from .tools.costs import of_template

    if not isinstance(config.sink, JobSettings) or config.results is None:
        return {}
    attempts = config.retry.max_item_attempts
    fit = jobs_that_fit(attempts)
    return {
        "jobs": f"at most {config.sink.max_jobs} at work, and {fit} of a partition: so many ids of "
        f"{attempts} attempts fit into the checkpoint's metadata",
        "results": f"to {config.results.topic}",
        **({"costs": costs} if (costs := of_template(config)) else {}),
    }


def _retried(config: Config) -> str:
    letters = config.dead_letter
    if letters.retry_after is None:
        return ""
    times = _count(letters.max_redrives, "time", "times")
    return f"; sent back after {letters.retry_after}, {times} at most"


def _budgets(config: Config) -> str:
    limits = config.limits
    each = [f"{getattr(limits, n)} {n.replace('_per_', ' per ')}" for n, _, _ in limits.budgets()]
    whose = "all members together" if limits.share == "group" else "each member"
    return f"at most {', '.join(each)}, for {whose}; up to {limits.burst:.0%} of it at once"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"

"""`sluiced status`: a running daemon, seen from outside."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

import typer

from ...errors import SluicedError
from .options import echo


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

    from .. import status as work
    from ..status_text import as_text
    from ..text import terminal_height, terminal_width

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
            echo([*lines, ""])

    url = work.address(target)
    if watch:
        with suppress(KeyboardInterrupt):
            asyncio.run(work.watch(url, 2.0, show))
        return
    answer = asyncio.run(work.ask(url))
    echo(text(answer))
    raise typer.Exit(0 if work.healthy(*answer) else 1)

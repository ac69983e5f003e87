"""What the commands share: arguments that several of them take, and the printing of lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ...errors import SluicedError

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The configuration file, TOML.", show_default=False)
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


def echo(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def duration(option: str, text: str) -> float:
    from ...units import Duration

    try:
        return float(Duration.parse(text))
    except ValueError as error:
        raise SluicedError(f"{option} {text}: {error}") from None

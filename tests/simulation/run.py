"""Runs seeds and says which of them break a rule.

python -m simulation.run --seeds 10000 --jobs 2     runs seeds 0 to 9999
python -m simulation.run --seed 4711 --trace        tells the whole story of one
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from typing import Any

# Seconds of CPU time after which a seed counts as hanging in a loop without an await.
HANGS = 30
# Events before a violation that are shown without --trace.
TAIL = 40


@dataclass(frozen=True, slots=True)
class Report:
    """One seed, as told from one process to another. `rule` is "" where all held."""

    seed: int
    rule: str
    text: str
    story: Sequence[str]
    digest: str
    counts: Counter[str]


def main(world: str = "world", module: str = "simulation.run") -> None:
    """`world` is the module whose `make` makes the worlds, `module` what this is called as."""
    arguments = _arguments()
    arguments.world, arguments.module = world, module
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of a set depends on it, and so does what happens in a run.
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, environment)
    if arguments.mutant:
        from .mutate import plant

        plant(arguments.mutant)
    sys.exit(_run(arguments))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulation.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many to run (1000)")
    parser.add_argument("--start", type=int, default=0, help="the first one (0)")
    parser.add_argument("--seed", type=int, nargs="*", default=[], help="these and no others")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (1)")
    parser.add_argument("--trace", action="store_true", help="show everything that happens")
    parser.add_argument("--digest", action="store_true", help="print what tells two runs apart")
    parser.add_argument("--keep-going", action="store_true", help="do not end with the first one")
    parser.add_argument("--counts", action="store_true", help="print how often what happened")
    parser.add_argument("--chunk", type=int, default=20, help="seeds between two reports (20)")
    parser.add_argument("--mutant", help="plant a bug of simulation.mutants first")
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> int:
    seeds = arguments.seed or range(arguments.start, arguments.start + arguments.seeds)
    began, done, failed = time.monotonic(), 0, 0
    counts: Counter[str] = Counter()
    for report in _reports(list(seeds), arguments):
        done += 1
        counts.update(report.counts)
        if arguments.digest:
            print(report.seed, report.digest)
        if arguments.trace and not report.rule:
            print(*report.story, sep="\n")
        if report.rule:
            failed += 1
            _tell(report, arguments)
            if not arguments.keep_going:
                break
    seconds = time.monotonic() - began
    print(f"{done} seeds in {seconds:.1f} s, {failed} failed")
    if arguments.counts:
        print(*(f"{count:9} {kind}" for kind, count in counts.most_common()), sep="\n")
    return 1 if failed else 0


def _tell(report: Report, arguments: argparse.Namespace) -> None:
    story = report.story if arguments.trace else report.story[-TAIL:]
    mutant = f" --mutant {arguments.mutant}" if arguments.mutant else ""
    print(f"\nseed {report.seed} breaks the rule {report.rule}: {report.text}\n")
    print(*story, sep="\n")
    print(
        f"\nthe whole story: PYTHONPATH=daemon:tests python -m {arguments.module} "
        f"--seed {report.seed} --trace{mutant}\n"
    )


def _reports(seeds: Sequence[int], arguments: argparse.Namespace) -> Iterator[Report]:
    size = arguments.chunk
    chunks = [seeds[i : i + size] for i in range(0, len(seeds), size)]
    several = partial(
        _several, world=arguments.world, trace=arguments.trace, digest=arguments.digest
    )
    if arguments.jobs == 1:
        for chunk in chunks:
            yield from several(chunk)
        return
    with get_context("fork").Pool(arguments.jobs) as pool:
        for reports in pool.imap(several, chunks):
            yield from reports


def _several(seeds: Iterable[int], *, world: str, trace: bool, digest: bool) -> list[Report]:
    """The collector has nothing to do but between two chunks: what a run leaves is little."""
    # Only now, so that a mutant can be planted before.
    make = import_module(f".{world}", __package__).make
    gc.collect()
    gc.freeze()
    gc.disable()
    return [_one(seed, make, trace=trace, digest=digest) for seed in seeds]


def _one(seed: int, make: Callable[[int], Any], *, trace: bool, digest: bool) -> Report:
    """Runs a seed, and gives up on it if it hangs."""
    from .world import World, simulate

    worlds: list[World] = []
    _listen(worlds if trace else None)
    signal.signal(signal.SIGVTALRM, _hanging)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANGS)
    try:
        result = simulate(seed, worlds.append, make)
    except _HangsError as error:
        story = worlds[0].trace.lines() if worlds else []
        return Report(seed, "hangs", str(error), story, "", Counter())
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    violation = result.violation
    return Report(
        seed,
        violation.rule if violation else "",
        violation.text if violation else "",
        result.trace.lines() if violation or trace else [],
        result.trace.digest() if digest else "",
        result.counts,
    )


class _HangsError(BaseException):
    pass


def _hanging(*_: Any) -> None:
    raise _HangsError(f"after {HANGS} s of CPU time")


def _listen(worlds: list[Any] | None) -> None:
    """The daemon's own log is part of the story, if somebody wants to read it."""
    import logging

    import structlog

    from .member import MEMBER

    def tell(_: object, level: str, event: Any) -> Any:
        member = MEMBER.get()
        details = [f"{key}={value}" for key, value in event.items() if key != "event"]
        assert worlds is not None
        worlds[-1].trace.note(member.name if member else "?", f"log {event['event']}", *details)
        raise structlog.DropEvent

    least = logging.CRITICAL if worlds is None else logging.DEBUG
    structlog.configure(
        processors=[tell],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        cache_logger_on_first_use=worlds is None,
    )


if __name__ == "__main__":
    main()

"""The daemon as a process: its signals, its log, its exit code.

Apart from `app`, whose objects the tools and the tests build as well, and run without any of that.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskGroup

from . import __version__, heap, logs, notify
from .app import Daemon
from .config import Config, conflicts
from .errors import unwrapped

log = structlog.get_logger("sluiced.app")

# Seconds beyond the drain that a stop may take: commit, producer, leaving the group, connections.
STOP_MARGIN = 35.0


async def serve(config: Config, path: Path) -> bool:
    """Runs the daemon under its signals: SIGTERM and SIGINT drain, a second one aborts without a
    commit, SIGHUP reads the file again and lifts a halt. Whether it stopped cleanly."""
    stop = anyio.Event()
    clean = False
    async with anyio.create_task_group() as tasks:
        daemon = Daemon(config)
        tasks.start_soon(_obey, daemon, stop, tasks)
        await daemon.run(stop, path)
        clean = True
        tasks.cancel_scope.cancel()
    return clean


async def _obey(daemon: Daemon, stop: anyio.Event, tasks: TaskGroup) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        # Since the start it has waited for this: see cli.run.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                action = "ignored" if stop.is_set() else "reading the configuration again"
                log.info("signal", name=name, action=action)
                daemon.reload.ask()
            elif not stop.is_set():
                log.info("signal", name=name, action="draining")
                notify.stopping("draining", seconds=daemon.pipeline.drain + STOP_MARGIN)
                stop.set()
            else:
                log.warning("signal", name=name, action="aborting without a commit")
                tasks.cancel_scope.cancel()


def run(config: Config, path: Path) -> int:
    """`sluiced run`: the exit code. Errors are logged, and shown as text by the caller."""
    logs.configure(config.log)
    log.info("starting", version=__version__, pipeline=config.name, config=str(path))
    for problem in conflicts(config):
        log.warning("configuration", key=problem.key, text=problem.text)
    heap.tune()
    clean = asyncio.run(unwrapped(serve(config, path)))
    log.info("stopped", clean=clean)
    return 0 if clean else 1

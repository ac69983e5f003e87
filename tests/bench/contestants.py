"""Who takes part, and the processes they run in."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from sluiced.tools.embedded_broker import log_tail, spawn, stop_process

WINDOW = 5_000

# Tansu lets a first member wait for half its session timeout before it may join.
_CONFIG = """
name = "bench"

[kafka]
bootstrap_servers = ["{bootstrap}"]
group_id = "{group}"
group_instance_id = "{group}"
topics = ["{topic}"]
session_timeout = "6s"

[record]
format = "{format}"

[window]
{window}

[sink]
type = "http"
url = "{url}"
idempotency_header = "Idempotency-Key"
{sink}

[sink.body]
item = "$value"
separator = ","
envelope = "[$items]"

[dead_letter]
topic = "{dead_letters}"

[admin]
listen = "127.0.0.1:0"

[shutdown]
drain = "{drain}"
"""


@dataclass(frozen=True)
class Site:
    """Where a run finds everything: the addresses, the topics, and a directory for its files."""

    bootstrap: str
    topic: str
    dead_letters: str
    url: str
    directory: Path


@dataclass(frozen=True)
class Contestant:
    """`command` makes the command line of a run for a site and a fresh consumer group."""

    name: str
    command: Callable[[Site, str], Sequence[str]]


def _bare(site: Site, group: str) -> Sequence[str]:
    arguments = (site.bootstrap, site.topic, group, f"{site.url}/bulk", str(WINDOW))
    return [sys.executable, "-m", "bench.bare_loop", *arguments]


def daemon(
    site: Site,
    group: str,
    *,
    record_format: str = "json",
    path: str = "/bulk",
    window: str = f"max_records = {WINDOW}",
    sink: str = f"max_records = {WINDOW}",
    drain: str = "30s",
    launcher: Sequence[str] = ("-m", "sluiced"),
) -> Sequence[str]:
    """Writes the configuration; `launcher` is what stands between python and `run CONFIG`."""
    text = _CONFIG.format(
        bootstrap=site.bootstrap,
        topic=site.topic,
        dead_letters=site.dead_letters,
        url=site.url + path,
        group=group,
        format=record_format,
        window=window,
        sink=sink,
        drain=drain,
    )
    config = site.directory / f"{group}.toml"
    config.write_text(text)
    return [sys.executable, *launcher, "run", str(config)]


BARE = Contestant("bare loop", _bare)
TEXT = Contestant("sluiced, text", lambda site, group: daemon(site, group, record_format="text"))
JSON = Contestant("sluiced, json", lambda site, group: daemon(site, group, record_format="json"))


class DidNotFinishError(Exception):
    """A contestant ended, or stood still, before it was done. The text holds its log's end."""


class Running:
    """A contestant at work."""

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self, trouble: str = "") -> None:
        """Raises DidNotFinishError if it has ended, or if there is other trouble to tell."""
        if self._process.poll() is not None:
            trouble = f"ended with status {self._process.returncode}"
        if trouble:
            raise DidNotFinishError(f"{trouble}; its log ends:\n{log_tail(self._log)}")

    def rss(self) -> int:
        """Bytes of memory that it holds now."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def peak_rss(self) -> int:
        """Bytes of memory that it held at most (VmHWM, which the kernel keeps)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the kernel tells no VmHWM; the benchmark needs Linux")


@contextmanager
def running(command: Sequence[str], grace: float = 30.0) -> Iterator[Running]:
    """Runs a contestant, and asks it to end when the block does."""
    with tempfile.TemporaryFile() as log:
        process = spawn(list(command), log)
        try:
            yield Running(process, log)
        finally:
            stop_process(process, grace)

"""Tansu, started by the same code as the demo's broker."""

from __future__ import annotations

import subprocess

from sluiced.tools.embedded_broker import EmbeddedBroker

from .base import Broker


class Tansu(Broker):
    """A broker in memory: `stop` and `kill` lose all records, the port stays."""

    name = "tansu"
    transactions = False
    commit_metadata = False
    security = False
    durable = False
    creates_missing_topics = True

    def __init__(self) -> None:
        self._embedded = EmbeddedBroker()

    @property
    def bootstrap(self) -> str:
        return self._embedded.bootstrap

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._embedded.process

    def start(self) -> None:
        self._embedded.start()

    def _end(self) -> None:
        self._embedded.stop()

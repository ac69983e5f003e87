"""Kafka as source, checkpoint and place for dead letters."""

from . import offsets, unpacking
from .client import KafkaSettings, SaslSettings, TlsSettings, describe
from .dead_letters import KafkaDeadLetters
from .source import KafkaSource

offsets.guard()
unpacking.guard()

__all__ = [
    "KafkaDeadLetters",
    "KafkaSettings",
    "KafkaSource",
    "SaslSettings",
    "TlsSettings",
    "describe",
]

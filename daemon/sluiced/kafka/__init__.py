"""Kafka as source, checkpoint and place for dead letters. The only import of aiokafka."""

from .client import KafkaSettings, SaslSettings, TlsSettings, describe
from .dead_letters import KafkaDeadLetters
from .source import KafkaSource

__all__ = [
    "KafkaDeadLetters",
    "KafkaSettings",
    "KafkaSource",
    "SaslSettings",
    "TlsSettings",
    "describe",
]

"""The kinds of sinks that there are: our own, and those of other packages that are installed."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeAlias, TypeGuard

from ..errors import ConfigError
from .elasticsearch_settings import ElasticsearchSettings
from .file import FileSettings
from .http_settings import HttpSettings
from .job_settings import AnthropicBatchSettings, OpenAIBatchSettings
from .postgres.settings import PostgresSettings
from .settings import SinkSettings

GROUP = "sluiced.sinks"

BuiltIn: TypeAlias = (
    HttpSettings
    | ElasticsearchSettings
    | PostgresSettings
    | FileSettings
    | OpenAIBatchSettings
    | AnthropicBatchSettings
)

OWN = (
    HttpSettings,
    ElasticsearchSettings,
    PostgresSettings,
    FileSettings,
    OpenAIBatchSettings,
    AnthropicBatchSettings,
)


def own() -> list[str]:
    """The types of our own sinks, as `[sink] type` names them."""
    return [str(kind.__struct_config__.tag) for kind in OWN]


def foreign() -> list[str]:
    """The types of sinks that other packages bring."""
    return sorted({found.name for found in entry_points(group=GROUP)} - set(own()))


def load_foreign(name: str) -> type[SinkSettings]:
    """The settings of another package's sink. Raises ConfigError if they cannot be used."""
    [found, *_] = entry_points(group=GROUP, name=name)
    where = f"the sink {name} of {found.dist.name if found.dist else 'some package'}"
    try:
        kind = found.load()
    except Exception as error:
        raise ConfigError(
            f"{where} cannot be loaded: {type(error).__name__}: {error}",
            "Install what it needs, or a version of it that goes with this one of sluiced.",
        ) from error
    if not _is_sink(kind, name):
        raise ConfigError(
            f"{where}: {found.value} is not a SinkSettings with the tag {name!r}",
            "docs/sinks.md shows how such a package looks.",
        )
    return kind


def _is_sink(kind: object, name: str) -> TypeGuard[type[SinkSettings]]:
    if not (isinstance(kind, type) and issubclass(kind, SinkSettings)):
        return False
    return kind.__struct_config__.tag == name

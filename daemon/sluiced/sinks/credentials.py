"""Headers that hold secrets: fetched when needed, and kept out of every text."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError
from ..units import Secret


class Credentials:
    """The secrets among a sink's headers."""

    def __init__(self, headers: Mapping[str, str | Secret]) -> None:
        self._sources = {name: v for name, v in headers.items() if isinstance(v, Secret)}
        self._headers: dict[str, str] = {}

    @property
    def headers(self) -> Mapping[str, str]:
        """As they are to be sent; empty before `reveal`."""
        return self._headers

    def reveal(self) -> None:
        """Reads all of them. Raises ConfigError, and then keeps what was read before."""
        found = {}
        for header, source in self._sources.items():
            try:
                text = source.reveal()
            except ValueError as error:
                raise ConfigError(
                    f"sink.headers.{header}: {error}", "Put the secret there, or name its place."
                ) from None
            if not (text.isascii() and text.isprintable()):
                raise ConfigError(
                    f"sink.headers.{header}: the secret ({source}) is not printable ASCII",
                    "Store it as the API gave it out, without invisible characters.",
                )
            found[header] = text
        self._headers = found

    def renew(self) -> None:
        """Reads them again where the API refuses them: they may have been replaced since.

        Where they cannot be read now, the old ones stay; the API goes on saying what is wrong.
        """
        try:
            self.reveal()
        except ConfigError:
            return

    def scrub(self, text: str) -> str:
        """A text of the API's, which may repeat what it was sent, without the secrets."""
        for header, hidden in self._headers.items():
            bare = hidden.removeprefix(self._sources[header].prefix)
            text = text.replace(bare, "***")
        return text

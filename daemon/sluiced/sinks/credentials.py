"""Headers that hold secrets: fetched when needed, and kept out of every text."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..errors import ConfigError
from ..units import Secret

# So many of the newest secrets are kept out of texts: an answer to what was sent with one that has
# been replaced since may still be on its way.
HIDDEN = 100


class Credentials:
    """The secrets among a sink's headers. `key` is where they stand in the file, if not there."""

    def __init__(self, headers: Mapping[str, str | Secret], key: str = "") -> None:
        self._key = key
        self._sources = {name: v for name, v in headers.items() if isinstance(v, Secret)}
        self._headers: dict[str, str] = {}
        self._hidden: list[str] = []

    @property
    def headers(self) -> Mapping[str, str]:
        """As they are to be sent; empty before `reveal`."""
        return self._headers

    @property
    def places(self) -> Mapping[str, str]:
        """Where each is kept, for a text that is shown."""
        return {name: f"({source})" for name, source in self._sources.items()}

    def reveal(self) -> None:
        """Reads all of them. Raises ConfigError, and then keeps what was read before."""
        found = {}
        for header, source in self._sources.items():
            key = self._key or f"sink.headers.{header}"
            try:
                text = source.reveal()
            except ValueError as error:
                raise ConfigError(
                    f"{key}: {error}", "Put the secret there, or name its place."
                ) from None
            if not (text.isascii() and text.isprintable()):
                raise ConfigError(
                    f"{key}: the secret ({source}) is not printable ASCII",
                    "Store it as the API gave it out, without invisible characters.",
                )
            found[header] = text
        forms = [form for header, text in found.items() for form in self._forms(header, text)]
        self._hidden = list(dict.fromkeys([*forms, *self._hidden]))[:HIDDEN]
        self._headers = found

    def remember(self, former: Credentials) -> None:
        """Keeps the secrets that these replace out of texts too."""
        self._hidden = list(former._hidden)

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
        # The longest first: another one may be a part of it.
        for form in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(form, "***")
        return text

    def _forms(self, header: str, hidden: str) -> tuple[str, ...]:
        """As it is, and as it stands in JSON, where some write a slash as "\\/"."""
        bare = hidden.removeprefix(self._sources[header].prefix)
        in_json = msgspec.json.encode(bare).decode()[1:-1]
        return bare, in_json, in_json.replace("/", r"\/")

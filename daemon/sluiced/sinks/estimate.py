"""How many tokens requests will take, by their bodies, before anybody has counted them.

In: a token for every four bytes of what a model reads, as it stands in the body. Out: what the body
allows at most, so that what is estimated is seldom too little.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..prices import Usage, added
from ..tokens import estimated

_NOTHING = msgspec.Raw(b"")

# Endpoints that answer with no tokens that have a price.
SILENT = ("/v1/embeddings", "/v1/moderations")


class _Body(msgspec.Struct):
    """What models read, and the names that there are for how much one may write."""

    model: str = ""
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    messages: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    system: msgspec.Raw = _NOTHING
    instructions: msgspec.Raw = _NOTHING
    tools: msgspec.Raw = _NOTHING
    response_format: msgspec.Raw = _NOTHING

    @property
    def read(self) -> int:
        """Bytes."""
        conversation = (self.messages, self.input, self.prompt, self.system, self.instructions)
        return sum(len(bytes(part)) for part in (*conversation, self.tools, self.response_format))

    @property
    def most(self) -> int | None:
        """Tokens of an answer."""
        found = self.max_completion_tokens or self.max_output_tokens or self.max_tokens
        if found is None or not 0 <= found * (self.n or 1) < 2**53:  # what is no count is no bound
            return None
        return found * max(1, self.n or 1)


_body = msgspec.json.Decoder(_Body).decode


def of(body: bytes, endpoint: str) -> Usage:
    """Of one request. A body that the API will refuse is taken for nothing but text."""
    try:
        found = _body(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Usage("", 1, estimated(len(body)), 0, 1)
    most = 0 if endpoint in SILENT else found.most
    return Usage(found.model, 1, estimated(found.read), most or 0, most is None)


def of_all(bodies: Iterable[bytes], endpoint: str) -> list[Usage]:
    """Of all together, by model."""
    return added(of(body, endpoint) for body in bodies)

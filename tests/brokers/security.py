"""What clients of the secured listeners present, and what they trust."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

# The one user that every SASL mechanism knows.
USER = "sluiced"
PASSWORD = "only-for-tests"


@dataclass(frozen=True)
class Certificates:
    """PEM files of one private authority: its own certificate, and key and chain of both ends."""

    ca: Path
    server: Path
    client: Path

    @classmethod
    def create_in(cls, directory: Path) -> Self:
        """Makes an authority, a server at 127.0.0.1 and a client, in three files."""
        authority = trustme.CA()
        made = cls(*(directory / name for name in ("ca.pem", "server.pem", "client.pem")))
        authority.cert_pem.write_to_path(made.ca)
        _write(made.server, authority.issue_cert("127.0.0.1", "localhost"))
        _write(made.client, authority.issue_cert("client.example"))
        return made


def _write(path: Path, leaf: trustme.LeafCert) -> None:
    # Kafka reads keys in PKCS #8 only; trustme writes the older form.
    key = load_pem_private_key(leaf.private_key_pem.bytes(), password=None)
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pkcs8 + b"".join(blob.bytes() for blob in leaf.cert_chain_pems))


def oauth_token(lifetime: float = 3600.0, subject: str = USER) -> str:
    """A bearer token without a signature, good for `lifetime` seconds from now (negative: expired).

    Only Kafka's validator for development accepts such a thing.
    """
    now = time.time()
    claims = {"sub": subject, "iat": now, "exp": now + lifetime}
    return f"{_base64url({'alg': 'none'})}.{_base64url(claims)}."


def _base64url(document: dict[str, Any]) -> str:
    return urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")

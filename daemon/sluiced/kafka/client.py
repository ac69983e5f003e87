"""What every client of the cluster needs: addresses, security, and a first look at the topics."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import structlog
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from msgspec import Meta

from ..errors import ConfigError, SourceError
from ..units import Duration, Secret, Settings
from .unpacking import require_codecs

log = structlog.get_logger("sluiced.kafka")

TOKEN_TIMEOUT = 10.0  # seconds that a token command may take
CONNECT_TIMEOUT = 30.0  # seconds for the first look at the cluster

Name = Annotated[str, Meta(min_length=1)]


class TlsSettings(Settings, frozen=True):
    """[kafka.tls]: PEM files. Without `ca` the system's certificates are trusted.

    Verification of the broker's certificate and name cannot be turned off.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.cert is None:
            raise ValueError("key needs cert, the certificate that it belongs to")

    def context(self) -> ssl.SSLContext:
        """Raises ConfigError that names the file."""
        for name, path in (("ca", self.ca), ("cert", self.cert), ("key", self.key)):
            try:
                if path is not None and not Path(path).is_file():
                    raise ConfigError(
                        f"kafka.tls.{name}: there is no file {path}", "Give the path of a PEM file."
                    )
            except OSError as error:  # in a directory that we may not look into, for one
                raise ConfigError(
                    f"kafka.tls.{name}: {path} cannot be read: {error.strerror}",
                    "Let the user that sluiced runs as read it.",
                ) from None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"kafka.tls: the certificates cannot be loaded: {error}",
                "All files must be PEM, and the key must belong to the certificate and have no "
                "passphrase.",
            ) from None
        return context


class SaslSettings(Settings, frozen=True):
    """[kafka.sasl]: a user and a password, or for OAUTHBEARER a source of tokens."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
    username: str | None = None
    password: Secret | None = None
    token_command: list[str] | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        tokens = (self.token_command is not None) + (self.token_file is not None)
        if self.mechanism == "OAUTHBEARER":
            if tokens != 1 or self.username or self.password:
                raise ValueError(
                    "OAUTHBEARER takes exactly one of token_command and token_file, and no "
                    "username or password"
                )
            if self.token_command == []:
                raise ValueError("token_command is the program and its arguments, as a list")
        elif tokens or self.username is None or self.password is None:
            raise ValueError(f"{self.mechanism} takes username and password, and no token")


class KafkaSettings(Settings, frozen=True):
    """[kafka]"""

    bootstrap_servers: Annotated[list[Name], Meta(min_length=1)]
    group_id: Name
    topics: Annotated[list[Name], Meta(min_length=1)]
    start_at: Literal["earliest", "latest"] = "earliest"
    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"
    session_timeout: Duration = Duration(45)
    group_instance_id: Name | None = None
    client_id: Name = "sluiced"
    tls: TlsSettings | None = None
    sasl: SaslSettings | None = None

    def __post_init__(self) -> None:
        if self.session_timeout < 1:
            raise ValueError("session_timeout must be at least 1s")
        if len(set(self.topics)) < len(self.topics):
            raise ValueError("topics names one topic twice")
        bare = self.sasl is not None and self.tls is None
        if bare and self.sasl and self.sasl.mechanism in ("PLAIN", "OAUTHBEARER"):
            raise ValueError(
                f"SASL {self.sasl.mechanism} without TLS would send the secret readable over the "
                "network: add [kafka.tls], or use SCRAM-SHA-512"
            )

    def client(self) -> dict[str, Any]:
        """The arguments that every aiokafka client takes. Reads the secrets anew.

        Raises ConfigError.
        """
        encrypted, authenticated = self.tls is not None, self.sasl is not None
        arguments: dict[str, Any] = {
            "bootstrap_servers": list(self.bootstrap_servers),
            "client_id": self.client_id,
            "security_protocol": ("SASL_" if authenticated else "")
            + ("SSL" if encrypted else "PLAINTEXT"),
        }
        if self.tls is not None:
            arguments["ssl_context"] = self.tls.context()
        if self.sasl is not None:
            arguments["sasl_mechanism"] = self.sasl.mechanism
            if self.sasl.mechanism == "OAUTHBEARER":
                arguments["sasl_oauth_token_provider"] = _Tokens(self.sasl)
            elif self.sasl.password is not None:
                try:
                    arguments["sasl_plain_password"] = self.sasl.password.reveal()
                except ValueError as error:
                    raise ConfigError(f"kafka.sasl.password: {error}") from None
                arguments["sasl_plain_username"] = self.sasl.username
        return arguments


class _Tokens(AbstractTokenProvider):
    """Gives a fresh token at every connection, since brokers drop one whose token has expired."""

    def __init__(self, settings: SaslSettings) -> None:
        self._settings = settings

    async def token(self) -> str:
        """Raises SourceError that says what failed and never what was answered."""
        if self._settings.token_file is not None:
            try:
                text = await anyio.Path(self._settings.token_file).read_text()
            except (OSError, UnicodeDecodeError):
                raise SourceError(
                    f"the token file {self._settings.token_file} cannot be read"
                ) from None
        else:
            text = await self._run(self._settings.token_command or [])
        if not (token := text.strip()):
            raise SourceError("the source of the OAUTHBEARER token gave none")
        return token

    async def _run(self, command: list[str]) -> str:
        try:
            # The start is not cut off: asyncio would lose a process that is half made.
            process = await anyio.open_process(
                command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            with anyio.fail_after(TOKEN_TIMEOUT):
                async with process:
                    assert process.stdout is not None
                    out = b"".join([piece async for piece in process.stdout])
        except (OSError, TimeoutError) as error:
            why = (
                "took too long" if isinstance(error, TimeoutError) else f"failed: {error.strerror}"
            )
            raise SourceError(f"kafka.sasl.token_command {command[0]} {why}") from None
        if process.returncode:
            raise SourceError(
                f"kafka.sasl.token_command {command[0]} ended with exit code {process.returncode}"
            )
        return out.decode(errors="replace")


async def describe(settings: KafkaSettings, topics: Collection[str]) -> Mapping[str, int]:
    """How many partitions each of the topics has that exist.

    Asks for all topics, since asking for one by name may create it. Raises SourceError when the
    cluster cannot be reached, with what to look at, or when its records could not be unpacked.
    """
    require_codecs()
    admin = AIOKafkaAdminClient(**settings.client(), request_timeout_ms=10_000)
    try:
        with anyio.fail_after(CONNECT_TIMEOUT):
            await admin.start()
            found = await admin.describe_topics()
    except (KafkaError, OSError, TimeoutError, ValueError) as error:
        raise SourceError(
            f"the Kafka cluster at {', '.join(settings.bootstrap_servers)} cannot be used: "
            f"{explain(error)}",
            "Check kafka.bootstrap_servers, the network, and [kafka.tls] and [kafka.sasl].",
        ) from None
    finally:
        await bounded(admin.close(), 5.0, "closing the admin client")
    return {t["topic"]: len(t["partitions"]) for t in found if t["topic"] in topics}


def explain(error: BaseException) -> str:
    """An aiokafka error as text: its class where it says nothing itself."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def bounded(work: Any, seconds: float, what: str) -> None:
    """Runs a clean-up to its end, in a task of its own and shielded, for so long at most.

    aiokafka's stop() leaves live tasks behind when it is cancelled, never ends with a broker
    hanging, and may raise a CancelledError that nobody asked for with brokers down.
    """
    task = asyncio.ensure_future(work)
    with anyio.CancelScope(shield=True):
        await asyncio.wait([task], timeout=seconds)
    if not task.done():
        task.cancel()
        log.warning("cleanup_timed_out", what=what, seconds=seconds)
    elif not task.cancelled() and task.exception() is not None:
        log.warning("cleanup_failed", what=what, error=explain(task.exception() or Exception()))

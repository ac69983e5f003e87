"""`sluiced status`: asks a running daemon what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import anyio
import msgspec

from ..admin import AdminSettings
from ..config import load
from ..errors import SluicedError

TIMEOUT = 5.0  # seconds for both questions
CLEAR = "\x1b[2J\x1b[H"
HEALTHY = {"running", "waiting"}

Answer: TypeAlias = tuple[dict[str, Any], str]  # /status, and why it is not ready, or ""


def address(target: str | None) -> str:
    """The URL of the admin port: of a configuration, a URL or host:port; by default its default.

    Raises SluicedError.
    """
    if target is None:
        return address_of(AdminSettings())
    if target.startswith(("http://", "https://")):
        try:
            parts = urlsplit(target)
        except ValueError as error:
            raise SluicedError(
                f"{target} is not an address: {error}", "Give the URL of an admin port."
            ) from None
        return f"{parts.scheme}://{parts.netloc}"
    if not os.path.exists(target):  # noqa: PTH110 - Path's raises where it may not look
        try:
            return address_of(AdminSettings(listen=target))
        except ValueError:
            pass  # load() says that there is no such file
    return address_of(load(Path(target)).admin)


def address_of(settings: AdminSettings) -> str:
    """The URL of an admin port. Whoever listens everywhere is to be reached on the loopback."""
    host, port = settings.address()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not a bind
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def ask(url: str) -> Answer:
    """Raises SluicedError."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            _, body = await _get(session, f"{url}/status")
            code, text = await _get(session, f"{url}/readyz")
    except (aiohttp.ClientError, OSError) as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else _reason(error)
        raise SluicedError(
            f"no daemon can be reached at {url}: {why}",
            "Check that it runs, and give its configuration or the URL of its admin port.",
        ) from None
    return _decoded(url, body), "" if code == 200 else text.decode(errors="replace").strip()


def _decoded(url: str, body: bytes) -> dict[str, Any]:
    try:
        status = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = None
    if not isinstance(status, dict) or "state" not in status:
        raise SluicedError(
            f"what answers at {url} is not a sluiced daemon", "Give the URL of its admin port."
        )
    return status


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    async with session.get(url, allow_redirects=False) as answer:
        return answer.status, await answer.read()


def _reason(error: Exception) -> str:
    """asyncio's own text for a port where nobody listens is a Python tuple."""
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def healthy(status: Mapping[str, Any], not_ready: str) -> bool:
    return not not_ready and status["state"] in HEALTHY


async def watch(url: str, seconds: float, show: Callable[[Answer | SluicedError], None]) -> None:
    """Shows what the daemon says every so many seconds, until it is cancelled.

    Raises SluicedError if it cannot be reached at first. One that goes away later may come back.
    """
    answer: Answer | SluicedError = await ask(url)
    while True:
        show(answer)
        await anyio.sleep(seconds)
        try:
            answer = await ask(url)
        except SluicedError as error:
            answer = error


def screen(lines: Sequence[str], rows: int) -> str:
    """The terminal emptied, and as many of the lines as it has room for."""
    if len(lines) >= rows > 2:
        cut = len(lines) - rows + 2
        lines = [*lines[: rows - 2], f"and {cut} more lines, for which the terminal is too low"]
    return CLEAR + "\n".join(lines)

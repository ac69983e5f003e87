"""The page for people at `/` of the admin port: files that a browser takes as they are.

It asks for `status` once a second and draws what it says. There is no build step, and nothing is
loaded from elsewhere.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path

_HERE = Path(__file__).parent


def _inline() -> str:
    """The one script that stands in index.html itself, as the policy names it."""
    [script] = re.findall(rb"<script>(.*?)</script>", (_HERE / "index.html").read_bytes(), re.S)
    return f"'sha256-{b64encode(sha256(script).digest()).decode()}'"


# Nothing but these files may be loaded or asked for, by nobody else's page, and no text can become
# markup: a topic or an API's error may hold anything.
SECURITY = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self' {_inline()}; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class File:
    body: bytes
    content_type: str
    etag: str


def files() -> dict[str, File]:
    """By the path under which each is served."""
    found: dict[str, File] = {}
    for path in sorted(_HERE.iterdir()):
        if path.suffix in _TYPES:
            body = path.read_bytes()
            served = "/" if path.name == "index.html" else f"/{path.name}"
            etag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
            found[served] = File(body, _TYPES[path.suffix], etag)
    return found

"""Bodies that may take minutes to send: in pieces, and with a time limit that fits their size."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from uuid import uuid4

import anyio

PIECE = 256 * 1024  # bytes; a transport copies what it is given and cannot send yet
SLOWEST = 125_000  # bytes a second: the line that a large upload is given time for
STALL = 120.0  # seconds without progress, of an upload or a download


@dataclass(frozen=True, slots=True)
class Upload:
    """A body in parts, so that a large one is not copied into a larger one."""

    content_type: str
    parts: tuple[bytes, ...]

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))

    async def pieces(self, sent: Callable[[bool], None]) -> AsyncIterator[memoryview]:
        """Calls `sent` after each piece, with whether it was the last one."""
        left = self.size
        for part in self.parts:
            view = memoryview(part)
            for start in range(0, len(part), PIECE):
                piece = view[start : start + PIECE]
                yield piece
                left -= len(piece)
                sent(left == 0)


class Patience:
    """How long a request may take: `timeout` seconds for the answer once the last byte is sent, and
    before that as long as something moves and the whole of it is not too slow."""

    def __init__(self, timeout: float, size: int) -> None:
        now = anyio.current_time()
        self._timeout = timeout
        self._end = now + timeout + size / SLOWEST
        self.uploading = size > 0
        self.scope = anyio.CancelScope(deadline=self._at(now))

    def sent(self, whole: bool) -> None:
        self.uploading = not whole
        self.scope.deadline = self._at(anyio.current_time())

    def _at(self, now: float) -> float:
        return min(self._end, now + (STALL if self.uploading else self._timeout))


def form(file_name: str, body: bytes, **fields: str) -> Upload:
    """A file with other fields, as a form; none of the names needs quoting."""
    border = f"sluiced-{uuid4().hex}"
    head = "".join(
        f'--{border}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += (
        f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="{file_name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    end = f"\r\n--{border}--\r\n"
    return Upload(f"multipart/form-data; boundary={border}", (head.encode(), body, end.encode()))

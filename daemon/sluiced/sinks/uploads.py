"""Bodies that may take minutes to send: in pieces, and with a time limit that fits their size."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from uuid import uuid4

import anyio

PIECE = 256 * 1024  # bytes; a transport copies what it is given and cannot send yet
SLOWEST = 125_000  # bytes a second: the line that a large upload is given time for
STALL = 120.0  # seconds without progress, of an upload or a download


Parts = Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Upload:
    """A body that is made while it is sent, so that a large one never stands in memory.

    `parts` makes it from its beginning, and the same whenever it is called; they are of `size`
    bytes together.
    """

    content_type: str
    size: int
    parts: Parts

    async def pieces(self, sent: Callable[[bool], None]) -> AsyncIterator[memoryview]:
        """Calls `sent` after each piece, with whether it was the last one."""
        left = self.size
        async for piece in _pieces(self.parts()):
            yield piece
            left -= len(piece)
            sent(left == 0)


async def size_of(parts: Parts) -> int:
    """Bytes."""
    return sum([len(piece) async for piece in _pieces(parts())])


async def _pieces(parts: Iterable[bytes]) -> AsyncIterator[memoryview]:
    """Small parts are put together and large ones cut; after each, other tasks have their turn."""
    gathered: list[bytes | memoryview] = []
    size = 0
    for part in parts:
        gathered.append(part)
        size += len(part)
        if size >= PIECE:
            whole = memoryview(b"".join(gathered))
            size %= PIECE
            for start in range(0, len(whole) - size, PIECE):
                yield whole[start : start + PIECE]
                await anyio.lowlevel.checkpoint()
            gathered = [whole[len(whole) - size :]]
    if size:
        yield memoryview(b"".join(gathered))


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


def form(file_name: str, size: int, parts: Parts, **fields: str) -> Upload:
    """A file of these parts with other fields, as a form; none of the names needs quoting."""
    border = f"sluiced-{uuid4().hex}"
    head = "".join(
        f'--{border}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += (
        f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="{file_name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    first, last = head.encode(), f"\r\n--{border}--\r\n".encode()
    return Upload(
        f"multipart/form-data; boundary={border}",
        len(first) + size + len(last),
        lambda: chain((first,), parts(), (last,)),
    )

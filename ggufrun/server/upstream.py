"""HTTP/1.1 to a child over its Unix socket: one request a connection, the answer piece by piece.

Only what llama.cpp's server sends is understood: a head, then a body by its length, in chunks, or until the end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

PIECE = 1 << 16
"""Bytes that are read at once."""

MAX_JSON = 256 << 20
"""Bytes of an answer that is read whole."""


class Vanished(Exception):
    """The child closed the connection before the end of its answer, or does not take one."""


@dataclass
class Answer:
    """What the child answers. ``pieces`` is its body on the way."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader

    @property
    def is_stream(self) -> bool:
        """Server-sent events?"""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body. Raises Vanished when it ends too early."""
        try:
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                async for piece in self._chunks():
                    yield piece
            elif "content-length" in self.headers:
                left = int(self.headers["content-length"])
                while left:
                    piece = await self.reader.read(min(left, PIECE))
                    if not piece:
                        raise Vanished
                    left -= len(piece)
                    yield piece
            else:
                while piece := await self.reader.read(PIECE):
                    yield piece
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise Vanished from error

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            head = await self.reader.readline()
            if not head.endswith(b"\n"):
                raise Vanished
            size = int(head.partition(b";")[0], 16)
            if size == 0:
                return
            piece = await self.reader.readexactly(size + 2)
            yield piece[:-2]

    async def body(self) -> bytes:
        """All of it. Raises Vanished."""
        parts, total = [], 0
        async for piece in self.pieces():
            total += len(piece)
            if total > MAX_JSON:
                raise Vanished
            parts.append(piece)
        return b"".join(parts)

    async def json(self) -> Any:
        """All of it, parsed. Raises Vanished."""
        try:
            return json.loads(await self.body())
        except ValueError as error:
            raise Vanished from error

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The objects of server-sent events, until ``[DONE]``. Raises Vanished."""
        rest = b""
        async for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                name, _, value = line.strip().partition(b":")
                if name not in (b"data", b"error") or not value.strip():
                    continue
                if value.strip() == b"[DONE]":
                    return
                try:
                    found = json.loads(value)
                except ValueError as error:
                    raise Vanished from error
                yield {"error": found} if name == b"error" else found


@asynccontextmanager
async def ask(socket: str, method: str, path: str, body: bytes | None = None) -> AsyncIterator[Answer]:
    """Send a request to the server at ``socket``; leaving closes the connection, which ends what it is doing for it.

    Raises Vanished.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 20)
    except OSError as error:
        raise Vanished from error
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        try:
            writer.write(head.encode("latin-1") + b"\r\n" + (body or b""))
            await writer.drain()
            text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = text.split("\r\n")
            status = int(status_line.split(" ", 2)[1])
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError) as error:
            raise Vanished from error
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        yield Answer(status, headers, reader)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def call(socket: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and parsed body of a request whose answer is JSON. Raises Vanished."""
    data = None if body is None else json.dumps(body).encode()
    async with ask(socket, method, path, data) as answer:
        return answer.status, await answer.json()

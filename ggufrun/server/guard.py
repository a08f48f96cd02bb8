"""What every request must pass before anything is done for it: where it comes from, its key, its size, its time.

Pure ASGI, around the whole application. It also ends the work for a client that goes away.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ggufrun.server.errors import ApiError, api_of, busy

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = {("GET", "/health"), ("GET", "/v1/health"), ("GET", "/"), ("HEAD", "/"), ("GET", "/page.js")}
"""What needs no key: whether the server is there, and the page, which asks for the key."""

BODY_SECONDS = 60.0
"""Within which the body of a request must have come."""

BODIES = 4
"""So many bodies of the largest size may be in memory at once."""


DISCARDED, DISCARD_SECONDS = 256 << 20, 5.0
"""So much of a body that is too large is read, and thrown away, before the refusal."""


@dataclass(frozen=True)
class Rules:
    """Who may ask. ``keys`` are API keys (none: everybody may), ``loopback`` says that only this machine can connect,
    ``origins`` and ``hosts`` are allowed beside those of this machine, ``max_body`` is bytes.
    """

    keys: tuple[str, ...] = ()
    loopback: bool = True
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    max_body: int = 64 << 20
    digests: tuple[bytes, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digests", tuple(hashlib.sha256(key.encode()).digest() for key in self.keys))

    def check(self, method: str, path: str, headers: dict[str, str]) -> None:
        """Raises ApiError for a request that is not to be answered."""
        if not self._known_host(headers.get("host", "")):
            raise ApiError(403, "this name of the server is not allowed; start it with --allowed-host NAME", "host")
        origin = headers.get("origin")
        if origin is not None and not self.allows_origin(origin, headers.get("host", "")):
            raise ApiError(403, "requests of this web page are not allowed; see --cors-origin", "origin")
        if self.keys and (method, path) not in OPEN and method != "OPTIONS":
            self._check_key(headers)

    def _check_key(self, headers: dict[str, str]) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        # all of them are compared, so that the time tells nothing
        if not sum(hmac.compare_digest(digest, known) for known in self.digests):
            raise ApiError(401, "a valid API key is needed: Authorization: Bearer KEY", "invalid_api_key")

    def _known_host(self, host: str) -> bool:
        name = _host_name(host)
        if name in ("localhost", *self.hosts):
            return True
        with suppress(ValueError):
            address = ipaddress.ip_address(name)
            return address.is_loopback if self.loopback else True
        if self.loopback:
            return False
        # With a key a page of strangers that calls itself by our address gets nothing.
        return bool(self.keys) or name == socket.gethostname().lower()

    def allows_origin(self, origin: str, host: str) -> bool:
        """May a web page of ``origin`` ask the server that it calls ``host``?"""
        if origin in self.origins or "*" in self.origins:
            return True
        try:
            parts = urlsplit(origin)
            name = parts.hostname or ""
        except ValueError:
            return False
        if parts.scheme not in ("http", "https"):
            return False
        if parts.netloc.lower() == host.lower():
            return True
        with suppress(ValueError):
            return ipaddress.ip_address(name).is_loopback
        return name == "localhost"


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


class Guard:
    """The application behind the rules. ``done`` hears of each answer: method, path, status, seconds, notes."""

    def __init__(self, app: App, rules: Rules, done: Callable[[str, str, int, float, dict[str, Any]], None]) -> None:
        self._app = app
        self._rules = rules
        self._done = done
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began = time.monotonic()
        path = scope["path"]
        if len(path) > 1 and path.endswith("/"):
            path = scope["path"] = path.rstrip("/") or "/"
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        notes: dict[str, Any] = {}
        scope["notes"] = notes
        status = 0
        extra = self._cors(headers)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        held = 0
        try:
            self._rules.check(scope["method"], path, headers)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await respond(sending, 204, b"")
                return
            body = await self._body(headers, receive)
            held = len(body)
            await self._run(scope, body, receive, sending)
        except ApiError as error:
            if not status:
                await respond_error(sending, error, path)
        except _Gone:
            status = status or 499
        finally:
            self._bytes -= held
            self._done(scope["method"], path, status, time.monotonic() - began, notes)

    def _cors(self, headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
        origin = headers.get("origin")
        if origin is None or not self._rules.allows_origin(origin, headers.get("host", "")):
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-headers", b"*, authorization"),
            (b"access-control-allow-methods", b"GET, POST, HEAD, DELETE"),
            (b"vary", b"origin"),
        ]

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        most = self._rules.max_body
        too_large = ApiError(413, f"the body is larger than {most} bytes (--max-body)", headers={"connection": "close"})
        with suppress(ValueError):
            if int(headers.get("content-length", "0")) > most:
                await self._discard(receive)
                raise too_large
        parts: list[bytes] = []
        total = 0

        async def read() -> None:
            nonlocal total
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                piece = message.get("body", b"")
                total += len(piece)
                self._bytes += len(piece)
                if total > most:
                    raise too_large
                if self._bytes > BODIES * most:
                    raise busy("too many large requests at once")
                parts.append(piece)
                if not message.get("more_body"):
                    return

        try:
            await asyncio.wait_for(read(), BODY_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            self._bytes -= total
            raise ApiError(408, "the body did not come in time", headers={"connection": "close"}) from None
        except BaseException:
            self._bytes -= total
            raise
        return b"".join(parts)

    async def _discard(self, receive: Receive) -> None:
        """Read some of what is not wanted: a client that is still sending would not see the answer."""

        async def read() -> None:
            left = DISCARDED
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return

        with suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(read(), DISCARD_SECONDS)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """The application, until its client goes away."""
        given = False

        async def one_body() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await asyncio.Event().wait()
            raise AssertionError

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        work = asyncio.ensure_future(self._app(scope, one_body, send))
        watch = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work
                raise _Gone
            work.result()
        finally:
            for task in (work, watch):
                if not task.done():
                    task.cancel()
                    with suppress(asyncio.CancelledError, _Gone, ApiError):
                        await task


class _Gone(Exception):
    """The client has closed the connection."""


async def respond(send: Send, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    """A whole answer."""
    fields = {"content-length": str(len(body)), **(headers or {})}
    await send({
        "type": "http.response.start",
        "status": status,
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in fields.items()],
    })  # fmt: skip
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, error: ApiError, path: str) -> None:
    """An error in the form of the API that ``path`` belongs to."""
    body = json.dumps(error.body(api_of(path)), ensure_ascii=False).encode()
    await respond(send, error.status, body, {"content-type": "application/json", **error.headers})

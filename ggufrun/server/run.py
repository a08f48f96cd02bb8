"""Listening: the HTTP server around the application, its limits for connections, its signals and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ggufrun.errors import UsageError
from ggufrun.server.app import Logged, application
from ggufrun.server.catalog import Catalog, Entry
from ggufrun.server.guard import Rules
from ggufrun.server.pool import Pool
from ggufrun.server.service import Service

HEAD_BYTES = 32 << 10
HEAD_SECONDS = 10.0
"""Within which a connection must have sent the head of a request, its first or after the last answer."""

IDLE_SECONDS = 75
"""How long a connection without a request is kept."""


@dataclass(frozen=True)
class Listening:
    """``host`` and ``port`` (0: any free one), files for TLS, the most ``connections``, and the ``grace`` in seconds
    that answers get when the server ends.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    ssl_key: str | None = None
    ssl_certificate: str | None = None
    connections: int = 2048
    grace: float = 10.0

    @property
    def scheme(self) -> str:
        """For an address."""
        return "https" if self.ssl_certificate else "http"


def bound(listening: Listening) -> socket.socket:
    """A socket at the address. Raises UsageError where it is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((listening.host, listening.port))
    except OSError as error:
        found.close()
        why = error.strerror or str(error)
        raise UsageError(f"cannot listen at {listening.host}:{listening.port}: {why}", "give another --port") from None
    found.listen(1024)
    return found


def more_files(wanted: int) -> None:
    """Let this process have ``wanted`` connections open, as far as the system allows."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft < enough:
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def protocol(most: int) -> type[H11Protocol]:
    """HTTP/1.1 with a limit for connections, and one for the time that a head may take."""

    class Limited(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._late: Any = None
            if len(self.connections) > most:
                body = json.dumps(
                    {
                        "error": {
                            "message": "too many connections",
                            "type": "overloaded_error",
                            "param": None,
                            "code": None,
                        }
                    }
                )
                transport.write(
                    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
                    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body.encode())
                )
                transport.close()
                return
            self._watch()

        def _watch(self) -> None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._close_if_waiting)

        def _close_if_waiting(self) -> None:
            self._late = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

        def data_received(self, data: bytes) -> None:
            waiting = self.cycle is None or self.cycle.response_complete
            super().data_received(data)
            begun = self.cycle is not None and not self.cycle.response_complete
            if begun and self._late is not None:
                self._late.cancel()
                self._late = None
            elif waiting and not begun and self._late is None:
                # a further request on a kept connection begins slowly
                self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._late is not None:
                self._late.cancel()
            super().connection_lost(exc)

    return Limited


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: ours end the models too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    catalog: Catalog,
    make_pool: Callable[[], Pool],
    describe: Callable[[Entry], dict[str, Any]],
    rules: Rules,
    listening: Listening,
    version: str,
    *,
    metrics: bool = False,
    page: bool = True,
    logged: Logged | None = None,
    ready: Callable[[str, int], None] = lambda host, port: None,
    preload: Entry | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> int:
    """Serve until a signal ends it; returns the exit status. ``ready`` hears the address once connections are taken.

    The first SIGINT or SIGTERM lets answers end within the grace, the second ends at once; SIGHUP looks for new models.
    """
    sock = bound(listening)
    more_files(listening.connections + 256)
    return asyncio.run(
        _serve(
            catalog, make_pool, describe, rules, listening, version, sock, metrics, page, logged, ready, preload, note
        )
    )


async def _serve(
    catalog: Catalog,
    make_pool: Callable[[], Pool],
    describe: Callable[[Entry], dict[str, Any]],
    rules: Rules,
    listening: Listening,
    version: str,
    sock: socket.socket,
    metrics: bool,
    page: bool,
    logged: Logged | None,
    ready: Callable[[str, int], None],
    preload: Entry | None,
    note: Callable[[str], None],
) -> int:
    pool = make_pool()
    service = Service(catalog, pool, describe, version)
    config = uvicorn.Config(
        application(service, rules, metrics, page, logged),
        http=protocol(listening.connections),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=int(listening.grace),
        h11_max_incomplete_event_size=HEAD_BYTES,
        ssl_keyfile=listening.ssl_key,
        ssl_certfile=listening.ssl_certificate,
    )
    server = _Server(config)
    status = 0

    def end(number: int) -> None:
        nonlocal status
        if server.should_exit:
            server.force_exit = True
            return
        status = 130 if number == signal.SIGINT else 0
        note("ending: no new requests; a second signal ends at once")
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, catalog.rescan)
    sweeping = asyncio.ensure_future(pool.sweep())
    loading = asyncio.ensure_future(_preload(pool, preload, note)) if preload is not None else None
    try:
        ready(listening.host, sock.getsockname()[1])
        await server.serve(sockets=[sock])
    finally:
        for task in (sweeping, loading):
            if task is not None:
                task.cancel()
        await pool.close()
    return status


async def _preload(pool: Pool, entry: Entry, note: Callable[[str], None]) -> None:
    from ggufrun.server.errors import ApiError

    try:
        async with pool.lease(entry, generates=False):
            pass
    except ApiError as error:
        note(f"{entry.name}: {error.message}")

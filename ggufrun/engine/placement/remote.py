"""Devices of other machines, through llama.cpp's RPC backend: the client's side.

That backend ends the process when a server cannot be reached, speaks another version or dies, and waits without end for
one that serves somebody else (a server serves one client at a time). So each server is asked first, here, in its own
protocol: the greeting of ``ggml-rpc.cpp``, a command byte, a size, 24 bytes of capabilities.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufrun.engine.placement.devices import Device, devices
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.library import ggml, rpc

PORT = 50052
"""llama.cpp's own."""

VERSION = 7
"""The protocol's major version in the pinned release; a server of another refuses."""

HELLO, CAPABILITIES = 14, 24

PATIENCE = 5.0
"""Seconds to wait for an answer to the greeting."""

FILES = Path("/proc/self/fd")

ALIVE = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 3),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 15000),
)
"""Probes after five seconds of silence, three of them; as long for data that nobody confirms. A server that computes
answers them all the same: its system does.
"""

SERVERS = 16
"""``GGML_RPC_MAX_SERVERS``."""


@dataclass(frozen=True)
class Endpoint:
    """A server's address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse(text: str) -> tuple[Endpoint, ...]:
    """``host:port,host`` as given to --rpc; UsageError for what is none."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        host, colon, port = part.rpartition(":")
        if not colon:
            host, port = part, str(PORT)
        if not host or ":" in host or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise UsageError(f"--rpc {part!r} is not an address", f"write host:port, such as 127.0.0.1:{PORT}")
        found.append(Endpoint(host, int(port)))
    if not found:
        raise UsageError("--rpc names no worker", f"write host:port, such as 127.0.0.1:{PORT}")
    if len(found) > SERVERS:
        raise UsageError(f"--rpc names {len(found)} workers", f"the engine takes {SERVERS} at most")
    return tuple(dict.fromkeys(found))


def check(endpoint: Endpoint, patience: float = PATIENCE) -> None:
    """Greet the server. Raises EngineError in one line when it does not answer as one that can be used."""
    start = f"start it there: `ggufrun worker --port {endpoint.port}`"
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout=patience) as connection:
            connection.settimeout(patience)
            connection.sendall(struct.pack("<BQ", HELLO, CAPABILITIES) + bytes(CAPABILITIES))
            answer = b""
            while len(answer) < 12 and (piece := connection.recv(12 - len(answer))):
                answer += piece
    except ConnectionRefusedError as error:
        raise EngineError(f"no worker listens at {endpoint}", start) from error
    except socket.gaierror as error:
        raise EngineError(f"{endpoint.host} is not a known host", "check the name, or give the address") from error
    except (TimeoutError, socket.timeout) as error:  # noqa: UP041 -- Python 3.9's name, and 3.10's
        raise EngineError(
            f"the worker at {endpoint} does not answer", "it may serve somebody else; each worker serves one client"
        ) from error
    except OSError as error:
        raise EngineError(f"the worker at {endpoint} cannot be reached: {error.strerror or error}", start) from error
    if len(answer) < 12 or struct.unpack_from("<Q", answer)[0] != 4 + CAPABILITIES:
        raise EngineError(f"what listens at {endpoint} is not a worker, or one of another version", start)
    major, minor, patch = answer[8], answer[9], answer[10]
    if major != VERSION:
        raise EngineError(
            f"the worker at {endpoint} speaks version {major}.{minor}.{patch} of the protocol, this engine {VERSION}",
            "install the same release of ggufrun on both machines",
        )


def watch(endpoints: Sequence[Endpoint]) -> int:
    """Have the system look after the open connections to these servers: one whose machine or network goes away without
    a word ends within some fifteen seconds, where the engine would wait for ever. Returns how many there are.

    The engine's sockets are its own; on Linux they are found among the open files. Elsewhere nothing happens.
    """
    addresses = {(socket.gethostbyname(endpoint.host), endpoint.port) for endpoint in endpoints}
    found = 0
    for file in FILES.iterdir() if FILES.is_dir() else ():
        with contextlib.suppress(OSError, ValueError), socket.socket(fileno=os.dup(int(file.name))) as connection:
            if connection.family == socket.AF_INET and connection.getpeername() in addresses:
                for level, option, value in ALIVE:
                    connection.setsockopt(level, getattr(socket, option), value)
                found += 1
    return found


_connections: dict[Endpoint, int] = {}
"""A backend of each server. The engine closes a connection that nothing uses, and would open one for every question."""


def connect(endpoints: Sequence[Endpoint]) -> tuple[Device, ...]:
    """Make the servers' devices known to the engine, as GPUs before those of this machine; returns them.

    Connecting again to the same server changes nothing. Raises EngineError.
    """
    lib = rpc()
    known = {device.name for device in devices()}
    endpoints = [endpoint for endpoint in endpoints if endpoint not in _connections]
    for endpoint in endpoints:
        check(endpoint)
    for endpoint in endpoints:
        _connections[endpoint] = lib.ggml_backend_rpc_init(str(endpoint).encode(), 0)
        registry = lib.ggml_backend_rpc_add_server(str(endpoint).encode())
        if not registry:
            raise EngineError(f"the worker at {endpoint} has no devices", "start it with another --device")
        ggml().ggml_backend_register(registry)
    watch(endpoints)
    return tuple(device for device in devices() if device.name not in known)

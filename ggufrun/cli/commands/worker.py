"""``ggufrun worker``: this machine's devices for a model that runs on another."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Annotated

import typer

from ggufrun.cli.terminal import console
from ggufrun.errors import EngineError, UsageError
from ggufrun.units import size_text

WHY = (
    "the protocol knows no passwords and no encryption: whoever reaches this port can use the devices, read what is "
    "computed, and may take this process over"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(worker)


def worker(
    host: Annotated[str, typer.Option("-H", "--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("-p", "--port", metavar="N", min=0, max=65535, help="Port to listen on; 0 for any free port.")
    ] = 50052,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "-d", "--device", metavar="NAME", help="Device to lend; may be repeated.  [default: all GPUs, or the CPU]"
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "-t", "--threads", metavar="N", min=1, max=512, help="Number of threads.  [default: one per core]"
        ),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option("--memory", min=1, metavar="MIB", help="Largest amount of memory to lend, on each device."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Allow an address that other machines can reach (prints a warning).")
    ] = False,
) -> None:
    """Lend this machine's devices to a model on another machine.

    Give its address to --rpc there. It serves one client at a time, until Ctrl+C. The protocol is llama.cpp's, and has
    no protection of its own: through the loopback address and an ssh tunnel only those who may log in can use it.
    """
    from ggufrun.engine.placement import worker as work
    from ggufrun.engine.threads import default_threads

    host = work.resolve_host(host)
    tunnel = f"ssh -N -L {port}:127.0.0.1:{port} user@this-machine"
    if not work.loopback(host):
        if not public:
            raise UsageError(
                f"{host} can be reached from other machines, and {WHY}",
                f"listen at 127.0.0.1 and open a tunnel from the other machine (`{tunnel}`), or say --public in a "
                "network that only you use",
            )
        console.note(f"warning: {WHY}; a tunnel is safer: {tunnel}")
    names = [name for text in device or () for name in text.split(",")]
    chosen = work.choose_devices(names)
    port = work.free_port(host, port)
    for one in chosen:
        free = one.free if memory is None else min(one.free, memory << 20)
        console.note(f"lending {one.name}: {one.description}, {size_text(free)} free")
    console.note(f"listening at {host}:{port}; there: ggufrun chat MODEL --rpc {host}:{port}   (Ctrl+C ends)")
    sys.stderr.flush()
    _tell(_captured())
    # The server never comes back to Python, where signals would be handled: they do what they do by themselves.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    work.serve(host, port, chosen, threads or default_threads(), None if memory is None else memory << 20)
    raise EngineError(f"the server at {host}:{port} ended", "see what stands above")


EVENTS = {"Accepted client connection": "a client came", "Client connection closed": "the client left"}


def _captured() -> int:
    """What llama.cpp prints goes into a pipe; returns its end to read from."""
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(writing)
    return reading


def _tell(reading: int) -> None:
    """Say who comes and goes, and nothing else of what llama.cpp prints."""

    def follow() -> None:
        with open(reading, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if said := EVENTS.get(line.strip()):
                    console.note(said)

    threading.Thread(target=follow, daemon=True).start()

"""Lending this machine's devices to another, through llama.cpp's RPC backend: the server's side."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import socket
from collections.abc import Sequence

from ggufrun.engine.placement.devices import Device, devices
from ggufrun.engine.placement.memory import host_device
from ggufrun.engine.placement.offload import CPU
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.device_memory import replace_report
from ggufrun.native.library import ggml, rpc


def choose_devices(names: Sequence[str] = ()) -> tuple[Device, ...]:
    """The devices to lend: those called ``names``, else the GPUs, else the processor. Raises UsageError."""
    here = [device for device in devices() if device.kind == "cpu" or device.is_gpu]
    if names:
        by_name = {device.name: device for device in here}
        for name in names:
            if name not in by_name:
                raise UsageError(f"there is no device {name}", f"choose from {', '.join(by_name)}")
        return tuple(by_name[name] for name in names)
    gpus = [device for device in here if device.kind != "cpu"]
    return tuple(gpus or here[:1])


def resolve_host(host: str) -> str:
    """The address of ``host``: the engine's server takes no names. Raises EngineError."""
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        raise EngineError(f"{host!r} is not an address of this machine", "give one such as 127.0.0.1") from error


def loopback(host: str) -> bool:
    """Can only this machine reach the address ``host``?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port(host: str, port: int) -> int:
    """``port``, or any that is free for 0. Raises EngineError when the address cannot be listened at."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        here = "give an address of this machine" if error.errno == errno.EADDRNOTAVAIL else "take another --port"
        what = f"cannot listen at {host}:{port}: {(error.strerror or str(error)).lower()}"
        raise EngineError(what, here) from error


def tell_memory(pointer: int, most: int | None = None) -> bool:
    """Have a device report no more than ``most`` free bytes, and the processor's what the system can give: llama.cpp
    reports all of it as free. False, and nothing changed, where the device is not built as we take it to be.
    """
    ours = ggml().ggml_backend_dev_type(pointer) == CPU and host_device().total > 0

    def report(free: int, total: int) -> tuple[int, int]:
        if ours:
            now = host_device()
            free, total = now.free, now.total
        return (free if most is None else min(free, most)), total

    return replace_report(pointer, report)


def serve(host: str, port: int, chosen: Sequence[Device], threads: int, most: int | None = None) -> None:
    """Serve until the process ends; llama.cpp prints on standard output who comes and goes. Returns on failure only.

    ``most`` is how many bytes of each device clients are told of. Raises EngineError for an engine without RPC.
    """
    lib = rpc()
    wanted = {device.name for device in chosen}
    pointers = []
    for index in range(ggml().ggml_backend_dev_count()):
        device = ggml().ggml_backend_dev_get(index)
        if ggml().ggml_backend_dev_name(device).decode("utf-8", "replace") in wanted:
            pointers.append(device)
            tell_memory(device, most)
    array = (ctypes.c_void_p * len(pointers))(*pointers)
    lib.ggml_backend_rpc_start_server(f"{host}:{port}".encode(), None, threads, len(pointers), array)

"""Lending this machine's devices to another, through llama.cpp's RPC backend: the server's side."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

from ggufrun.engine.placement.devices import Device, devices
from ggufrun.engine.placement.memory import host_device
from ggufrun.engine.placement.offload import CPU
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.library import ggml, llama


def choose(names: Sequence[str] = ()) -> tuple[Device, ...]:
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


def resolved(host: str) -> str:
    """The address of ``host``: the engine's server takes no names. Raises EngineError."""
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        raise EngineError(f"{host!r} is no address of this machine", "give one such as 127.0.0.1") from error


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


GET_MEMORY = 2
"""Which of the functions that a ``ggml_backend_device`` begins with is ``get_memory``: ``ggml-backend-impl.h``."""

_GetMemory = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t))

_telling: list[Any] = []
"""The functions that devices were given: they must live as long as those."""


def tell_memory(pointer: int, most: int | None = None) -> bool:
    """Have a device report no more than ``most`` free bytes, and the processor's what the system can give: llama.cpp
    reports all of it as free. False, and nothing changed, where the device is not built as we take it to be.
    """
    functions = (ctypes.c_void_p * (GET_MEMORY + 1)).from_address(pointer)
    address = functions[GET_MEMORY]
    free, known, total = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_size_t()
    ggml().ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(known))
    if address is None:
        return False
    before = _GetMemory(address)
    before(pointer, ctypes.pointer(free), ctypes.pointer(total))
    if total.value != known.value:
        return False
    ours = ggml().ggml_backend_dev_type(pointer) == CPU and host_device().total > 0

    def tell(device: int, free: Any, total: Any) -> None:
        before(device, free, total)
        if ours:
            now = host_device()
            free[0], total[0] = now.free, now.total
        if most is not None:
            free[0] = min(free[0], most)

    callback = _GetMemory(tell)
    _telling.append((callback, before))
    functions[GET_MEMORY] = ctypes.cast(callback, ctypes.c_void_p).value
    return True


def serve(host: str, port: int, chosen: Sequence[Device], threads: int, most: int | None = None) -> None:
    """Serve until the process ends; llama.cpp prints on standard output who comes and goes. Returns on failure only.

    ``most`` is how many bytes of each device clients are told of. Raises EngineError for an engine without RPC.
    """
    if not llama().llama_supports_rpc():
        raise EngineError("this engine is built without RPC", "install the one of `make setup`")
    lib = ctypes.CDLL(ggml()._name)
    size = ctypes.c_size_t
    lib.ggml_backend_rpc_start_server.restype = None
    lib.ggml_backend_rpc_start_server.argtypes = [ctypes.c_char_p, ctypes.c_char_p, size, size, ctypes.c_void_p]
    wanted = {device.name for device in chosen}
    pointers = []
    for index in range(ggml().ggml_backend_dev_count()):
        device = ggml().ggml_backend_dev_get(index)
        if ggml().ggml_backend_dev_name(device).decode("utf-8", "replace") in wanted:
            pointers.append(device)
            tell_memory(device, most)
    array = (ctypes.c_void_p * len(pointers))(*pointers)
    lib.ggml_backend_rpc_start_server(f"{host}:{port}".encode(), None, threads, len(pointers), array)

"""Facts about the engine that is installed: its version, what it was built for, the devices it sees.

Loads the native library. A build for another processor may end the process, so whoever reports on a machine calls this
in a process of its own.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from dataclasses import dataclass
from typing import Any

from ggufrun.engine.native import llama

KINDS = ("cpu", "gpu", "igpu", "accelerator", "meta")
"""``enum ggml_backend_dev_type``, in its order."""


@dataclass(frozen=True)
class Device:
    """Something that the engine can compute on; bytes of memory as the backend reports them."""

    name: str
    description: str
    kind: str
    total: int
    free: int


@dataclass(frozen=True)
class EngineBuild:
    """``features`` are the backends and instruction sets of ``llama_print_system_info``, those that are on."""

    version: str
    features: tuple[str, ...]
    devices: tuple[Device, ...]
    rpc: bool


def parse_system_info(text: str) -> tuple[str, ...]:
    """``CPU : AVX = 1 | AVX2 = 0 | CUDA : ARCHS = 900 |`` -> ``("AVX", "ARCHS=900")``."""
    found = []
    for part in text.split("|"):
        name, _, value = part.rpartition(":")[2].partition("=")
        if value.strip() not in ("", "0"):
            found.append(name.strip() if value.strip() == "1" else f"{name.strip()}={value.strip()}")
    return tuple(found)


def _devices() -> tuple[Device, ...]:
    import llama_cpp._ggml as bound

    lib: Any = bound.libggml
    pointer = ctypes.c_void_p
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    lib.ggml_backend_dev_get.restype, lib.ggml_backend_dev_get.argtypes = pointer, [ctypes.c_size_t]
    found = []
    # Only the registry lives in libggml; the rest is found through its dependency, libggml-base.
    for function, result in (
        (lib.ggml_backend_dev_name, ctypes.c_char_p),
        (lib.ggml_backend_dev_description, ctypes.c_char_p),
        (lib.ggml_backend_dev_type, ctypes.c_int),
    ):
        function.restype, function.argtypes = result, [pointer]
    sizes = ctypes.POINTER(ctypes.c_size_t)
    lib.ggml_backend_dev_memory.restype, lib.ggml_backend_dev_memory.argtypes = None, [pointer, sizes, sizes]
    for index in range(lib.ggml_backend_dev_count()):
        device = lib.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        kind = lib.ggml_backend_dev_type(device)
        found.append(
            Device(
                lib.ggml_backend_dev_name(device).decode("utf-8", "replace"),
                lib.ggml_backend_dev_description(device).decode("utf-8", "replace").strip(),
                KINDS[kind] if 0 <= kind < len(KINDS) else str(kind),
                total.value,
                free.value,
            )
        )
    return tuple(found)


def engine_build() -> EngineBuild:
    """What is installed. Raises EngineError when the engine is missing or cannot be loaded."""
    api = llama()
    return EngineBuild(
        version=importlib.metadata.version("llama-cpp-python"),
        features=parse_system_info(api.llama_print_system_info().decode("utf-8", "replace")),
        devices=_devices(),
        rpc=bool(api.llama_supports_rpc()),
    )

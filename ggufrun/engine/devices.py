"""The devices that the engine can compute on, as ggml's registry lists them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ggufrun.engine.native import ggml, llama

KINDS = ("cpu", "gpu", "igpu", "accelerator", "meta")
"""``enum ggml_backend_dev_type``, in its order."""

GPU_BACKENDS = ("CUDA", "ROCm", "MUSA", "Vulkan", "MTL", "SYCL")
"""llama.cpp's names of those that compute on a GPU of this machine."""


@dataclass(frozen=True)
class Device:
    """Something that the engine can compute on; bytes of memory as the backend reports them."""

    name: str
    description: str
    kind: str
    total: int
    free: int


def devices() -> tuple[Device, ...]:
    """Every device, with the memory that is free now. Raises EngineError when the engine cannot be loaded."""
    lib = ggml()
    found = []
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


def has_gpu() -> bool:
    """Is there a GPU that this build can use? ``llama_supports_gpu_offload`` alone is also true of a build with RPC."""
    return bool(llama().llama_supports_gpu_offload()) and any(device.kind in ("gpu", "igpu") for device in devices())


def backends() -> str:
    """What computes beside the processor, such as ``CUDA``; ``CPU`` when nothing does. Named as llama-bench does."""
    found = []
    for name, count in _registries():
        # remote ones count only when somebody is at the other end
        if name != "CPU" and (not name.startswith("RPC") or count):
            found.append("RPC" if name.startswith("RPC") else name)
    return ",".join(dict.fromkeys(found)) or "CPU"


def gpu_backends() -> tuple[str, ...]:
    """The backends for GPUs that the engine was built with, whether or not they found one."""
    return tuple(name for name, _ in _registries() if name in GPU_BACKENDS)


def _registries() -> list[tuple[str, int]]:
    """Names of backends, each with its number of devices."""
    lib = ggml()
    entries = [lib.ggml_backend_reg_get(number) for number in range(lib.ggml_backend_reg_count())]
    return [
        (lib.ggml_backend_reg_name(entry).decode("utf-8", "replace"), lib.ggml_backend_reg_dev_count(entry))
        for entry in entries
    ]

"""The devices that the engine can compute on, as ggml's registry lists them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggufrun.engine.placement import system_memory
from ggufrun.native.cuda import refusals
from ggufrun.native.library import ggml, library_path, llama, starting

KINDS = ("cpu", "gpu", "igpu", "accelerator", "meta")
"""``enum ggml_backend_dev_type``, in its order."""

GPU_BACKENDS = ("CUDA", "ROCm", "MUSA", "Vulkan", "MTL", "SYCL")
"""llama.cpp's names of those that compute on a GPU of this machine."""

NO_CARD = ("", "-1", "none", "nodevfiles", "void")

VISIBLE = {
    "CUDA": ("CUDA_VISIBLE_DEVICES", NO_CARD),
    "ROCm": ("HIP_VISIBLE_DEVICES", NO_CARD),
    "Vulkan": ("GGML_VK_VISIBLE_DEVICES", NO_CARD),
    # this one is a number of devices
    "MTL": ("GGML_METAL_DEVICES", ("0",)),
}
"""The variable by which a user chooses among the GPUs of a backend, and its values that mean none of them."""

LIBRARIES = {"CUDA": "libggml-cuda.*", "Vulkan": "libggml-vulkan.*"}
"""A backend that cannot even start is not in the registry; its library tells that it was built."""


@dataclass(frozen=True)
class Device:
    """Something that the engine can compute on; bytes of memory as the backend reports them. ``refused`` is why no
    program can begin on it, in CUDA's words: others have all of its memory, or one has it for itself.
    """

    name: str
    description: str
    kind: str
    total: int
    free: int
    refused: str = ""

    @property
    def is_gpu(self) -> bool:
        """A GPU that can be used."""
        return self.kind in ("gpu", "igpu") and not self.refused


def devices() -> tuple[Device, ...]:
    """Every device, with the memory that is free now: of the processor what the system can give, of which llama.cpp
    says that all is free. Raises EngineError when the engine cannot be loaded.
    """
    lib, refused = ggml(), refusals()
    available = system_memory.memory().available
    found = []
    for index in range(lib.ggml_backend_dev_count()):
        device = lib.ggml_backend_dev_get(index)
        name = lib.ggml_backend_dev_name(device).decode("utf-8", "replace")
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if name not in refused:
            lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        kind = lib.ggml_backend_dev_type(device)
        if kind == 0 and available is not None:
            free.value = min(free.value, available)
        found.append(
            Device(
                name,
                lib.ggml_backend_dev_description(device).decode("utf-8", "replace").strip(),
                KINDS[kind] if 0 <= kind < len(KINDS) else str(kind),
                total.value,
                free.value,
                refused.get(name, ""),
            )
        )
    return tuple(found)


def has_gpu() -> bool:
    """Is there a GPU that this build can use? ``llama_supports_gpu_offload`` alone is also true of a build with RPC."""
    return bool(llama().llama_supports_gpu_offload()) and any(device.is_gpu for device in devices())


def card_memory() -> int:
    """Bytes of all GPUs with a memory of their own: one that is part of the processor has none, nor have Apple's."""
    return sum(one.total for one in devices() if one.kind == "gpu" and not one.name.startswith("MTL"))


def backends() -> str:
    """What computes beside the processor, such as ``CUDA``; ``CPU`` when nothing does. Named as llama-bench does."""
    found = []
    for name, count in _registries():
        # a build for GPUs on a machine without, and RPC with nobody at the other end, compute nothing
        if name != "CPU" and count:
            found.append("RPC" if name.startswith("RPC") else name)
    return ",".join(dict.fromkeys(found)) or "CPU"


def gpu_backends() -> tuple[str, ...]:
    """The backends for GPUs that the engine was built with, whether or not they found one."""
    started = [name for name, _ in _registries() if name in GPU_BACKENDS]
    folder = library_path().parent
    there = [name for name, pattern in LIBRARIES.items() if any(folder.glob(pattern))]
    return tuple(dict.fromkeys(started + there))


def hidden_by(backends: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """The variable by which the user has hidden all GPUs of ``backends`` (``CUDA_VISIBLE_DEVICES=``, or -1); empty if
    one of the backends may still look for its own.
    """
    found = []
    for backend in backends:
        name, none = VISIBLE.get(backend, ("", ()))
        value = environment.get(name)
        found.append(name if value is not None and value.strip().lower() in none else "")
    return found[0] if found and all(found) else ""


def refusal() -> str:
    """Why a backend found no GPU when the engine started, in its own words; empty if it gave no reason.

    >>> _cause("ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected")
    'no CUDA-capable device is detected'
    """
    return next((_cause(text) for text in starting() if "failed to initialize" in text), "")


def _cause(text: str) -> str:
    return text.rpartition(": ")[2].strip()


def _registries() -> list[tuple[str, int]]:
    """Names of backends, each with its number of devices."""
    lib = ggml()
    entries = [lib.ggml_backend_reg_get(number) for number in range(lib.ggml_backend_reg_count())]
    return [
        (lib.ggml_backend_reg_name(entry).decode("utf-8", "replace"), lib.ggml_backend_reg_dev_count(entry))
        for entry in entries
    ]

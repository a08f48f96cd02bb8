"""CUDA's devices that cannot be used, asked of CUDA itself before ggml ends the process over them."""

from __future__ import annotations

import ctypes
import os
from functools import cache

from ggufrun.native.binding import bind_if_exported
from ggufrun.native.library import llama
from ggufrun.native.signatures import CudaRuntime

RUNTIMES = ("libcudart.so.13", "libcudart.so.12")
"""CUDA's runtime, as ggml-cuda asks the loader for it."""


@cache
def refusals() -> dict[str, str]:
    """CUDA's devices on which no program can begin, by name, and why. ggml ends a process that asks one of them for its
    memory, and llama.cpp asks all of them; so whoever opens a model names the others.
    """
    llama()
    runtime = _runtime()
    count = ctypes.c_int()
    if runtime is None or runtime.cudaGetDeviceCount(ctypes.byref(count)):
        return {}
    found, usable = {}, []
    for index in range(count.value):
        memory = ctypes.c_size_t(), ctypes.c_size_t()
        status = runtime.cudaSetDevice(index) or runtime.cudaMemGetInfo(*map(ctypes.byref, memory))
        if status:
            found[f"CUDA{index}"] = runtime.cudaGetErrorString(status).decode("utf-8", "replace")
        else:
            usable.append(index)
    runtime.cudaSetDevice(usable[0] if usable else 0)
    # an error stays until it is fetched, and ggml would take it for its own
    runtime.cudaGetLastError()
    return found


def _runtime() -> CudaRuntime | None:
    """CUDA's runtime, if ggml-cuda has loaded it."""
    if not hasattr(os, "RTLD_NOLOAD"):
        return None
    for name in RUNTIMES:
        try:
            return bind_if_exported(CudaRuntime, ctypes.CDLL(name, mode=os.RTLD_NOW | os.RTLD_NOLOAD))
        except OSError:
            pass
    return None

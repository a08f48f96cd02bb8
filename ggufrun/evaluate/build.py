"""Facts about the engine that is installed: its version, what it was built for, the devices it sees.

Loads the native library. A build for another processor may end the process, so whoever reports on a machine calls this
in a process of its own.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from ggufrun.engine.placement.devices import Device, devices, gpu_backends, hidden_by, refusal
from ggufrun.native.kernels import STOCK, kernels
from ggufrun.native.library import llama


@dataclass(frozen=True)
class EngineBuild:
    """``features`` are the backends and instruction sets of ``llama_print_system_info``, those that are on. ``refusal``
    is why a backend found no GPU, ``hidden_by`` the variable by which the user hid them all. ``kernels`` names what
    multiplies quantized weights on the processor.
    """

    version: str
    features: tuple[str, ...]
    devices: tuple[Device, ...]
    rpc: bool
    gpu_backends: tuple[str, ...]
    refusal: str = ""
    hidden_by: str = ""
    kernels: str = STOCK


def parse_system_info(text: str) -> tuple[str, ...]:
    """``CPU : AVX = 1 | AVX2 = 0 | CUDA : ARCHS = 900 |`` -> ``("AVX", "ARCHS=900")``."""
    found = []
    for part in text.split("|"):
        name, _, value = part.rpartition(":")[2].partition("=")
        if value.strip() not in ("", "0"):
            found.append(name.strip() if value.strip() == "1" else f"{name.strip()}={value.strip()}")
    return tuple(found)


def engine_build() -> EngineBuild:
    """What is installed. Raises EngineError when the engine is missing or cannot be loaded."""
    api = llama()
    built = gpu_backends()
    return EngineBuild(
        version=importlib.metadata.version("llama-cpp-python"),
        features=parse_system_info(api.llama_print_system_info().decode("utf-8", "replace")),
        devices=devices(),
        rpc=bool(api.llama_supports_rpc()),
        gpu_backends=built,
        refusal=refusal(),
        hidden_by=hidden_by(built),
        kernels=kernels(),
    )

"""Where the parts of a model go: how many layers, on which device, and what stays with the processor."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ggufrun.engine.placement.devices import devices, has_gpu
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.cuda import refusals
from ggufrun.native.library import ggml, llama
from ggufrun.native.structures import BufferOverride

ALL_LAYERS = 999
"""More layers than any model has, as llama.cpp's users write it."""

NO_DEVICE = -1
"""The main device, without a split, by which the engine leaves all of them alone."""

SPLITS: dict[str, int] = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
"""``enum llama_split_mode``."""

EXPERTS = r"\.ffn_(up|down|gate_up|gate)_(ch|)exps"
"""The tensors of experts: most of a mixture's weights, of which each token uses a few."""

CPU = 0
"""``GGML_BACKEND_DEVICE_TYPE_CPU``."""

MANY = 512
"""Layers from which on ``cpu_experts`` means all of them."""


@dataclass(frozen=True)
class Placement:
    """What goes where, beside the number of layers; the flags are llama.cpp's.

    ``shares`` (-ts) are the devices' shares in the engine's order, ``main`` (-mg) is the one that is used without a
    split, ``overrides`` (-ot) are (regular expression, name of a buffer type), and the experts of the first
    ``cpu_experts`` layers (-ncmoe) stay with the processor. ``devices`` (-dev) are names; without any the engine takes
    all GPUs, those that are part of the processor only where there is no other. ``none`` means none.
    """

    split: str = "layer"
    shares: tuple[float, ...] = ()
    main: int = 0
    overrides: tuple[tuple[str, str], ...] = ()
    cpu_experts: int = 0
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UsageError(f"-sm {self.split} is not a split mode", f"choose from {', '.join(SPLITS)}")
        if any(not 0 <= share < math.inf for share in self.shares) or (self.shares and not any(self.shares)):
            raise UsageError("-ts wants shares such as 3,1", "give one number a device, none of them negative")
        if self.cpu_experts < 0:
            raise UsageError(f"-ncmoe is {self.cpu_experts}", "give a number of layers")
        for pattern, _ in self.overrides:
            try:
                re.compile(pattern)
            except re.error as error:
                what = f"-ot {pattern!r} is not a regular expression: {error}"
                raise UsageError(what, "the tensors' names: `ggufrun inspect --tensors`") from error

    def apply(self, native: Any) -> list[Any]:
        """Write this into a ``llama_model_params``; returns what must live as long as the model. Raises UsageError."""
        native.split_mode = SPLITS[self.split]
        native.main_gpu = self.main
        kept: list[Any] = []
        # the memory that CUDA pins belongs to its first device, whose driver is asked about it
        native.no_host = native.no_host or bool(refusals())
        if self.devices or refusals():
            pointers = self._pointers()
            chosen = (ctypes.c_void_p * (len(pointers) + 1))(*pointers)
            native.devices = ctypes.cast(chosen, ctypes.c_void_p)
            kept.append(chosen)
        if wanted := self.shares or _of_nothing():
            size = int(llama().llama_max_devices())
            if len(wanted) > size:
                raise UsageError(f"-ts gives {len(wanted)} shares", f"this engine knows {size} devices at most")
            shares = (ctypes.c_float * size)(*wanted)
            native.tensor_split = ctypes.cast(shares, type(native.tensor_split))
            kept.append(shares)
        pairs = [*self.overrides]
        if self.cpu_experts >= MANY:
            pairs.append((EXPERTS, "CPU"))
        else:
            pairs += [(rf"blk\.{layer}{EXPERTS}", "CPU") for layer in range(self.cpu_experts)]
        if pairs:
            rows = (BufferOverride * (len(pairs) + 1))()
            known = buffer_types()
            for row, (pattern, name) in zip(rows, pairs, strict=False):
                if name not in known:
                    raise UsageError(f"-ot: there is no buffer type {name}", f"choose from {', '.join(known)}")
                row.pattern, row.buft = pattern.encode(), known[name]
            native.tensor_buft_overrides = ctypes.cast(rows, ctypes.c_void_p)
            kept.append(rows)
        return kept

    def _pointers(self) -> list[int]:
        """The devices by their names. Raises UsageError."""
        if self.devices == ("none",):
            return []
        known = {name: pointer for name, pointer, kind in device_pointers() if kind != CPU}
        for name in self.devices:
            if name not in known:
                raise UsageError(f"-dev: there is no device {name}", f"choose from {', '.join([*known, 'none'])}")
            if why := refusals().get(name):
                raise EngineError(f"{name} cannot be used: {why}", "`ggufrun doctor` knows more")
        return [known[name] for name in dict.fromkeys(self.devices or _usual())]


def _usual() -> list[str]:
    """The devices that llama.cpp takes by itself, in its order, without those that cannot be used."""
    gpus = [one for one in devices() if one.is_gpu]
    own = [one for one in gpus if one.kind == "gpu"] or gpus
    return [one.name for one in sorted(own, key=lambda one: not one.name.startswith("RPC"))]


def _of_nothing() -> tuple[float, ...]:
    """Even shares where nothing is free on any GPU: llama.cpp shares by what is free, and would divide by zero."""
    gpus = [one for one in devices() if one.is_gpu]
    return () if any(one.free for one in gpus) else (1.0,) * len(gpus)


def device_pointers() -> Iterator[tuple[str, int, int]]:
    """Name, pointer and ``enum ggml_backend_dev_type`` of every device."""
    lib = ggml()
    for index in range(lib.ggml_backend_dev_count()):
        device = lib.ggml_backend_dev_get(index)
        yield lib.ggml_backend_dev_name(device).decode("utf-8", "replace"), device, lib.ggml_backend_dev_type(device)


def buffer_types() -> dict[str, int]:
    """The devices' buffer types by name (``CPU``, ``CUDA0``), as -ot names them."""
    lib = ggml()
    found = {}
    for index in range(lib.ggml_backend_dev_count()):
        kind = lib.ggml_backend_dev_buffer_type(lib.ggml_backend_dev_get(index))
        if kind:
            found[lib.ggml_backend_buft_name(kind).decode("utf-8", "replace")] = kind
    return found


def gpu_layers(asked: int | None) -> int:
    """Layers to put on the GPU: what was asked for (negative: all), else all when there is a GPU, else none."""
    if not has_gpu():
        return 0
    return ALL_LAYERS if asked is None or asked < 0 else min(asked, ALL_LAYERS)


def on_devices(layers: int | None, placement: Placement) -> bool:
    """Does a GPU compute for a model that was opened so?"""
    return layers != 0 and placement.devices != ("none",) and has_gpu()


def goes_ahead(asked: int | None, placement: Placement, layers: int) -> bool:
    """Is everything computed on GPUs of this machine, so that they work on while the program does something else?"""
    whole = asked is None or asked < 0 or asked > layers
    if not whole or placement.overrides or placement.cpu_experts or not on_devices(asked, placement):
        return False
    used = [one.name for one in devices() if one.is_gpu]
    return not any(name.startswith("RPC") for name in placement.devices or used)

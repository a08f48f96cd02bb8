"""Where the parts of a model go: how many layers, on which device, and what stays with the processor."""

from __future__ import annotations

import ctypes
import math
import re
from dataclasses import dataclass
from typing import Any

from ggufrun.engine.devices import has_gpu
from ggufrun.engine.native import ggml, llama
from ggufrun.errors import UsageError

ALL_LAYERS = 999
"""More layers than any model has, as llama.cpp's users write it."""

NO_DEVICE = -1
"""The main device, without a split, by which the engine leaves all of them alone."""

SPLITS: dict[str, int] = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
"""``enum llama_split_mode``."""

EXPERTS = r"\.ffn_(up|down|gate_up|gate)_(ch|)exps"
"""The tensors of experts: most of a mixture's weights, of which each token uses a few."""

MANY = 512
"""Layers from which on ``cpu_experts`` means all of them."""


@dataclass(frozen=True)
class Placement:
    """What goes where, beside the number of layers; the flags are llama.cpp's.

    ``shares`` (-ts) are the devices' shares in the engine's order, ``main`` (-mg) is the one that is used without a
    split, ``overrides`` (-ot) are (regular expression, name of a buffer type), and the experts of the first
    ``cpu_experts`` layers (-ncmoe) stay with the processor.
    """

    split: str = "layer"
    shares: tuple[float, ...] = ()
    main: int = 0
    overrides: tuple[tuple[str, str], ...] = ()
    cpu_experts: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UsageError(f"-sm {self.split} is no way to split", f"choose from {', '.join(SPLITS)}")
        if any(not 0 <= share < math.inf for share in self.shares) or (self.shares and not any(self.shares)):
            raise UsageError("-ts wants shares such as 3,1", "give one number a device, none of them negative")
        if self.cpu_experts < 0:
            raise UsageError(f"-ncmoe is {self.cpu_experts}", "give a number of layers")
        for pattern, _ in self.overrides:
            try:
                re.compile(pattern)
            except re.error as error:
                what = f"-ot {pattern!r} is no regular expression: {error}"
                raise UsageError(what, "the tensors' names: `ggufrun inspect --tensors`") from error

    def apply(self, native: Any) -> list[Any]:
        """Write this into a ``llama_model_params``; returns what must live as long as the model. Raises UsageError."""
        native.split_mode = SPLITS[self.split]
        native.main_gpu = self.main
        kept: list[Any] = []
        if self.shares:
            size = int(llama().llama_max_devices())
            if len(self.shares) > size:
                raise UsageError(f"-ts gives {len(self.shares)} shares", f"this engine knows {size} devices at most")
            shares = (ctypes.c_float * size)(*self.shares)
            native.tensor_split = ctypes.cast(shares, type(native.tensor_split))
            kept.append(shares)
        pairs = [*self.overrides]
        if self.cpu_experts >= MANY:
            pairs.append((EXPERTS, "CPU"))
        else:
            pairs += [(rf"blk\.{layer}{EXPERTS}", "CPU") for layer in range(self.cpu_experts)]
        if pairs:
            rows = (_Override * (len(pairs) + 1))()
            known = buffer_types()
            for row, (pattern, name) in zip(rows, pairs, strict=False):
                if name not in known:
                    raise UsageError(f"-ot: there is no buffer type {name}", f"choose from {', '.join(known)}")
                row.pattern, row.buffer_type = pattern.encode(), known[name]
            native.tensor_buft_overrides = ctypes.cast(rows, ctypes.c_void_p)
            kept.append(rows)
        return kept


class _Override(ctypes.Structure):
    """``llama_model_tensor_buft_override``; a row of nulls ends the list."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


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

"""Values for the tensors of a recorded checkpoint, which the recording command and the test both make."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt


def values(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """What is in the tensor: norms around one, small biases, matrices that keep the size of what they are applied to.

    All values are bfloat16's, so that every float type holds them exactly.
    """
    random = np.random.default_rng(zlib.crc32(name.encode()))
    noise = random.standard_normal(shape).astype(np.float32)
    if len(shape) < 2 or shape[-1] == 1:
        around_one = "norm" in name or name.endswith((".scale", "scalar", ".D", "per_expert_scale"))
        found = noise * np.float32(0.2) + np.float32(around_one)
    elif "embed" in name or ".wte." in name:
        found = noise
    else:
        found = noise / np.float32(shape[-1] ** 0.5)
    bits = found.astype(np.float32).view(np.uint32)
    rounded: npt.NDArray[np.uint32] = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.view(np.float32)


def stored(dtype: str, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The tensor's values as a safetensors file holds them."""
    found = values(name, shape)
    match dtype:
        case "F32":
            return found
        case "BF16":
            return (found.view(np.uint32) >> 16).astype(np.uint16)
        case "F16":
            return found.astype(np.float16)
    raise ValueError(f"no values are made of the type {dtype}")

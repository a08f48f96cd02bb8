"""Floats of 4 bits (E2M1), two in a byte, the first in the low half: NVFP4 and MXFP4 by compressed-tensors and others.

NVFP4 has a scale in FP8 (E4M3) for 16 values and one in F32 for the tensor; it multiplies in Model Optimizer's files
(``weight_scale_2``) and divides in compressed-tensors' (``weight_global_scale``). MXFP4 has an exponent for 32 values.

Source: OCP's "Microscaling Formats (MX)" specification; NVIDIA's and compressed-tensors' documentation and files.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from ggufrun.checkpoint.quantized.blocks import (
    MXFP4,
    MXFP4_VALUES,
    NVFP4,
    NVFP4_BYTES,
    NVFP4_SCALES,
    NVFP4_VALUES,
    widened,
)
from ggufrun.checkpoint.quantized.module import AGAIN, Module, floats_of
from ggufrun.checkpoint.quantized.mxfp4 import in_blocks
from ggufrun.checkpoint.tensor import BlockScale, Rows, Tensor
from ggufrun.errors import FormatError, UnsupportedError

SIGN = np.uint8(0x80)
MXFP6_BYTES = 24
"""Of 32 values of 6 bits."""


def read_nvfp4(module: Module, packed: Tensor, overall: str) -> Tensor:
    """A weight whose scale of the whole is the part ``overall``, if it has one, in ggml's blocks. FormatError."""
    scale = module.part("_scale", "F8_E4M3")
    *outer, half = packed.shape
    columns = 2 * half
    if scale.shape != (*outer, columns // NVFP4_VALUES) or columns % NVFP4_VALUES:
        raise module.wrong_shape("_scale", (*outer, columns // NVFP4_VALUES))
    # a block of ggml's takes four scales: the last of a row may be filled up
    missing = -scale.n_per_row % NVFP4_SCALES
    whole = _overall(module, packed, overall)

    def rows(start: int, stop: int) -> Rows:
        scales, values = scale.rows(start, stop), packed.rows(start, stop)
        if (scales > SIGN).any():
            raise FormatError(f"{scale.name} has a scale below zero", AGAIN)
        if missing:
            scales = np.pad(scales, ((0, 0), (0, missing)))
            values = np.pad(values, ((0, 0), (0, missing * NVFP4_VALUES // 2)))
        return in_nvfp4_blocks(values, scales & ~SIGN)

    tensor = Tensor(module.name, NVFP4, (*outer, columns), rows, scale=whole)
    if not missing:
        return tensor
    padded = widened(replace(tensor, shape=(*outer, columns + missing * NVFP4_VALUES)))
    return replace(
        padded,
        shape=(*outer, columns),
        rows=lambda start, stop: np.ascontiguousarray(padded.rows(start, stop)[:, :columns]),
    )


def in_nvfp4_blocks(packed: Rows, scales: Rows) -> Rows:
    """Packed values, 8 bytes for each of ``scales`` (rows, scales), as ggml's blocks: (rows, bytes)."""
    n_rows, count = scales.shape
    values = packed.reshape(n_rows * count, NVFP4_VALUES // 2)
    low, high = values & 0x0F, values >> 4
    found = np.empty((n_rows * count // NVFP4_SCALES, NVFP4_BYTES), np.uint8)
    found[:, :NVFP4_SCALES] = scales.reshape(-1, NVFP4_SCALES)
    mixed = np.empty_like(values)
    # the first 8 values are in the first 4 bytes, by twos
    mixed[:, 0::2] = low[:, :4] | (low[:, 4:] << 4)
    mixed[:, 1::2] = high[:, :4] | (high[:, 4:] << 4)
    found[:, NVFP4_SCALES:] = mixed.reshape(len(found), NVFP4_BYTES - NVFP4_SCALES)
    return found.reshape(n_rows, count // NVFP4_SCALES * NVFP4_BYTES)


def _overall(module: Module, packed: Tensor, ending: str) -> BlockScale | None:
    """The scale of the tensor, or of each matrix in it."""
    found = module.maybe(ending, "F32", "F16", "BF16")
    if found is None:
        return None
    if found.n_values not in (1, prod(packed.shape[:-2])):
        raise module.wrong_shape(ending, (1,))
    values = floats_of(found, 0, found.n_rows).reshape(-1)
    return BlockScale(tuple(values.tolist()), divides=ending == "_global_scale")


def read_mxfp4(module: Module, packed: Tensor) -> Tensor:
    """A weight with one exponent for 32 values, in ggml's blocks. FormatError, UnsupportedError."""
    scale = module.part("_scale", "U8", "F8_E8M0")
    *outer, half = packed.shape
    count = scale.n_per_row
    if half == count * MXFP6_BYTES:
        raise UnsupportedError(
            "the checkpoint is quantized to MXFP6, which ggufrun does not read", "convert the original checkpoint"
        )
    if scale.shape != (*outer, 2 * half // MXFP4_VALUES) or 2 * half % MXFP4_VALUES:
        raise module.wrong_shape("_scale", (*outer, 2 * half // MXFP4_VALUES))

    def rows(start: int, stop: int) -> Rows:
        return in_blocks(packed.rows(start, stop), scale.rows(start, stop))

    return Tensor(module.name, MXFP4, (*outer, 2 * half), rows)

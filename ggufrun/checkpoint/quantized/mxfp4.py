"""Weights in MXFP4, as gpt-oss has its experts: repacked into ggml's blocks, bit for bit, not computed again.

A block is 32 values of 4 bits (E2M1) with one exponent of 8 bits. A checkpoint keeps the values of a tensor in
``NAME_blocks``, uint8 of shape (..., rows, blocks, 16), value 2k in the low half of byte k and 2k + 1 in the high one,
and the exponents in ``NAME_scales``, uint8 of shape (..., rows, blocks). ggml's ``block_mxfp4`` is the exponent and
then 16 bytes, byte k with value k in its low half and value k + 16 in its high one.

Source: OCP's "Microscaling Formats (MX)" specification, ``block_mxfp4`` in ggml-common.h, the published checkpoints.
"""

from __future__ import annotations

import numpy as np

from ggufrun.checkpoint.quantized.blocks import MXFP4, MXFP4_BYTES, MXFP4_VALUES
from ggufrun.checkpoint.quantized.module import AGAIN, Module
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.errors import FormatError


def read(module: Module) -> Tensor:
    """The two tensors as one of type MXFP4. FormatError where they do not fit each other."""
    blocks, scales = module.parts["_blocks"], module.part("_scales", "U8")
    if (
        blocks.dtype != "U8"
        or len(blocks.shape) < 3
        or blocks.shape != (*scales.shape, MXFP4_BYTES)
        or not blocks.n_values
    ):
        raise FormatError(
            f"{blocks.name} is {blocks.dtype} {blocks.shape}, {scales.name} {scales.dtype} {scales.shape}", AGAIN
        )
    *outer, count = scales.shape

    def rows(start: int, stop: int) -> Rows:
        return in_blocks(blocks.rows(start * count, stop * count), scales.rows(start, stop))

    return Tensor(module.name, MXFP4, (*outer, count * MXFP4_VALUES), rows)


def in_blocks(packed: Rows, exponents: Rows) -> Rows:
    """Packed values, 16 bytes for each of ``exponents`` (rows, blocks), as ggml's blocks: (rows, bytes)."""
    n_rows, count = exponents.shape
    values = packed.reshape(n_rows * count, MXFP4_BYTES)
    low, high = values & 0x0F, values >> 4
    found = np.empty((n_rows * count, 1 + MXFP4_BYTES), np.uint8)
    found[:, 0] = exponents.reshape(-1)
    # the first 16 values are in the first 8 bytes, by twos
    found[:, 1::2] = low[:, :8] | (low[:, 8:] << 4)
    found[:, 2::2] = high[:, :8] | (high[:, 8:] << 4)
    return found.reshape(n_rows, count * (1 + MXFP4_BYTES))

"""Weights in MXFP4, as gpt-oss has its experts: repacked into ggml's blocks, bit for bit, not computed anew.

A block is 32 values of 4 bits (E2M1) with one exponent of 8 bits. A checkpoint keeps the values of a tensor in
``NAME_blocks``, uint8 of shape (..., rows, blocks, 16), value 2k in the low half of byte k and 2k + 1 in the high one,
and the exponents in ``NAME_scales``, uint8 of shape (..., rows, blocks). ggml's ``block_mxfp4`` is the exponent and
then 16 bytes, byte k with value k in its low half and value k + 16 in its high one.

Source: OCP's "Microscaling Formats (MX)" specification, ``block_mxfp4`` in ggml-common.h, the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.errors import FormatError

BLOCKS, SCALES = "_blocks", "_scales"
BYTES, VALUES = 16, 32
"""Of a block, without its exponent."""


def repacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with each pair of blocks and scales as one of type MXFP4; these first, as in llama.cpp's converter.

    FormatError where the two do not fit each other.
    """
    pairs = {}
    for name, scales in tensors.items():
        stem = name.removesuffix(SCALES)
        if stem != name and stem + BLOCKS in tensors:
            pairs[stem] = _repacked(stem, tensors[stem + BLOCKS], scales)
    used = {stem + ending for stem in pairs for ending in (BLOCKS, SCALES)}
    return pairs | {name: tensor for name, tensor in tensors.items() if name not in used}


def _repacked(name: str, blocks: Tensor, scales: Tensor) -> Tensor:
    if (
        (blocks.dtype, scales.dtype) != ("U8", "U8")
        or len(blocks.shape) < 3
        or blocks.shape != (*scales.shape, BYTES)
        or not blocks.n_values
    ):
        raise FormatError(
            f"{blocks.name} is {blocks.dtype} {blocks.shape}, {scales.name} {scales.dtype} {scales.shape}",
            "download them again",
        )
    *outer, count = scales.shape

    def rows(start: int, stop: int) -> Rows:
        values = blocks.rows(start * count, stop * count)
        low, high = values & 0x0F, values >> 4
        found = np.empty((values.shape[0], 1 + BYTES), np.uint8)
        found[:, 0] = scales.rows(start, stop).reshape(-1)
        # the first 16 values are in the first 8 bytes, by twos
        found[:, 1::2] = low[:, :8] | (low[:, 8:] << 4)
        found[:, 2::2] = high[:, :8] | (high[:, 8:] << 4)
        return found.reshape(stop - start, count * (1 + BYTES))

    return Tensor(name, "MXFP4", (*outer, count * VALUES), rows)

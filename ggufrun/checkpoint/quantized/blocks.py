"""Tensors in ggml's blocks of 4 bits, as the floats that they stand for."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.quantized.floats import Floats, e8m0_values, fp8_values, round_to
from ggufrun.checkpoint.tensor import Rows, Tensor

MXFP4, NVFP4 = "MXFP4", "NVFP4"
BLOCKS = (MXFP4, NVFP4)
"""Types of tensors that hold ggml's blocks."""

HALF_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = (*HALF_E2M1, *(-value for value in HALF_E2M1))
"""What four bits are worth."""

MXFP4_BYTES, MXFP4_VALUES = 16, 32
"""Of a block, without its exponent."""
NVFP4_SCALES, NVFP4_VALUES = 4, 16
"""Scales in a block, and the values that each is for; 8 bytes hold these, value k and k + 8 in byte k."""
NVFP4_BYTES = NVFP4_SCALES * (1 + NVFP4_VALUES // 2)


def widened(tensor: Tensor) -> Tensor:
    """A tensor as floats that are computed as they are read, itself where it does not hold blocks.

    BF16 holds the values of MXFP4 exactly; those of NVFP4 are rounded to it, as the libraries do.
    """
    if tensor.dtype not in BLOCKS:
        return tensor
    decode = _mxfp4 if tensor.dtype == MXFP4 else _nvfp4

    def rows(start: int, stop: int) -> Floats:
        return decode(tensor, start, stop).reshape(stop - start, tensor.n_per_row)

    return Tensor(tensor.name, "F32", tensor.shape, rows, "BF16")


def _mxfp4(tensor: Tensor, start: int, stop: int) -> Floats:
    blocks = tensor.rows(start, stop).reshape(-1, 1 + MXFP4_BYTES)
    values = _values(blocks[:, 1:])
    with np.errstate(all="ignore"):
        values *= e8m0_values(blocks[:, :1])
    return values


def _nvfp4(tensor: Tensor, start: int, stop: int) -> Floats:
    blocks = tensor.rows(start, stop).reshape(-1, NVFP4_BYTES)
    scales = fp8_values("F8_E4M3")[blocks[:, :NVFP4_SCALES]]
    values = _values(blocks[:, NVFP4_SCALES:].reshape(-1, NVFP4_VALUES // 2))
    with np.errstate(all="ignore"):
        if tensor.scale is not None:
            factors = np.array(tensor.scale.values, np.float32)
            height = tensor.n_rows // len(factors)
            each = np.repeat(factors[np.arange(start, stop) // height], tensor.n_per_row // NVFP4_VALUES)
            operation = np.divide if tensor.scale.divides else np.multiply
            operation(scales, each.reshape(scales.shape), out=scales)
        values *= scales.reshape(-1, 1)
    return round_to("BF16", values)


def _values(packed: Rows) -> Floats:
    """(blocks, bytes) as (blocks, values): the low halves of all bytes, then the high ones."""
    low, high = _halves()
    return np.concatenate([np.take(low, packed), np.take(high, packed)], axis=1)


@cache
def _halves() -> tuple[Floats, Floats]:
    codes: npt.NDArray[np.float32] = np.array(E2M1, np.float32)
    numbers = np.arange(256)
    return codes[numbers & 15], codes[numbers >> 4]

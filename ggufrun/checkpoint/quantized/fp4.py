"""Floats of 4 bits (E2M1), two in a byte, the first in the low half: NVFP4 and MXFP4 by compressed-tensors and others.

NVFP4 has a scale in FP8 (E4M3) for 16 values and one in F32 for the tensor; it multiplies in Model Optimizer's files
(``weight_scale_2``) and divides in compressed-tensors' (``weight_global_scale``). MXFP4 has an exponent for 32 values.

Source: OCP's "Microscaling Formats (MX)" specification; NVIDIA's and compressed-tensors' documentation and files.
"""

from __future__ import annotations

from functools import cache
from math import prod

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.quantized.floats import Floats, fp8_values, round_to
from ggufrun.checkpoint.quantized.module import Module, computed, floats_of, read_vector
from ggufrun.checkpoint.quantized.mxfp4 import in_blocks
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.errors import UnsupportedError

NVFP4_VALUES, MXFP4_VALUES, MXFP6_BYTES = 16, 32, 24
"""Of one scale; the last is the bytes of 32 values of 6 bits."""
HALF_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = (*HALF_E2M1, *(-value for value in HALF_E2M1))


def read_nvfp4(module: Module, packed: Tensor, overall: str) -> Tensor:
    """A weight whose scale of the whole is the part ``overall``, if it has one. FormatError."""
    scale = module.part("_scale", "F8_E4M3")
    *outer, half = packed.shape
    columns = 2 * half
    if scale.shape != (*outer, columns // NVFP4_VALUES) or columns % NVFP4_VALUES:
        raise module.wrong_shape("_scale", (*outer, columns // NVFP4_VALUES))
    factors = _overall(module, packed, overall)
    divides = overall == "_global_scale"
    height = packed.n_rows // len(factors)
    table = _pairs()

    def rows(start: int, stop: int) -> Rows:
        values: Floats = np.take(table, packed.rows(start, stop)).view(np.float32)
        scales = fp8_values("F8_E4M3")[scale.rows(start, stop)]
        whole = factors[np.arange(start, stop) // height, None]
        with np.errstate(all="ignore"):
            scales = scales / whole if divides else scales * whole
            view = values.reshape(stop - start, -1, NVFP4_VALUES)
            view *= scales[:, :, None]
        return round_to("BF16", values)

    return computed(module, (*outer, columns), rows, "BF16")


def _overall(module: Module, packed: Tensor, ending: str) -> Floats:
    """The scale of the tensor, or of each matrix in it."""
    found = module.maybe(ending, "F32", "F16", "BF16")
    if found is None:
        return np.ones(1, np.float32)
    if found.n_values not in (1, prod(packed.shape[:-2])):
        raise module.wrong_shape(ending, (1,))
    if found.n_values == 1:
        return floats_of(found, 0, 1).reshape(-1)
    read_vector(found)
    return floats_of(found, 0, found.n_rows).reshape(-1)


@cache
def _pairs() -> npt.NDArray[np.uint64]:
    """The two values of each byte, as one number to look up."""
    codes = np.array(E2M1, np.float32)
    numbers = np.arange(256)
    pairs = np.stack([codes[numbers & 15], codes[numbers >> 4]], axis=1)
    found: npt.NDArray[np.uint64] = pairs.view(np.uint64).reshape(-1)
    return found


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

    return Tensor(module.name, "MXFP4", (*outer, 2 * half), rows)

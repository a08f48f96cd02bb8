"""BitNet: weights of -1, 0 and 1 with one scale, four of them in a byte.

``weight`` is U8 (outputs / 4, inputs): byte row r holds rows r, r + n, r + 2 n and r + 3 n of the matrix, n being its
own number of rows, from the low bits up, each plus one. The scale of transformers' BitLinear divides, that of
AutoBitLinear multiplies; ``linear_class`` tells which it is.

Source: transformers' documentation of BitNet.
"""

from __future__ import annotations

import numpy as np

from ggufrun.checkpoint.quantized.floats import Floats
from ggufrun.checkpoint.quantized.module import Module, computed, precision_of, read_number
from ggufrun.checkpoint.tensor import Tensor

PER_BYTE = 4


def read(module: Module) -> Tensor:
    """The weight of a layer, (outputs, inputs). FormatError."""
    packed = module.part("", "U8", dimensions=2)
    scale = module.part("_scale", "F32", "F16", "BF16")
    number = np.float32(read_number(scale))
    with np.errstate(divide="ignore"):
        factor = number if module.settings.text("linear_class") == "autobitlinear" else np.float32(1) / number
    # as a product, so that a scale that is not a number stays one
    with np.errstate(invalid="ignore"):
        values = np.arange(-1, 3, dtype=np.float32) * factor
    tables = [values[np.arange(256) >> (2 * quarter) & 3] for quarter in range(PER_BYTE)]
    height, inputs = packed.shape

    def rows(start: int, stop: int) -> Floats:
        found = np.empty((stop - start, inputs), np.float32)
        for quarter in range(PER_BYTE):
            first, last = max(start, quarter * height), min(stop, (quarter + 1) * height)
            if first < last:
                stored = packed.rows(first - quarter * height, last - quarter * height)
                np.take(tables[quarter], stored, out=found[first - start : last - start])
        return found

    return computed(module, (height * PER_BYTE, inputs), rows, precision_of(scale))

"""ChatGLM's own quantization to 4 bits, as ChatGLM2-6B-INT4 has it.

``weight`` is I8 (outputs, inputs / 2), the first of two signed numbers in the high half of a byte; ``weight_scale`` is
(outputs). A weight is number * scale, rounded to the type of the scales. 8 bits are numbers with scales, as others have
them too. ``quantization_bit`` in config.json tells which it is.

Source: the documentation of ChatGLM-6B, and what its kernels for processors compute.
"""

from __future__ import annotations

import numpy as np

from ggufrun.checkpoint.quantized.floats import Floats, round_to
from ggufrun.checkpoint.quantized.module import Module, computed, floats_of, precision_of
from ggufrun.checkpoint.tensor import Tensor

METHOD = "chatglm"
"""The method by the name that ``settings`` gives it; the files have none."""


def read(module: Module) -> Tensor:
    """The weight of a layer, (outputs, inputs). FormatError."""
    packed, scale = module.part("", "I8", dimensions=2), module.part("_scale", "F16", "BF16", "F32")
    height, half = packed.shape
    if scale.shape != (height,):
        raise module.wrong_shape("_scale", (height,))
    precision = precision_of(scale)

    def rows(start: int, stop: int) -> Floats:
        stored = packed.rows(start, stop)
        found = np.empty((stop - start, 2 * half), np.float32)
        found[:, 0::2] = stored >> np.int8(4)
        found[:, 1::2] = (stored << np.int8(4)) >> np.int8(4)
        with np.errstate(over="ignore", invalid="ignore"):
            found *= floats_of(scale, 0, 1).reshape(-1)[start:stop, None]
        return round_to(precision, found)

    return computed(module, (height, 2 * half), rows, precision)

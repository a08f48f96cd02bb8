"""AWQ: 4 bits with zero points as they are, in the order of one of AutoAWQ's three kernels.

GEMM: ``qweight`` I32 (inputs, outputs / 8), ``qzeros`` I32 (groups, outputs / 8), ``scales`` (groups, outputs); of the
eight outputs in a word, number k is the four bits from ``SHIFTS[k]`` on. GEMV: ``qweight`` I32 (outputs, inputs / 8),
``qzeros`` (outputs, words), ``scales`` (outputs, 8 * words), in plain order, padded with groups that are not used. GEMV
fast: ``qweight`` I16 (outputs / 4, inputs), ``scales`` and ``qzeros`` F16 (groups, outputs), the zero points times
minus their scales. A weight is scale * (number - zero point), rounded to the type of the scales.

Source: AutoAWQ's documentation and files.
"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.quantized import affine
from ggufrun.checkpoint.quantized.bits import unpack
from ggufrun.checkpoint.quantized.floats import Floats, as_float32, round_to
from ggufrun.checkpoint.quantized.module import Module, computed, floats_of, precision_of
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.errors import FormatError, UnsupportedError

BITS, PER_WORD = 4, 8
SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)
INTERLEAVED, STRIDE = 4, 64
"""GEMV fast: so many outputs are in one row, in turns of so many inputs."""
FLOATS = ("F16", "BF16", "F32")


def read(module: Module) -> Tensor:
    """The weight of a layer, (outputs, inputs). FormatError, UnsupportedError."""
    said = module.settings.whole("bits", "w_bit", least=1, most=64)
    if said not in (None, BITS):
        raise UnsupportedError(
            f"{module.settings.file.name} says AWQ with {said} bits, of which ggufrun knows 4",
            "convert the original checkpoint",
        )
    weight = module.part(".qweight", "I32", "I16", dimensions=2)
    scales = module.part(".scales", *FLOATS, dimensions=2)
    if weight.dtype == "I16":
        return _gemv_fast(module, weight, scales)
    return _gemm(module, weight, scales) if weight.shape[0] != scales.shape[0] else _gemv(module, weight, scales)


def _gemm(module: Module, weight: Tensor, scales: Tensor) -> Tensor:
    inputs, outputs = weight.shape[0], weight.shape[1] * PER_WORD
    n_groups = scales.shape[0]
    if scales.shape[1] != outputs or inputs % n_groups:
        raise module.wrong_shape(".scales", f"({inputs} inputs in equal groups, {outputs})")
    zeros = module.maybe(".qzeros", "I32", dimensions=2)
    if zeros is not None and zeros.shape != (n_groups, weight.shape[1]):
        raise module.wrong_shape(".qzeros", (n_groups, weight.shape[1]))
    precision = precision_of(scales)

    def rows(start: int, stop: int) -> Floats:
        codes = _columns(module, weight, start, stop)
        points = 1 << (BITS - 1) if zeros is None else _columns(module, zeros, start, stop)
        factors = as_float32(scales.dtype, module.panels.columns(scales, start, stop))
        return affine.weights(codes, points, factors, None, precision)

    return computed(module, (outputs, inputs), rows, precision)


def _columns(module: Module, packed: Tensor, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Outputs ``start`` to ``stop`` of words that hold eight outputs each: (outputs, rows of ``packed``)."""
    first, last = start // PER_WORD, -(-stop // PER_WORD)
    words = module.panels.columns(packed, first, last).view(np.uint32)
    found = np.empty((last - first, PER_WORD, words.shape[1]), np.uint8)
    for index, shift in enumerate(SHIFTS):
        found[:, index] = (words >> np.uint32(shift)) & np.uint32(15)
    return found.reshape(-1, words.shape[1])[start - first * PER_WORD : stop - first * PER_WORD]


def _gemv(module: Module, weight: Tensor, scales: Tensor) -> Tensor:
    outputs, inputs = weight.shape[0], weight.shape[1] * PER_WORD
    zeros = module.part(".qzeros", "I32", dimensions=2)
    if zeros.shape != (outputs, scales.shape[1] // PER_WORD) or scales.shape[1] % PER_WORD:
        raise module.wrong_shape(".qzeros", (outputs, scales.shape[1] // PER_WORD))
    n_groups = inputs // _group_size(module, inputs, scales.shape[1])
    precision = precision_of(scales)

    def rows(start: int, stop: int) -> Floats:
        codes = unpack(weight.rows(start, stop).view(np.uint8), BITS)
        points = unpack(zeros.rows(start, stop).view(np.uint8), BITS)[:, :n_groups]
        factors = floats_of(scales, start, stop)[:, :n_groups]
        return affine.weights(codes, points, factors, None, precision)

    return computed(module, (outputs, inputs), rows, precision)


def _gemv_fast(module: Module, weight: Tensor, scales: Tensor) -> Tensor:
    outputs, inputs = weight.shape[0] * INTERLEAVED, weight.shape[1]
    zeros = module.part(".qzeros", *FLOATS, dimensions=2)
    if scales.shape[1] != outputs or inputs % STRIDE:
        raise module.wrong_shape(".scales", f"(groups, {outputs})")
    if zeros.shape != scales.shape:
        raise module.wrong_shape(".qzeros", scales.shape)
    n_groups = inputs // _group_size(module, inputs, scales.shape[0])
    precision = precision_of(scales)

    def rows(start: int, stop: int) -> Floats:
        first, last = start // INTERLEAVED, -(-stop // INTERLEAVED)
        codes = _fast_codes(weight.rows(first, last))[start - first * INTERLEAVED : stop - first * INTERLEAVED]
        found: Floats = codes.astype(np.float32).reshape(stop - start, n_groups, -1)
        for part, operation in ((scales, np.multiply), (zeros, np.add)):
            values = as_float32(part.dtype, module.panels.columns(part, start, stop))[:, :n_groups, None]
            with np.errstate(over="ignore", invalid="ignore"):
                operation(found, values, out=found)
        return round_to(precision, found.reshape(stop - start, inputs))

    return computed(module, (outputs, inputs), rows, precision)


def _fast_codes(packed: Rows) -> npt.NDArray[np.uint8]:
    """(rows of four outputs, inputs) words of 16 bits as (outputs, inputs) numbers."""
    rows, inputs = packed.shape
    # a turn is STRIDE inputs of each of the four outputs, one after the other, four numbers in a word
    words = packed.view(np.uint16).reshape(rows, inputs // STRIDE, STRIDE)
    nibbles = np.stack([(words >> np.uint16(4 * index)) & np.uint16(15) for index in range(4)], axis=-1)
    turns = nibbles.astype(np.uint8).reshape(rows, inputs // STRIDE, INTERLEAVED, STRIDE)
    flat = turns.transpose(0, 2, 1, 3).reshape(rows * INTERLEAVED, inputs // 32, 4, 2, 4)
    # eight numbers lie as 0 2 4 6 1 3 5 7, and of 32 every second pair first
    pairs = flat.swapaxes(3, 4).reshape(rows * INTERLEAVED, inputs // 32, 4, 4, 2)
    found: npt.NDArray[np.uint8] = pairs.swapaxes(2, 3).reshape(rows * INTERLEAVED, inputs)
    return found


def _group_size(module: Module, inputs: int, n_padded: int) -> int:
    """Inputs in a group; the shapes do not tell where groups were added to fill words."""
    said = module.settings.whole("group_size", "q_group_size", least=-1)
    size = inputs if said == -1 else said
    if size is None or size <= 0 or inputs % size or inputs // size > n_padded:
        raise FormatError(
            f"{module.stem} has {inputs} inputs, and {module.settings.file.name} says groups of {said}",
            "config.json does not belong to these weights",
        )
    return size


def is_awq(module: Module) -> bool:
    """Do the shapes fit one of the three orders?"""
    weight, scales = module.parts[".qweight"], module.parts.get(".scales")
    if scales is None or len(weight.shape) != 2 or len(scales.shape) != 2:
        return False
    return weight.dtype == "I16" or weight.shape[0] == scales.shape[0] or prod(scales.shape[1:]) == 8 * weight.shape[1]

"""compressed-tensors' pack-quantized: whole numbers of 1 to 8 bits in words of 32, with scales and zero points.

``weight_packed`` is I32 (outputs, words), ``weight_shape`` the two sizes, ``weight_scale`` (outputs, groups), (outputs,
1) or one value, ``weight_zero_point`` packed along the outputs, I32 (words, groups). Numbers are a stream of bits; in
files of older releases, those that do not divide 32 leave the rest of a word empty. A number is less by half the range
than what is stored. A weight is scale * (number - zero point), rounded to the type of the scales.

Source: compressed-tensors' documentation and files.
"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.quantized import affine
from ggufrun.checkpoint.quantized.bits import unpack
from ggufrun.checkpoint.quantized.floats import Floats
from ggufrun.checkpoint.quantized.module import AGAIN, Module, computed, floats_of, precision_of, read_vector
from ggufrun.checkpoint.quantized.settings import objects
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.errors import FormatError

WORD = 32
BITS = (4, 8, 3, 2, 6, 5, 7, 1)
"""In the order in which they are tried where shapes and settings leave several."""


def read(module: Module) -> Tensor:
    """The weight of a layer, (outputs, inputs). FormatError."""
    packed = module.part("_packed", "I32", dimensions=2)
    outputs, inputs = _shape(module, packed)
    bits, dense = _bits(module, packed.shape[1], inputs)
    scale = module.part("_scale", "F16", "BF16", "F32")
    n_groups, groups = _groups(module, scale, outputs, inputs)
    zero = _zero_point(module, bits, dense, outputs, n_groups)
    precision = precision_of(scale)
    middle = 1 << (bits - 1)

    def rows(start: int, stop: int) -> Floats:
        codes = _numbers(packed.rows(start, stop), bits, dense)[:, :inputs]
        if scale.n_rows == outputs:
            factors = floats_of(scale, start, stop)
        else:
            factors = np.resize(floats_of(scale, 0, scale.n_rows).reshape(-1), (outputs, n_groups))[start:stop]
        points: npt.NDArray[np.number] | int = middle
        if zero is not None:
            points = _points(zero, bits, dense, start, stop)
        return affine.weights(codes, points, factors, groups, precision)

    return computed(module, (outputs, inputs), rows, precision)


def _shape(module: Module, packed: Tensor) -> tuple[int, int]:
    stated = module.part("_shape", "I64", "I32")
    if stated.n_values != 2:
        raise module.wrong_shape("_shape", (2,))
    outputs, inputs = (int(size) for size in read_vector(stated))
    if outputs != packed.shape[0] or not 0 < inputs <= packed.shape[1] * WORD:
        raise FormatError(
            f"{stated.name} says ({outputs}, {inputs}), and {packed.name} has the shape {packed.shape}", AGAIN
        )
    return outputs, inputs


def _words(count: int, bits: int, dense: bool) -> int:
    """The words that so many numbers take."""
    return -(-count * bits // WORD) if dense else -(-count // (WORD // bits))


def _bits(module: Module, width: int, inputs: int) -> tuple[int, bool]:
    """Bits of a number, and whether words are filled: what makes ``inputs`` numbers so wide."""
    weights = [group.get("weights") for group in objects(module.settings.values.get("config_groups"))]
    said = [part.get("num_bits") for part in weights if isinstance(part, dict)]
    order = [*(bits for bits in BITS if bits in said), *(bits for bits in BITS if bits not in said)]
    for dense in (True, False):
        for bits in order:
            if _words(inputs, bits, dense) == width:
                return bits, dense
    raise module.wrong_shape("_packed", f"the words of {inputs} numbers of {' or '.join(map(str, said or BITS))} bits")


def _numbers(words: Rows, bits: int, dense: bool) -> npt.NDArray[np.uint8]:
    """(rows, words) as (rows, numbers)."""
    if dense:
        missing = -words.shape[1] % bits if bits not in (1, 2, 4, 8) else 0
        filled = np.pad(words, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(words)
        return unpack(filled.view(np.uint8), bits)
    each = WORD // bits
    shifts = np.arange(each, dtype=np.uint32) * np.uint32(bits)
    numbers = (np.ascontiguousarray(words).view(np.uint32)[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)
    found: npt.NDArray[np.uint8] = numbers.astype(np.uint8).reshape(words.shape[0], -1)
    return found


def _groups(module: Module, scale: Tensor, outputs: int, inputs: int) -> tuple[int, affine.Groups | None]:
    """How many groups a row has, and that of each input, None where they are equal and in order."""
    if prod(scale.shape) == 1 or scale.shape == (outputs,):
        n_groups = 1
    elif len(scale.shape) == 2 and scale.shape[0] == outputs:
        n_groups = scale.shape[1]
    else:
        raise module.wrong_shape("_scale", f"({outputs}, groups)")
    order = module.maybe("_g_idx", "I32", "I64", dimensions=1)
    if order is not None:
        if order.shape != (inputs,):
            raise module.wrong_shape("_g_idx", (inputs,))
        found = read_vector(order).astype(np.int64)
        # -1 says that the order was not kept because it is the plain one
        if found.min() >= 0:
            if found.max() >= n_groups:
                raise FormatError(f"{order.name} names group {found.max()} of {n_groups}", AGAIN)
            return n_groups, found
    if inputs % n_groups:
        raise module.wrong_shape("_scale", f"equal groups of {inputs} inputs")
    return n_groups, None


def _zero_point(module: Module, bits: int, dense: bool, outputs: int, n_groups: int) -> Tensor | None:
    zero = module.maybe("_zero_point", "I32", "I8", "I64")
    if zero is None:
        return None
    expected = (_words(outputs, bits, dense), n_groups) if zero.dtype == "I32" else module.parts["_scale"].shape
    if zero.shape != expected:
        raise module.wrong_shape("_zero_point", expected)
    return zero


def _points(zero: Tensor, bits: int, dense: bool, start: int, stop: int) -> npt.NDArray[np.number]:
    """The zero points of rows ``start`` to ``stop``, as they are stored: (rows, groups)."""
    if zero.dtype != "I32":
        plain: Floats = zero.rows(0, zero.n_rows).astype(np.float32) + np.float32(1 << (bits - 1))
        return plain.reshape(-1, 1) if plain.size == 1 else plain.reshape(zero.shape[0], -1)[start:stop]
    each = WORD // bits
    first, last = (start // WORD * bits, -(-stop // WORD) * bits) if dense else (start // each, -(-stop // each))
    skipped = start % WORD if dense else start % each
    words = np.ascontiguousarray(zero.rows(first, min(last, zero.shape[0])).T)
    found: npt.NDArray[np.number] = _numbers(words, bits, dense)[:, skipped : skipped + stop - start].T
    return found

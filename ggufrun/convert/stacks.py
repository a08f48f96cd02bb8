"""Tensors put together into one, such as the matrices of a layer's experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ggufrun.checkpoint.quantized.blocks import widened
from ggufrun.checkpoint.quantized.floats import CONVERTERS, as_float32
from ggufrun.checkpoint.tensor import BlockScale, Rows, Tensor
from ggufrun.errors import FormatError, UnsupportedError


def stacked(name: str, tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as one with a new first dimension; of several types, as where some experts are quantized, in
    F32."""
    directions = {tensor.scale.divides for tensor in tensors if tensor.scale is not None}
    if len(directions) > 1 or any(tensor.dtype != tensors[0].dtype for tensor in tensors):
        tensors = [in_f32(tensor) for tensor in tensors]
    first = tensors[0]
    for tensor in tensors:
        if tensor.shape != first.shape:
            raise FormatError(
                f"{tensor.name} has the shape {tensor.shape}, {first.name} {first.shape}", "download them again"
            )
    each = first.n_rows

    def rows(start: int, stop: int) -> Rows:
        if start >= stop:
            return first.rows(0, 0)
        parts = [
            tensors[number].rows(max(start - number * each, 0), min(stop - number * each, each))
            for number in range(start // each, -(-stop // each))
        ]
        if len(first.shape) == 1:
            # a vector is one row
            parts = [part.reshape(1, -1) for part in parts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return replace(first, name=name, shape=(len(tensors), *first.shape), rows=rows, scale=_scales(tensors))


def in_f32(tensor: Tensor) -> Tensor:
    """The same values in F32, computed as they are read. UnsupportedError for values that are not floats."""
    plain = widened(tensor)
    if plain.dtype == "F32":
        return plain
    if plain.dtype not in CONVERTERS:
        raise UnsupportedError(f"{tensor.name} holds {tensor.dtype} values", "convert an unquantized checkpoint")
    return replace(
        plain,
        dtype="F32",
        rows=lambda start, stop: as_float32(plain.dtype, plain.rows(start, stop)),
        precision=plain.precision or plain.dtype,
    )


def _scales(tensors: Sequence[Tensor]) -> BlockScale | None:
    """The scales of blocks of several tensors, one for each of their matrices."""
    scales = [tensor.scale for tensor in tensors]
    if not any(scales):
        return None
    counts = [1 if len(tensor.shape) < 3 else tensor.shape[0] for tensor in tensors]
    found = [scale or BlockScale((1.0,)) for scale in scales]
    values = [value for scale, count in zip(found, counts, strict=True) for value in _spread(scale.values, count)]
    return BlockScale(tuple(values), any(scale.divides for scale in found))


def _spread(values: Sequence[float], count: int) -> Sequence[float]:
    return values if len(values) == count else [values[0]] * count

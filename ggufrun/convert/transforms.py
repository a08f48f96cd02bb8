"""Lazy changes to tensors: each returns new records whose rows are computed when they are read."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.quantized.blocks import widened
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.errors import FormatError, UnsupportedError

SLICE_ROWS = 4096
"""Rows that are read at a time where all must be seen before the first can be written."""

Order = npt.NDArray[np.int64]
"""Which row of the source each row of the result is."""


def renamed(tensor: Tensor, name: str) -> Tensor:
    """The same tensor under another name."""
    return replace(tensor, name=name)


def row_numbers(tensor: Tensor, *shape: int) -> Order:
    """The numbers of a tensor's rows (of a vector's values) in an array of ``shape``, which must hold all of them."""
    n_rows = tensor.shape[0] if len(tensor.shape) == 1 else tensor.n_rows
    if prod(shape) != n_rows:
        raise FormatError(
            f"{tensor.name} has {n_rows} rows, {' x '.join(map(str, shape))} were expected",
            "config.json does not fit the weights",
        )
    return np.arange(n_rows).reshape(shape)


def take_rows(tensor: Tensor, order: Order, shape: tuple[int, ...] | None = None) -> Tensor:
    """Some rows of a tensor (values of a vector), in the order of their numbers in ``order``.

    ``shape`` is that of the result where it has more than two dimensions. Rows that lie together are read together.
    """
    if tensor.scale is not None and len(tensor.scale.values) > 1:
        # rows would leave the matrix that their scale is for
        tensor = widened(tensor)
    order = order.reshape(-1)
    shape = shape or (len(order), *tensor.shape[1:])
    if len(tensor.shape) == 1:
        return replace(tensor, shape=shape, rows=lambda start, stop: tensor.rows(start, stop)[..., order])

    def rows(start: int, stop: int) -> Rows:
        wanted = order[start:stop]
        if not len(wanted):
            return tensor.rows(0, 0)
        sorting = np.argsort(wanted, kind="stable")
        numbers = wanted[sorting]
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        first_row, n_spanned = int(numbers[0]), int(numbers[-1] - numbers[0]) + 1
        if 4 * len(breaks) > len(wanted) and n_spanned <= 2 * len(wanted):
            # every other row or so: one read is quicker than many
            picked: Rows = tensor.rows(first_row, first_row + n_spanned)[wanted - first_row]
            return picked
        edges = [0, *breaks.tolist(), len(numbers)]
        result: Rows | None = None
        for first, last in itertools.pairwise(edges):
            part = tensor.rows(int(numbers[first]), int(numbers[last - 1]) + 1)
            if result is None:
                result = np.empty((len(wanted), part.shape[-1]), part.dtype)
            result[sorting[first:last]] = part
        assert result is not None
        return result

    return replace(tensor, shape=shape, rows=rows)


def rotary_order(tensor: Tensor, rows: Order, n_head: int) -> Order:
    """``rows`` of ``n_head`` heads with each rotation pair's two rows brought together.

    In the Hugging Face layout, a head's rows are the first halves of all rotation pairs, then the second halves; GGUF
    keeps a pair's two rows together, as Meta does.
    """
    if rows.size % (2 * n_head):
        raise FormatError(
            f"{tensor.name} has {rows.size} rows, no even number for each of {n_head} heads",
            "config.json does not fit the weights",
        )
    order: Order = rows.reshape(n_head, 2, -1).swapaxes(1, 2).reshape(-1)
    return order


def rotary_permutation(tensor: Tensor, n_head: int) -> Tensor:
    """Undo the row order that the Hugging Face layout gives rotary weights of ``n_head`` heads."""
    return take_rows(tensor, rotary_order(tensor, row_numbers(tensor, tensor.shape[0]), n_head))


def every_other_value(tensor: Tensor, first: int) -> Tensor:
    """Of each row every second value, from ``first`` on, which is 0 or 1."""
    tensor = widened(tensor)
    *outer, n_per_row = tensor.shape

    def rows(start: int, stop: int) -> Rows:
        return np.ascontiguousarray(tensor.rows(start, stop)[:, first::2])

    return replace(tensor, shape=(*outer, (n_per_row + 1 - first) // 2), rows=rows)


def split_rows(tensor: Tensor, *parts: tuple[str, int]) -> list[Tensor]:
    """A matrix cut into (name, rows) pieces from the top."""
    numbers = row_numbers(tensor, sum(rows for _, rows in parts))
    cuts = np.cumsum([rows for _, rows in parts])[:-1]
    pieces = zip(parts, np.split(numbers, cuts), strict=True)
    return [renamed(take_rows(tensor, rows), name) for (name, _), rows in pieces]


class _Recent:
    """The transposed matrices that were read last: few, whatever the model, because a whole one is read for any row."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], tuple[Tensor, Rows]] = OrderedDict()

    def get(self, tensor: Tensor, number: int) -> Rows:
        """Matrix ``number`` of ``tensor``, transposed."""
        height = tensor.shape[-2]
        with self._lock:
            key = (id(tensor), number)
            if key not in self._kept:
                while len(self._kept) >= self._capacity:
                    self._kept.popitem(last=False)
                found = tensor.rows(number * height, (number + 1) * height)
                # the tensor is kept too, so that its id belongs to no other
                self._kept[key] = (tensor, np.ascontiguousarray(found.T))
            return self._kept[key][1]

    def drop(self, tensor: Tensor, number: int) -> None:
        """Its last row has been handed on."""
        with self._lock:
            self._kept.pop((id(tensor), number), None)


_recent = _Recent(capacity=2)


def transposed(tensor: Tensor) -> Tensor:
    """The last two dimensions swapped; of the whole model, at most two matrices stay in memory for it."""
    tensor = widened(tensor)
    *outer, height, width = tensor.shape

    def rows(start: int, stop: int) -> Rows:
        if start >= stop:
            return np.empty((0, height), tensor.rows(0, 0).dtype)
        parts = []
        for number in range(start // width, -(-stop // width)):
            first, last = max(start - number * width, 0), min(stop - number * width, width)
            parts.append(_recent.get(tensor, number)[first:last])
            if last == width:
                _recent.drop(tensor, number)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return replace(tensor, shape=(*outer, width, height), rows=rows)


def plus_one(tensor: Tensor) -> Tensor:
    """Every value plus one: in the stored type for F16 and F32, in F32 for the others, as the reference adds."""
    tensor = widened(tensor)
    if tensor.dtype not in ("F16", "F32", "F64", "BF16"):
        raise UnsupportedError(f"{tensor.name} holds {tensor.dtype} values", "convert an unquantized checkpoint")

    def rows(start: int, stop: int) -> Rows:
        found = tensor.rows(start, stop)
        if tensor.dtype == "BF16":
            found = (found.astype(np.uint32) << 16).view(np.float32)
        elif tensor.dtype == "F64":
            found = found.astype(np.float32)
        increased: Rows = found + found.dtype.type(1)
        return increased

    return replace(tensor, dtype="F16" if tensor.dtype == "F16" else "F32", rows=rows)


def scaled(tensor: Tensor, factor: float | Sequence[tuple[int, float]]) -> Tensor:
    """Every value times ``factor``, or, from the top, so many rows times each factor: in the stored type for F16 and
    F32, in F32 for the others, as the reference multiplies. The file is still one of the stored type.
    """
    tensor = widened(tensor)
    if tensor.dtype not in ("F16", "F32", "F64", "BF16"):
        raise UnsupportedError(f"{tensor.name} holds {tensor.dtype} values", "convert an unquantized checkpoint")
    parts = [(tensor.n_rows, factor)] if isinstance(factor, float) else factor
    row_numbers(tensor, sum(rows for rows, _ in parts))
    ends = np.cumsum([rows for rows, _ in parts])
    with np.errstate(over="ignore"):
        factors = np.array([each for _, each in parts], np.float32)
    if not np.isfinite(factors).all():
        raise FormatError(f"{tensor.name} is to be multiplied by a number beyond all bounds", "correct config.json")

    def rows(start: int, stop: int) -> Rows:
        found = tensor.rows(start, stop)
        if tensor.dtype == "BF16":
            found = (found.astype(np.uint32) << 16).view(np.float32)
        chosen = factors[np.searchsorted(ends, np.arange(start, stop), side="right")]
        with np.errstate(over="ignore"):
            product: Rows = found.astype(np.float32) * chosen[:, None]
            return product.astype(np.float16) if tensor.dtype == "F16" else product

    dtype = "F16" if tensor.dtype == "F16" else "F32"
    return replace(tensor, dtype=dtype, rows=rows, precision=tensor.precision or tensor.dtype)


def unit_rows(tensor: Tensor, least: float = 1e-12) -> Tensor:
    """Every row divided by its length, or by ``least``, whichever is more: computed in F32. The file is still one of
    the stored type.
    """

    def rows(start: int, stop: int) -> Rows:
        found = _as_float32(tensor, tensor.rows(start, stop))
        lengths = np.sqrt((found * found).sum(axis=1, keepdims=True))
        unit: Rows = found / np.maximum(lengths, np.float32(least))
        return unit

    return replace(tensor, dtype="F32", rows=rows, precision=tensor.precision or tensor.dtype)


def unit_columns(tensor: Tensor, more: float = 1e-7) -> Tensor:
    """Every column divided by its length plus ``more``: computed in F32. The file is still one of the stored type.

    The lengths are computed when the first row is read, from all rows, a few at a time.
    """
    lock = threading.Lock()
    known: list[Rows] = []

    def lengths() -> Rows:
        with lock:
            if not known:
                squares = np.zeros(tensor.n_per_row, np.float64)
                for start in range(0, tensor.n_rows, SLICE_ROWS):
                    part = _as_float32(tensor, tensor.rows(start, min(start + SLICE_ROWS, tensor.n_rows)))
                    squares += np.square(part, dtype=np.float64).sum(axis=0)
                known.append(np.sqrt(squares).astype(np.float32) + np.float32(more))
            return known[0]

    def rows(start: int, stop: int) -> Rows:
        unit: Rows = _as_float32(tensor, tensor.rows(start, stop)) / lengths()
        return unit

    return replace(tensor, dtype="F32", rows=rows, precision=tensor.precision or tensor.dtype)


def ternary(tensor: Tensor, least: float = 1e-5) -> Tensor:
    """Every value as -1, 0 or 1, whichever is nearest, times the mean of all magnitudes (or ``least``): computed in
    F32. The file is still one of the stored type.

    The mean is computed when the first row is read, from all rows, a few at a time.
    """
    lock = threading.Lock()
    known: list[Rows] = []

    def scale() -> Rows:
        with lock:
            if not known:
                total = 0.0
                for start in range(0, tensor.n_rows, SLICE_ROWS):
                    part = _as_float32(tensor, tensor.rows(start, min(start + SLICE_ROWS, tensor.n_rows)))
                    total += float(np.abs(part).sum(dtype=np.float64))
                known.append(np.float32(1) / np.float32(max(total / tensor.n_values, least)))
            return known[0]

    def rows(start: int, stop: int) -> Rows:
        inverse = scale()
        found = _as_float32(tensor, tensor.rows(start, stop))
        rounded: Rows = np.clip(np.rint(found * inverse), -1, 1) / inverse
        return rounded

    return replace(tensor, dtype="F32", rows=rows, precision=tensor.precision or tensor.dtype)


def _as_float32(tensor: Tensor, found: Rows) -> Rows:
    if tensor.dtype not in ("F16", "F32", "F64", "BF16"):
        raise UnsupportedError(f"{tensor.name} holds {tensor.dtype} values", "convert an unquantized checkpoint")
    if tensor.dtype == "BF16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32)


def minus_exp(tensor: Tensor) -> Tensor:
    """Minus the exponential of every value, in F32: computed in double precision and rounded once."""
    tensor = widened(tensor)
    if tensor.dtype not in ("F16", "F32", "F64", "BF16"):
        raise UnsupportedError(f"{tensor.name} holds {tensor.dtype} values", "convert an unquantized checkpoint")

    def rows(start: int, stop: int) -> Rows:
        found = tensor.rows(start, stop)
        if tensor.dtype == "BF16":
            found = (found.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            decays: Rows = -np.exp(found.astype(np.float64)).astype(np.float32)
        return decays

    return replace(tensor, dtype="F32", rows=rows)


def squeezed(tensor: Tensor) -> Tensor:
    """Without the dimensions of size one; a single value keeps one."""
    return replace(tensor, shape=tuple(size for size in tensor.shape if size != 1) or (1,))


def reshaped(tensor: Tensor, height: int, width: int) -> Tensor:
    """The values of a vector as a matrix."""
    row_numbers(tensor, height, width)
    if len(tensor.shape) != 1:
        raise FormatError(f"{tensor.name} has the shape {tensor.shape}, no vector", "download it again")
    return replace(
        tensor,
        shape=(height, width),
        rows=lambda start, stop: tensor.rows(0, 1).reshape(height, width)[start:stop],
    )


def padded(tensor: Tensor, n_rows: int) -> Tensor:
    """A matrix with rows of zeros at its end, ``n_rows`` in all; as it is where it has as many."""
    if len(tensor.shape) != 2 or tensor.n_rows >= n_rows:
        return tensor
    tensor = widened(tensor)

    def rows(start: int, stop: int) -> Rows:
        found = tensor.rows(min(start, tensor.n_rows), min(stop, tensor.n_rows))
        zeros = np.zeros((stop - start - len(found), tensor.shape[1]), found.dtype)
        return np.concatenate([found, zeros]) if len(zeros) else found

    return replace(tensor, shape=(n_rows, tensor.shape[1]), rows=rows)


def take_columns(tensor: Tensor, order: Order) -> Tensor:
    """The values of every row in the order of their numbers in ``order``."""
    tensor = widened(tensor)
    if tensor.shape[-1] != len(order):
        raise FormatError(
            f"{tensor.name} has {tensor.shape[-1]} columns, {len(order)} were expected",
            "config.json does not fit the weights",
        )
    return replace(tensor, rows=lambda start, stop: np.ascontiguousarray(tensor.rows(start, stop)[:, order]))


def zeros(name: str, shape: tuple[int, ...]) -> Tensor:
    """A float32 tensor of nothing but zeros, of any size: its rows are made when they are read."""
    return Tensor(name, "F32", shape, lambda start, stop: np.zeros((stop - start, shape[-1]), np.float32))


def constant(name: str, values: Rows) -> Tensor:
    """A small float32 array as a tensor."""
    table = np.ascontiguousarray(values, np.float32).reshape(-1, values.shape[-1])
    return Tensor(name, "F32", values.shape, lambda start, stop: table[start:stop])

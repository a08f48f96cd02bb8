"""The small matrices of adapters, read once for all rows that are made of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from ggufrun.checkpoint.quantized import Floats, as_float32
from ggufrun.checkpoint.quantized.blocks import widened
from ggufrun.checkpoint.quantized.floats import CONVERTERS
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.errors import UnsupportedError

KEPT = 6
"""Matrices held at once: the workers are inside two or three tensors at any time."""


def read_floats(tensor: Tensor, start: int, stop: int) -> Floats:
    """Rows of a tensor of a plain float type as float32."""
    return as_float32(tensor.dtype, tensor.rows(start, stop))


def as_floats(base: Tensor) -> Tensor:
    """A tensor to which something is added: as it is, or as the floats that its blocks stand for. UnsupportedError."""
    base = widened(base)
    if base.dtype not in CONVERTERS:
        raise UnsupportedError(f"{base.name} holds {base.dtype} values", "merge into an unquantized checkpoint")
    return base


class Matrices:
    """Those in use; the workers of a conversion share them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], tuple[Tensor, Rows]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, tensor: Tensor) -> Floats:
        """The whole of a small tensor as float32."""
        return self._get(tensor, 0, lambda: read_floats(tensor, 0, tensor.n_rows))

    def expert(self, tensor: Tensor, experts: int, number: int) -> Floats:
        """The columns ``number``, ``number + experts`` and so on of a small matrix, as float32."""

        def arranged() -> Rows:
            found = tensor.rows(0, tensor.n_rows)
            return np.ascontiguousarray(found.reshape(len(found), -1, experts).transpose(2, 0, 1))

        return as_float32(tensor.dtype, self._get(tensor, experts, arranged)[number])

    def _get(self, tensor: Tensor, kind: int, make: Callable[[], Rows]) -> Rows:
        with self._lock:
            key = id(tensor), kind
            found = self._kept.get(key)
            if found is None:
                # the tensor is kept too: an id is only unique while its object lives
                found = (tensor, make())
                self._kept[key] = found
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return found[1]

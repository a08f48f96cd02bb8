"""Columns of matrices that are stored the other way round, read in panels that several threads share.

GPTQ and AWQ pack a weight transposed, so one row of it lies in all rows of what is stored. A panel is a range of stored
columns, turned, small enough to be kept while its rows are handed out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

import numpy as np

from ggufrun.checkpoint.tensor import STORAGE, Rows, Tensor

PANEL_BYTES = 32 << 20
"""Of one panel at most: the packed weights of all but the largest matrices of today."""
KEPT_BYTES = 64 << 20
"""Of all panels together. The workers are inside two or three tensors at any time, or many small experts."""
READ_BYTES = 1 << 20


class Panels:
    """The panels of one checkpoint that were read last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Rows] = OrderedDict()
        self._size = 0

    def columns(self, tensor: Tensor, start: int, stop: int) -> Rows:
        """Columns ``start`` to ``stop`` of a matrix as the rows of a C-contiguous array in the stored type."""
        if start >= stop:
            return np.empty((0, tensor.n_rows), STORAGE[tensor.dtype])
        width = max(1, PANEL_BYTES // max(1, tensor.n_rows * _item_bytes(tensor)))
        parts = [
            self._panel(tensor, number, width)[max(start - number * width, 0) : stop - number * width]
            for number in range(start // width, -(-stop // width))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _panel(self, tensor: Tensor, number: int, width: int) -> Rows:
        key = (tensor.name, number)
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                found = _read(tensor, number * width, min((number + 1) * width, tensor.n_per_row))
                self._kept[key] = found
                self._size += found.nbytes
                while self._size > KEPT_BYTES and len(self._kept) > 1:
                    self._size -= self._kept.popitem(last=False)[1].nbytes
            self._kept.move_to_end(key)
            return found


def turned(tensor: Tensor, panels: Panels) -> Tensor:
    """A matrix with its two dimensions swapped."""
    height, width = tensor.shape
    return replace(tensor, shape=(width, height), rows=lambda start, stop: panels.columns(tensor, start, stop))


def _item_bytes(tensor: Tensor) -> int:
    return np.dtype(STORAGE[tensor.dtype]).itemsize


def _read(tensor: Tensor, first: int, last: int) -> Rows:
    panel = np.empty((last - first, tensor.n_rows), STORAGE[tensor.dtype])
    step = max(1, READ_BYTES // (tensor.n_per_row * panel.itemsize))
    for start in range(0, tensor.n_rows, step):
        stop = min(start + step, tensor.n_rows)
        panel[:, start:stop] = tensor.rows(start, stop)[:, first:last].T
    return panel

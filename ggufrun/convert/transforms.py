"""Lazy changes to tensors: each returns a new record whose rows are computed when they are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.errors import FormatError


def rotary_permutation(tensor: Tensor, n_head: int) -> Tensor:
    """Undo the row order that the Hugging Face layout gives rotary weights.

    There, a head's rows are the first halves of all rotation pairs, then the second halves; GGUF keeps a pair's two
    rows together, as Meta does. ``tensor`` has ``n_head`` heads of an even number of rows.
    """
    n_rows = tensor.shape[0]
    if n_rows % (2 * n_head):
        raise FormatError(
            f"{tensor.name} has {n_rows} rows, no even number for each of {n_head} heads",
            "config.json does not fit the weights",
        )
    if len(tensor.shape) == 1:
        return _permute_vector(tensor, n_head)
    per_head = n_rows // n_head
    order = np.arange(per_head).reshape(2, per_head // 2).T.reshape(-1)

    def rows(start: int, stop: int) -> Rows:
        first, last = start // per_head, -(-stop // per_head)
        heads = tensor.rows(first * per_head, last * per_head)
        inside = heads.reshape(last - first, per_head, -1)[:, order].reshape(heads.shape)
        return np.ascontiguousarray(inside[start - first * per_head : stop - first * per_head])

    return replace(tensor, rows=rows)


def _permute_vector(tensor: Tensor, n_head: int) -> Tensor:
    def rows(start: int, stop: int) -> Rows:
        vector = tensor.rows(start, stop)
        return np.ascontiguousarray(vector.reshape(n_head, 2, -1).swapaxes(1, 2).reshape(vector.shape))

    return replace(tensor, rows=rows)


def constant(name: str, values: Rows) -> Tensor:
    """A small float32 array as a tensor."""
    table = np.ascontiguousarray(values, np.float32).reshape(-1, values.shape[-1])
    return Tensor(name, "F32", values.shape, lambda start, stop: table[start:stop])

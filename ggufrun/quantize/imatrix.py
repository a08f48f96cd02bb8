"""The importance matrix: how much each column of each weight matrix matters, measured on a text.

For a matrix W that is multiplied with activations x, column j's importance is the mean of x_j squared. Quantization
minimizes the error weighted by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImatrixEntry:
    """Sums over tokens of squared activations, float32 of shape (n_mat, n_per_row), and the tokens behind each.

    ``n_mat`` is 1, or the number of experts; ``counts`` has the shape (n_mat,).
    """

    sums: Floats
    counts: npt.NDArray[np.int64]

    def importance(self) -> Floats:
        """The means, shape (n_mat, n_per_row); 1 throughout for an expert that saw no token, as llama.cpp has it."""
        counts = self.counts[:, None].astype(np.float32)
        means: Floats = np.where(counts > 0, self.sums / np.maximum(counts, 1), np.float32(1)).astype(np.float32)
        return means


@dataclass(frozen=True)
class Imatrix:
    """One file: entries by the name of the weight, the texts it was measured on, chunks and tokens a chunk."""

    entries: Mapping[str, ImatrixEntry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    path: str = field(default="", compare=False)

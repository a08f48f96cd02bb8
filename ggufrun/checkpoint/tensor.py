"""The records that reading hands on: a tensor that has not been read yet, and the place it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

Rows = npt.NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """A named array on disk.

    ``shape`` is in numpy's order, the fastest dimension last. ``dtype`` is the stored type in upper case: ``F32``,
    ``F16``, ``BF16``, ``F64``, ``I32``, ... or a ggml block type such as ``Q8_0``. ``rows(start, stop)`` reads rows
    ``start`` to ``stop`` of the array seen as (``n_rows``, ``n_per_row``), as a C-contiguous array in the stored type:
    BF16 as uint16, block types as uint8 of shape (rows, bytes a row). It may be called from several threads.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], Rows]

    @property
    def n_per_row(self) -> int:
        """Values in a row: the size of the last dimension."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Rows: the product of all dimensions but the last."""
        return prod(self.shape[:-1])

    @property
    def n_values(self) -> int:
        """Values in all."""
        return prod(self.shape)


class Source(Protocol):
    """Where tensors come from: a checkpoint folder or a GGUF file. To be closed after use."""

    @property
    def path(self) -> Path:
        """The folder or file."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By name, in the order in which a converter should write them."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that decides what the tensors are."""

    def close(self) -> None:
        """Close the files. Tensors cannot be read any more."""

"""The records that reading hands on: a tensor that has not been read yet, and the place it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]

STORAGE: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.uint8,
    "C64": np.complex64,
    "C128": np.complex128,
    "F8_E4M3": np.uint8,
    "F8_E5M2": np.uint8,
    "F8_E8M0": np.uint8,
    "F8_E4M3FNUZ": np.uint8,
    "F8_E5M2FNUZ": np.uint8,
}
"""The numpy type that holds each plain type of a checkpoint whose values take whole bytes."""


@dataclass(frozen=True)
class BlockScale:
    """The factor of all values of a tensor in NVFP4, or one for each matrix of its first dimension.

    They are kept as they are stored, where they multiply or divide: their reciprocals would be rounded.
    """

    values: tuple[float, ...]
    divides: bool = False


@dataclass(frozen=True)
class Tensor:
    """A named array on disk.

    ``shape`` is in numpy's order, the fastest dimension last. ``dtype`` is the stored type in upper case: ``F32``,
    ``F16``, ``BF16``, ``F64``, ``I32``, ... or a ggml block type such as ``Q8_0``; it may be one that nothing here can
    read, as long as the tensor is left out of what is written. ``rows(start, stop)`` reads rows
    ``start`` to ``stop`` of the array seen as (``n_rows``, ``n_per_row``), as a C-contiguous array in the stored type:
    BF16 as uint16, block types as uint8 of shape (rows, bytes a row). It may be called from several threads.

    ``precision`` is set where rows are computed while they are read (always as ``F32``): the stored type whose
    precision they have at best. ``scale`` belongs to blocks of NVFP4, which do not hold it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], Rows]
    precision: str = ""
    scale: BlockScale | None = None

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


class Checkpoint(Source, Protocol):
    """A Source that is a checkpoint: besides tensors, it knows where the rest of the model is told."""

    @property
    def overrides(self) -> Mapping[str, Any]:
        """Values that replace those of config.json because the weights know better; all of them without such a file."""

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer files."""

    @property
    def least_tokens(self) -> int:
        """Tokens that the tokenizer has at least: more than there were before an adapter enlarged the vocabulary."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the checkpoint is read, a sentence each, such as values that were lossy."""


@dataclass(frozen=True)
class Weightless:
    """A checkpoint folder without its weights: config.json and tokenizer files."""

    path: Path

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """None."""
        return {}

    @property
    def files(self) -> tuple[Path, ...]:
        """None."""
        return ()

    @property
    def overrides(self) -> Mapping[str, Any]:
        """None: nothing knows better."""
        return {}

    @property
    def tokenizer(self) -> Path:
        """The folder itself."""
        return self.path

    @property
    def least_tokens(self) -> int:
        """No adapter has enlarged the vocabulary."""
        return 0

    @property
    def notes(self) -> tuple[str, ...]:
        """None."""
        return ()

    def close(self) -> None:
        """Nothing is open."""

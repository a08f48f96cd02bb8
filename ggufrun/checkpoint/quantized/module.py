"""A quantized weight before it is read: the tensors that belong to it, and checks that all methods share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.quantized.floats import FLOATS, Floats, as_float32
from ggufrun.checkpoint.quantized.panels import Panels
from ggufrun.checkpoint.quantized.settings import Settings
from ggufrun.checkpoint.tensor import Tensor
from ggufrun.errors import FormatError

AGAIN = "download it again"
LONGEST_VECTOR = 1 << 27
"""Values of a vector that is read whole when the checkpoint is opened, such as the order of columns."""


@dataclass(frozen=True)
class Module:
    """The tensors whose names are ``stem`` and one of several endings, by these endings.

    ``name`` is that of the weight that they stand for. ``panels`` is shared by all modules of a checkpoint.
    """

    stem: str
    name: str
    parts: Mapping[str, Tensor]
    settings: Settings
    panels: Panels

    def part(self, ending: str, *dtypes: str, dimensions: int | None = None) -> Tensor:
        """A tensor that must be there, of one of ``dtypes``. FormatError."""
        found = self.parts.get(ending)
        if found is None:
            raise FormatError(f"{self.stem} is quantized, but has no {self.stem}{ending}", "download the missing files")
        return checked(found, *dtypes, dimensions=dimensions)

    def maybe(self, ending: str, *dtypes: str, dimensions: int | None = None) -> Tensor | None:
        """The same for a tensor that may be missing."""
        return self.part(ending, *dtypes, dimensions=dimensions) if ending in self.parts else None

    def wrong_shape(self, ending: str, expected: object) -> FormatError:
        """What to raise where a part does not fit the others."""
        found = self.parts[ending]
        return FormatError(f"{found.name} has the shape {found.shape}, the rest of it needs {expected}", AGAIN)


def computed(module: Module, shape: tuple[int, ...], rows: Callable[[int, int], Floats], precision: str) -> Tensor:
    """The weight of ``module``, F32 rows that are computed as they are read."""

    def some(start: int, stop: int) -> Floats:
        return rows(start, stop) if start < stop else np.empty((0, shape[-1]), np.float32)

    return Tensor(module.name, "F32", shape, some, precision)


def checked(tensor: Tensor, *dtypes: str, dimensions: int | None = None) -> Tensor:
    """``tensor``, if it is of one of ``dtypes``, of so many dimensions, and not empty. FormatError."""
    if tensor.dtype not in dtypes:
        raise FormatError(f"{tensor.name} is {tensor.dtype}, not {' or '.join(dtypes)}", AGAIN)
    if not tensor.n_values or dimensions not in (None, len(tensor.shape)):
        raise FormatError(f"{tensor.name} has the shape {tensor.shape}", AGAIN)
    return tensor


def read_vector(tensor: Tensor) -> npt.NDArray[np.generic]:
    """All values of a small tensor, in one dimension. FormatError for one that is not small."""
    if prod(tensor.shape) > LONGEST_VECTOR:
        raise FormatError(f"{tensor.name} has {prod(tensor.shape)} values", AGAIN)
    return tensor.rows(0, tensor.n_rows).reshape(-1)


def read_number(tensor: Tensor) -> float:
    """The only value of a tensor of floats. FormatError."""
    if prod(tensor.shape) != 1:
        raise FormatError(f"{tensor.name} has the shape {tensor.shape}, one value was expected", AGAIN)
    return float(floats_of(tensor, 0, 1)[0, 0])


def floats_of(tensor: Tensor, start: int, stop: int) -> Floats:
    """Rows of a tensor of stored floats as float32."""
    return as_float32(tensor.dtype, tensor.rows(start, stop))


def precision_of(scales: Tensor) -> str:
    """The type that weights are computed in, which is that of their scales."""
    return "F32" if scales.dtype not in FLOATS or scales.dtype == "F64" else scales.dtype

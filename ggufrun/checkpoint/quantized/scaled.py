"""FP8 and 8-bit whole numbers with scales: one for the tensor, a row, a group of columns, or a block of both.

A value is the stored number, less a zero point where there is one, times its scale, computed in float32. Scales may be
floats, or powers of two in a byte (MXFP8). Matrices of experts may lie in one tensor, each with its own scales.

Source: ``quantization_config`` as transformers (fp8, fbgemm_fp8), compressed-tensors (float-quantized, int-quantized,
naive-quantized, mxfp8-quantized) and NVIDIA's Model Optimizer document it; OCP's "8-bit Floating Point Specification".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.quantized.floats import Floats, as_float32, e8m0_values, round_to
from ggufrun.checkpoint.quantized.module import AGAIN, Module, computed
from ggufrun.checkpoint.quantized.settings import objects
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.errors import FormatError, UnsupportedError

FP8 = ("F8_E4M3", "F8_E5M2")
STORED = (*FP8, "I8")
EXPONENTS = ("U8", "F8_E8M0")
ROUNDING = ("compressed-tensors", "chatglm")
SCALES = ("F32", "F16", "BF16", *EXPONENTS)


@dataclass(frozen=True)
class Grid:
    """Which scale a value has: matrices of ``height`` rows, in blocks of ``rows`` x ``columns``.

    A matrix has ``n_rows`` rows of scales, which are ``n_columns`` wide.
    """

    height: int
    rows: int
    columns: int
    n_rows: int
    n_columns: int

    def scale_rows(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The row of scales, over all matrices, of each row of values."""
        numbers = np.arange(start, stop)
        found: npt.NDArray[np.int64] = numbers // self.height * self.n_rows + numbers % self.height // self.rows
        return found

    def apply(self, operation: Callable[..., Floats], values: Floats, scales: Floats) -> None:
        """Change ``values`` by a row of scales for each of their rows, in place."""
        if values.shape[1] == self.columns * self.n_columns:
            view = values.reshape(len(values), self.n_columns, self.columns)
            operation(view, scales[:, :, None], out=view)
        else:
            operation(values, np.repeat(scales, self.columns, axis=1)[:, : values.shape[1]], out=values)


def read(module: Module, ending: str) -> Tensor:
    """The weight whose scales are the part ``ending``. FormatError, UnsupportedError."""
    weight = module.part("", *STORED)
    scale = module.parts[ending]
    if scale.dtype not in SCALES:
        raise UnsupportedError(f"{weight.name} has a scale of type {scale.dtype}", "convert the original checkpoint")
    if len(weight.shape) < 2 or not scale.n_values:
        raise FormatError(f"{weight.name} has the shape {weight.shape}, {scale.name} {scale.shape}", AGAIN)
    grid = _grid(module, weight, scale)
    zero = module.maybe("_zero_point", "I8", "U8", "I32")
    if zero is not None and zero.shape != scale.shape:
        raise module.wrong_shape("_zero_point", scale.shape)
    # some compute in the type of the scales, the others round only to the type of the model
    precision = scale.dtype if module.settings.method in ROUNDING else ""

    def rows(start: int, stop: int) -> Floats:
        stored = weight.rows(start, stop)
        values = as_float32(weight.dtype, stored) if weight.dtype in FP8 else stored.astype(np.float32)
        chosen = grid.scale_rows(start, stop)
        with np.errstate(over="ignore", invalid="ignore"):
            if zero is not None:
                grid.apply(np.subtract, values, _chosen(module, zero, chosen, grid))
            grid.apply(np.multiply, values, _chosen(module, scale, chosen, grid))
        return round_to(precision, values)

    return computed(module, weight.shape, rows, "F16" if precision == "F16" else "BF16")


def _chosen(module: Module, part: Tensor, numbers: npt.NDArray[np.int64], grid: Grid) -> Floats:
    """Rows of scales or zero points by their numbers, (rows, columns of the grid), of what is in file order."""
    if not len(numbers):
        return np.empty((0, grid.n_columns), np.float32)
    first, last = int(numbers[0]), int(numbers[-1]) + 1
    if part.n_per_row == grid.n_columns:
        stored = part.rows(first, last)
    elif part.n_rows == 1:
        stored = module.panels.columns(part, first * grid.n_columns, last * grid.n_columns)
    else:
        stored = part.rows(0, part.n_rows).reshape(-1)[first * grid.n_columns : last * grid.n_columns]
    return _as_floats(part.dtype, stored).reshape(-1, grid.n_columns)[numbers - first]


def _as_floats(dtype: str, stored: Rows) -> Floats:
    if dtype in EXPONENTS:
        return e8m0_values(stored)
    return stored.astype(np.float32) if dtype in ("I8", "I32") else as_float32(dtype, stored)


def _grid(module: Module, weight: Tensor, scale: Tensor) -> Grid:
    *outer, height, width = weight.shape
    if prod(scale.shape) == 1:
        return Grid(weight.n_rows, weight.n_rows, width, 1, 1)
    n_matrices = prod(outer)
    if outer and prod(scale.shape) == n_matrices:
        return Grid(height, height, width, 1, 1)
    if scale.shape in ((*outer, height), (*outer, height, 1)):
        return Grid(height, 1, width, height, 1)
    if scale.shape == (*outer, 1, width):
        return Grid(height, height, 1, 1, width)
    block = block_size(module)
    if block is None and len(scale.shape) == len(weight.shape) and scale.shape[:-2] == tuple(outer):
        block = _even_blocks(height, width, scale)
    if block is None:
        raise FormatError(
            f"{scale.name} has the shape {scale.shape}, {weight.name} {weight.shape}, and config.json no block size",
            "download the checkpoint's config.json",
        )
    expected = (*outer, -(-height // block[0]), -(-width // block[1]))
    if scale.shape != expected:
        raise FormatError(
            f"{scale.name} has the shape {scale.shape}, blocks of {block} need {expected}",
            "config.json does not belong to these weights",
        )
    return Grid(height, *block, *expected[-2:])


def _even_blocks(height: int, width: int, scale: Tensor) -> tuple[int, int] | None:
    """The size of blocks by the number of scales. Only powers of two are certain: the last block may not be full."""
    n_rows, n_columns = scale.shape[-2:]
    if height % n_rows or width % n_columns:
        return None
    block = height // n_rows, width // n_columns
    return block if all(size & (size - 1) == 0 for size in block) else None


def block_size(module: Module) -> tuple[int, int] | None:
    """Rows and columns that share a scale, if the settings say so for all modules alike."""
    settings = module.settings
    if settings.values.get("weight_block_size") is not None:
        return settings.block(settings.values["weight_block_size"])
    weights = [group.get("weights") for group in objects(settings.values.get("config_groups"))]
    found = {settings.block(part.get("block_structure")) for part in weights if isinstance(part, dict)}
    # several groups are told apart by their shapes
    return found.pop() if len(found) == 1 else None

"""Checkpoints that are stored in fewer bits: FP8 is read as the floats it stands for, MXFP4 as ggml's blocks of the
same bits, everything else is refused.

An FP8 weight comes with a scale: one for the tensor, one a row, or one for each block of rows and columns (128 x 128 in
DeepSeek-V3 and Qwen's FP8 releases). A value is the 8-bit float times its scale, computed in float32 as it is read.

Source: ``quantization_config`` as transformers and compressed-tensors document it; OCP's "8-bit Floating Point
Specification" for E4M3 (no infinities) and E5M2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.jsonfile import read_object
from ggufrun.checkpoint.mxfp4 import repacked
from ggufrun.checkpoint.tensor import Checkpoint, Rows, Tensor
from ggufrun.errors import FormatError, UnsupportedError

FP8 = ("F8_E4M3", "F8_E5M2")
FP8_METHODS = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt")

SCALES = ("_scale_inv", "_scale")
"""What the name of a weight's scale adds to the weight's. Both are factors, whatever the first one is called."""
NOT_WEIGHTS = (".input_scale", ".activation_scale", ".input_scale_ub", ".k_scale", ".v_scale")
"""Scales of activations and of the cache: for kernels that compute in FP8."""

ADVICE = {
    "gptq": "download the original checkpoint (a name without -GPTQ) and convert that",
    "awq": "download the original checkpoint (a name without -AWQ) and convert that",
    "bitsandbytes": "download the original checkpoint (a name without -bnb-4bit or -8bit) and convert that",
}
TRACES = {
    ".qzeros": "gptq or awq",
    ".SCB": "bitsandbytes",
    ".weight.absmax": "bitsandbytes",
    ".weight_packed": "compressed-tensors",
    "_blocks": "mxfp4",
}
"""Endings of tensor names that only a quantized checkpoint has, for one whose config.json does not say so."""

Floats = npt.NDArray[np.float32]


class DequantizedSource:
    """A checkpoint whose FP8 weights have become F32 ones, or whose MXFP4 ones are in ggml's blocks."""

    def __init__(self, source: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
        self.path, self.tokenizer, self.overrides = source.path, source.tokenizer, source.overrides
        self.least_tokens, self.notes = source.least_tokens, source.notes
        self.tensors = tensors
        self.files = (*source.files, source.path / "config.json")
        self._source = source

    def close(self) -> None:
        """Close the files."""
        self._source.close()


def dequantized(source: Checkpoint) -> Checkpoint:
    """The checkpoint as plain floats, or MXFP4 blocks. UnsupportedError for one that is quantized in another way."""
    config = source.path / "config.json"
    settings: Any = None
    if "architectures" not in source.overrides and config.is_file():
        settings = read_object(config).get("quantization_config")
    if settings:
        settings = settings if isinstance(settings, dict) else {}
        method = str(settings.get("quant_method", "unknown"))
        if method == "mxfp4" and any(name.endswith("_blocks") for name in source.tensors):
            return DequantizedSource(source, repacked(source.tensors))
        if method not in FP8_METHODS:
            _refuse(method)
    for name in source.tensors:
        for ending, method in TRACES.items():
            if name.endswith(ending):
                _refuse(method)
    if not settings and not any(tensor.dtype in FP8 for tensor in source.tensors.values()):
        return source
    return DequantizedSource(source, _dequantized(source.tensors, settings or {}, config))


def _refuse(method: str) -> None:
    raise UnsupportedError(
        f"the checkpoint is already quantized ({method[:40]})",
        ADVICE.get(method, "download and convert the original one"),
    )


def _block(settings: Mapping[str, Any], config: Path) -> tuple[int, int] | None:
    """Rows and columns that share a scale, if config.json says so."""
    block = settings.get("weight_block_size")
    groups = settings.get("config_groups")
    if block is None and isinstance(groups, dict):
        weights = [group.get("weights") for group in groups.values() if isinstance(group, dict)]
        blocks = [weight.get("block_structure") for weight in weights if isinstance(weight, dict)]
        if len(blocks) > 1 and any(blocks):
            raise UnsupportedError(f"{config} has several groups of quantized weights", "convert the original one")
        block = blocks[0] if blocks else None
    if block is None:
        return None
    if not isinstance(block, list) or len(block) != 2 or not all(type(size) is int and size > 0 for size in block):
        raise FormatError(f"{config} says blocks of {str(block)[:40]}", "download it again")
    return block[0], block[1]


def _dequantized(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], config: Path) -> dict[str, Tensor]:
    block = _block(settings, config)
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, tensor in tensors.items():
        if tensor.dtype not in FP8:
            continue
        scale = next((tensors[name + ending] for ending in SCALES if name + ending in tensors), None)
        if scale is None:
            raise UnsupportedError(f"{name} is FP8 without a scale", "convert the original checkpoint")
        used.add(scale.name)
        found[name] = _scaled(tensor, scale, block)
    if settings and not found:
        raise UnsupportedError(
            f"the checkpoint is already quantized ({settings.get('quant_method')}), but not to FP8",
            "download and convert the original one",
        )
    # in the order of the file
    return {
        name: found.get(name, tensor)
        for name, tensor in tensors.items()
        if name not in used and not name.endswith(NOT_WEIGHTS)
    }


def _scaled(tensor: Tensor, scale: Tensor, block: tuple[int, int] | None) -> Tensor:
    """``tensor`` times its scale, as F32 rows."""
    if scale.dtype not in ("F32", "BF16", "F16") or len(tensor.shape) != 2:
        raise UnsupportedError(f"{tensor.name} has a scale of type {scale.dtype}", "convert the original checkpoint")
    n_rows, n_columns = tensor.shape
    per_tensor = prod(scale.shape) == 1
    per_row = scale.shape in ((n_rows,), (n_rows, 1))
    if block is not None and not per_tensor:
        expected = (-(-n_rows // block[0]), -(-n_columns // block[1]))
        if scale.shape != expected:
            raise FormatError(
                f"{scale.name} has the shape {scale.shape}, blocks of {block} need {expected}",
                "config.json does not belong to these weights",
            )
    elif not per_tensor and not per_row:
        raise FormatError(
            f"{scale.name} has the shape {scale.shape}, {tensor.name} {tensor.shape}, and config.json no block size",
            "download the checkpoint's config.json",
        )
    table = fp8_values(tensor.dtype)

    @cache
    def scales() -> Floats:
        """All of them as (row blocks, column blocks): a sixteen-thousandth of the weights, or one a row."""
        values = as_float32(scale.dtype, scale.rows(0, scale.n_rows))
        if block is not None and not per_tensor:
            return values
        return values.reshape(-1, 1)

    def rows(start: int, stop: int) -> Rows:
        values: Floats = table[tensor.rows(start, stop)]
        if per_tensor:
            factors: Floats = scales()
        elif block is not None:
            factors = np.repeat(scales()[np.arange(start, stop) // block[0]], block[1], axis=1)[:, :n_columns]
        else:
            factors = scales()[start:stop]
        values *= factors
        return values

    return Tensor(tensor.name, "F32", tensor.shape, rows, "BF16")


@cache
def fp8_values(dtype: str) -> Floats:
    """What each of the 256 bit patterns of an FP8 type is worth."""
    exponent_bits, bias, finite_only = (4, 7, True) if dtype == "F8_E4M3" else (5, 15, False)
    mantissa_bits = 7 - exponent_bits
    bits = np.arange(256)
    sign = np.where(bits >= 128, -1.0, 1.0)
    exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (bits & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    values = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    if finite_only:
        values[(bits & 127) == 127] = np.nan
    else:
        highest = exponent == (1 << exponent_bits) - 1
        values = np.where(highest & (mantissa == 0), np.inf, np.where(highest, np.nan, values))
    return (sign * values).astype(np.float32)


CONVERTERS: dict[str, Callable[[Rows], Floats]] = {
    "F32": lambda rows: rows.astype(np.float32, copy=False),
    "F16": lambda rows: rows.astype(np.float32),
    "F64": lambda rows: rows.astype(np.float32),
    "BF16": lambda rows: np.left_shift(rows, 16, dtype=np.uint32).view(np.float32),
}


def as_float32(dtype: str, rows: Rows) -> Floats:
    """Rows of a stored float type as float32."""
    return CONVERTERS[dtype](rows)

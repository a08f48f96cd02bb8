"""bitsandbytes: 4 bits as NF4 or FP4 with a largest value for each block, and 8 bits with one for each row.

4 bits: the weight is the stored bytes of the flattened matrix, the first value of a byte in its high half;
``NAME.quant_state.bitsandbytes__nf4`` is a JSON text with the shape, the size of a block and the type that the weights
are computed in. ``NAME.absmax`` is F32, or, quantized in turn, U8: a number of ``NAME.nested_quant_map`` times a value
of ``NAME.nested_absmax`` plus an offset. 8 bits: ``NAME`` is I8, ``SCB`` F32, a weight number * SCB / 127.

Source: bitsandbytes' documentation and files; "QLoRA" (arXiv 2305.14314) for NF4, "LLM.int8()" (2208.07339).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufrun import jsontext
from ggufrun.checkpoint.quantized.floats import Floats, round_to
from ggufrun.checkpoint.quantized.module import AGAIN, Module, computed, floats_of, read_vector
from ggufrun.checkpoint.tensor import STORAGE, Tensor
from ggufrun.errors import FormatError, UnsupportedError

STATE = ".quant_state.bitsandbytes__"
MAX_STATE = 1 << 16
"""Bytes of the JSON text."""
PRECISIONS = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Quantiles of the normal distribution, by their number."""
HALF_FP4 = (0.0, 0.0052083334885537624, 2 / 3, 1.0, 1 / 3, 0.5, 1 / 6, 0.25)
FP4 = (*HALF_FP4, *(-value for value in HALF_FP4))
CODES: dict[str, tuple[float, ...]] = {"nf4": NF4, "fp4": FP4}

INT8 = np.float32(1 / 127)


@dataclass(frozen=True)
class State:
    """What the JSON text says; ``nested`` is the size of a block of largest values and the offset of all."""

    shape: tuple[int, ...]
    block: int
    precision: str
    nested: tuple[int, np.float32] | None


def read_4bit(module: Module, kind: str) -> Tensor:
    """A weight in 4 bits of ``kind``, nf4 or fp4. FormatError."""
    weight = module.part("", *STORAGE)
    state = _state(module, kind)
    count = prod(state.shape)
    width = np.dtype(STORAGE[weight.dtype]).itemsize * weight.n_per_row
    if not count or weight.n_rows * width != (count + 1) // 2:
        raise FormatError(
            f"{weight.name} has {weight.n_rows * width} bytes, its quant_state says the shape {state.shape}", AGAIN
        )
    maxima = Maxima(module, state, -(-count // state.block))
    n_per_row = state.shape[-1]
    table = _pairs(kind)

    def rows(start: int, stop: int) -> Floats:
        first, last = start * n_per_row, stop * n_per_row
        begin, end = first // 2, -(-last // 2)
        stored = weight.rows(begin // width, -(-end // width)).view(np.uint8).reshape(-1)
        packed = stored[begin - begin // width * width :][: end - begin]
        values: Floats = np.take(table, packed).view(np.float32)[first - 2 * begin :][: last - first]
        with np.errstate(over="ignore", invalid="ignore"):
            if first % state.block == 0 and last % state.block == 0:
                blocks = maxima.of_blocks(first // state.block, last // state.block)
                found = values.reshape(-1, state.block) * blocks[:, None]
            else:
                found = values * maxima.of_values(first, last)
        return round_to(state.precision, found.reshape(stop - start, n_per_row))

    return computed(module, state.shape, rows, state.precision)


@cache
def _pairs(kind: str) -> npt.NDArray[np.uint64]:
    """The two values of each byte, as one number to look up."""
    codes = np.array(CODES[kind], np.float32)
    numbers = np.arange(256)
    pairs = np.stack([codes[numbers >> 4], codes[numbers & 15]], axis=1)
    found: npt.NDArray[np.uint64] = pairs.view(np.uint64).reshape(-1)
    return found


def _state(module: Module, kind: str) -> State:
    text = module.part(f"{STATE}{kind}", "U8", dimensions=1)
    if text.n_values > MAX_STATE:
        raise FormatError(f"{text.name} has {text.n_values} bytes", AGAIN)
    try:
        values: Any = jsontext.parse(read_vector(text).tobytes())
        shape, block, dtype = values["shape"], values["blocksize"], values["dtype"]
        nested = None
        if "nested_blocksize" in values:
            nested = int(values["nested_blocksize"]), np.float32(values["nested_offset"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise FormatError(f"{text.name} is not a quantization state: {str(error)[:60]}", AGAIN) from error
    sizes = isinstance(shape, list) and 0 < len(shape) < 8 and all(type(n) is int and 0 < n < 1 << 40 for n in shape)
    if not sizes or type(block) is not int or block not in BLOCK_SIZES or dtype not in PRECISIONS:
        raise FormatError(
            f"{text.name} says the shape {str(shape)[:40]}, blocks of {str(block)[:20]}, type {str(dtype)[:20]}", AGAIN
        )
    if nested is not None and not 0 < nested[0] < 1 << 31:
        raise FormatError(f"{text.name} says nested blocks of {nested[0]}", AGAIN)
    return State(tuple(shape), block, PRECISIONS[dtype], nested)


class Maxima:
    """The largest value of each block, for ranges of blocks and of values."""

    def __init__(self, module: Module, state: State, n_blocks: int) -> None:
        self._module, self._state = module, state
        self._tensor = module.part(".absmax", "F32" if state.nested is None else "U8", dimensions=1)
        if self._tensor.shape != (n_blocks,):
            raise module.wrong_shape(".absmax", (n_blocks,))
        if state.nested is not None:
            outer = module.part(".nested_absmax", "F32", dimensions=1)
            if outer.shape != (-(-n_blocks // state.nested[0]),):
                raise module.wrong_shape(".nested_absmax", (-(-n_blocks // state.nested[0]),))
            codes = module.part(".nested_quant_map", "F32", dimensions=1)
            if codes.shape != (256,):
                raise module.wrong_shape(".nested_quant_map", (256,))

    def of_blocks(self, first: int, last: int) -> Floats:
        """Of blocks ``first`` to ``last``."""
        panels, parts = self._module.panels, self._module.parts
        stored = panels.columns(self._tensor, first, last)[:, 0]
        if self._state.nested is None:
            plain: Floats = stored
            return plain
        size, offset = self._state.nested
        codes = parts[".nested_quant_map"].rows(0, 1).reshape(-1)
        outer = panels.columns(parts[".nested_absmax"], first // size, -(-last // size))[:, 0]
        factors = outer[np.arange(first, last) // size - first // size]
        found: Floats = codes[stored] * factors + offset
        return found

    def of_values(self, first: int, last: int) -> Floats:
        """Of the block of each value from ``first`` to ``last``."""
        size = self._state.block
        blocks = self.of_blocks(first // size, -(-last // size))
        found: Floats = blocks[np.arange(first, last) // size - first // size]
        return found


def read_8bit(module: Module) -> Tensor:
    """A weight in 8 bits with one scale for each row. FormatError, UnsupportedError."""
    weight = module.part(".weight", "I8", dimensions=2)
    scales = module.part(".SCB", "F32", "F16", "BF16")
    if scales.n_values != weight.shape[0]:
        raise module.wrong_shape(".SCB", (weight.shape[0],))
    layout = module.maybe(".weight_format", "U8")
    if layout is not None and layout.n_values == 1 and read_vector(layout)[0] != 0:
        raise UnsupportedError(
            f"{weight.name} is in the order of one kind of GPU (weight_format {read_vector(layout)[0]})",
            "load it with an older bitsandbytes and save it again, or convert the original checkpoint",
        )

    def rows(start: int, stop: int) -> Floats:
        found = weight.rows(start, stop).astype(np.float32)
        factors = floats_of(scales, 0, scales.n_rows).reshape(-1)[start:stop, None]
        with np.errstate(over="ignore", invalid="ignore"):
            found *= factors
            found *= INT8
        return found

    return computed(module, weight.shape, rows, module.settings.dtype or "F16")

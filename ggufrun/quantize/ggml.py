"""The quantization kernels of libggml, with checks before every call.

An invalid argument makes these C functions abort the process (``GGML_ASSERT``), so everything is checked before a call.
All calls release the GIL. Between float32 and F16 libggml-cpu's functions are used, which have the processor's
instruction for it: libggml-base's are four times (to F16) and ten times (from F16) slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufrun.errors import EngineError, FormatError
from ggufrun.native.library import ggml_base, ggml_cpu

F32, F16, BF16 = 0, 1, 30
"""``enum ggml_type`` of the plain float types."""

TYPE_COUNT = 43
"""``GGML_TYPE_COUNT`` of the pinned release; a test compares it with the library."""

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class BlockType:
    """How one ggml type stores a row: ``block`` consecutive values in ``size`` bytes."""

    id: int
    name: str
    block: int
    size: int
    quantized: bool

    def row_bytes(self, n_per_row: int) -> int:
        """Bytes of one row of ``n_per_row`` values, which must be a multiple of the block."""
        return n_per_row // self.block * self.size


@cache
def block_types() -> dict[str, BlockType]:
    """Every type the library knows, by its lower-case name (``q4_k``)."""
    lib = ggml_base()
    found = {}
    for number in range(TYPE_COUNT):
        size, name = lib.ggml_type_size(number), lib.ggml_type_name(number)
        if size and name:
            kind = BlockType(number, name.decode(), lib.ggml_blck_size(number), size, lib.ggml_is_quantized(number))
            found[kind.name.lower()] = kind
    return found


@cache
def block_type(number: int) -> BlockType:
    """The type with this ``ggml_type`` number."""
    for kind in block_types().values():
        if kind.id == number:
            return kind
    raise EngineError(f"this llama.cpp knows no tensor type {number}", "update ggufrun")


def requires_imatrix(kind: int) -> bool:
    """Whether the kernel of ggml type ``kind`` cannot do without an importance matrix."""
    return bool(ggml_base().ggml_quantize_requires_imatrix(kind))


def quantize_rows(kind: int, rows: Floats, imatrix: Floats | None = None) -> Bytes:
    """Encode ``rows`` (float32, C-contiguous, shape (n_rows, n_per_row)) as ggml type ``kind``.

    ``imatrix`` holds one importance a column (float32, shape (n_per_row,)). Returns the bytes of the rows one after
    another. Raises EngineError where the kernel would abort: a row that is not whole blocks, a missing importance
    matrix; FormatError where the result is not finite.
    """
    lib, block = ggml_base(), block_type(kind)
    if rows.dtype != np.float32 or rows.ndim != 2 or not rows.flags.c_contiguous:
        raise EngineError(f"rows for {block.name} must be contiguous float32 in two dimensions")
    n_rows, n_per_row = rows.shape
    if n_per_row == 0 or n_per_row % block.block:
        raise EngineError(f"rows of {n_per_row} values are not a multiple of {block.name}'s block of {block.block}")
    if kind == F32:
        return rows.reshape(-1).view(np.uint8)
    if imatrix is None and requires_imatrix(kind):
        raise EngineError(f"{block.name} needs an importance matrix", "make one with `ggufrun imatrix`")
    if imatrix is not None and (imatrix.dtype != np.float32 or imatrix.shape != (n_per_row,)):
        raise EngineError(f"the importance matrix has shape {imatrix.shape}, the rows have {n_per_row} values")
    out = np.empty(n_rows * block.row_bytes(n_per_row), np.uint8)
    quick = ggml_cpu() if kind == F16 else None
    if quick is not None:
        quick.ggml_cpu_fp32_to_fp16(rows.ctypes.data, out.ctypes.data, rows.size)
        return out
    weights = None if imatrix is None else np.ascontiguousarray(imatrix).ctypes.data
    written = lib.ggml_quantize_chunk(kind, rows.ctypes.data, out.ctypes.data, 0, n_rows, n_per_row, weights)
    if written != out.nbytes:
        raise EngineError(f"{block.name} wrote {written} bytes where {out.nbytes} were expected")
    return out


EXPONENTS: dict[int, tuple[type[np.unsignedinteger[Any]], int]] = {
    F32: (np.uint32, 0x7F800000),
    F16: (np.uint16, 0x7C00),
    BF16: (np.uint16, 0x7F80),
}
"""Plain types as integers, and the bits of the exponent: all are set in an infinity and in what is not a number."""


def validate(kind: int, data: Bytes) -> None:
    """Raise FormatError unless every value in ``data`` is finite; of block types, every scale."""
    block = block_type(kind)
    if data.nbytes % block.size or not data.flags.c_contiguous:
        raise FormatError(f"{data.nbytes} bytes are not a whole number of {block.name} blocks")
    if kind in EXPONENTS:
        # the library would do, but writes a line of its own to stderr
        storage, exponent = EXPONENTS[kind]
        sound = not data.size or int((data.reshape(-1).view(storage) & storage(exponent)).max()) < exponent
    else:
        sound = bool(ggml_base().ggml_validate_row_data(kind, data.ctypes.data, data.nbytes))
    if not sound:
        raise FormatError(f"a {block.name} block holds a value that is not finite")


def to_float(kind: int, data: Bytes, out: Floats) -> None:
    """Decode ``data``, whole blocks of type ``kind``, into ``out`` (float32, C-contiguous)."""
    lib, block = ggml_base(), block_type(kind)
    if out.size * block.size != data.nbytes * block.block or not (data.flags.c_contiguous and out.flags.c_contiguous):
        raise EngineError(f"{data.nbytes} bytes of {block.name} do not decode to {out.size} values")
    if kind == F32:
        out.reshape(-1).view(np.uint8)[:] = data.reshape(-1)
        return
    quick = ggml_cpu() if kind == F16 else None
    decode = quick.ggml_cpu_fp16_to_fp32 if quick is not None else lib.ggml_get_type_traits(kind).contents.to_float
    if not decode:
        raise EngineError(f"this llama.cpp cannot decode {block.name}")
    decode(data.ctypes.data, out.ctypes.data, out.size)

"""The quantization kernels of libggml, through ctypes: the only place that binds them.

An invalid argument makes these C functions abort the process (``GGML_ASSERT``), so everything is checked before a call.
All calls release the GIL.

Source of the signatures: ``ggml/include/ggml.h`` of the llama.cpp inside the pinned llama-cpp-python.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufrun.errors import EngineError, FormatError

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
def library() -> ctypes.CDLL:
    """libggml-base as llama-cpp-python installed it, with the signatures used here declared."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise EngineError("llama-cpp-python is not installed", "run `make setup`, or `pip install llama-cpp-python`")
    folder = Path(next(iter(spec.submodule_search_locations))) / "lib"
    path = _library_path(folder, "ggml-base")
    if path is None:
        raise EngineError(f"no ggml library in {folder}", "reinstall llama-cpp-python")
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(f"cannot load {path.name}: {error}", "reinstall llama-cpp-python") from error
    number, count, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    signatures: dict[str, tuple[type | None, list[type]]] = {
        "ggml_type_name": (ctypes.c_char_p, [number]),
        "ggml_blck_size": (ctypes.c_int64, [number]),
        "ggml_type_size": (ctypes.c_size_t, [number]),
        "ggml_is_quantized": (ctypes.c_bool, [number]),
        "ggml_quantize_requires_imatrix": (ctypes.c_bool, [number]),
        "ggml_quantize_chunk": (ctypes.c_size_t, [number, pointer, pointer, count, count, count, pointer]),
        "ggml_validate_row_data": (ctypes.c_bool, [number, pointer, ctypes.c_size_t]),
        "ggml_get_type_traits": (ctypes.POINTER(_TypeTraits), [number]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name, None)
        if function is None:
            raise EngineError(f"{path.name} has no {name}", "reinstall the pinned llama-cpp-python")
        function.restype, function.argtypes = result, arguments
    return lib


def _library_path(folder: Path, stem: str) -> Path | None:
    suffixes = {"darwin": ("dylib", "so"), "win32": ("dll",)}.get(sys.platform, ("so",))
    names = [f"{prefix}{stem}.{suffix}" for suffix in suffixes for prefix in ("lib", "")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


@cache
def _quick(name: str) -> Callable[[int, int, int], None] | None:
    """A function of the processor backend between float32 and F16, which uses the instruction for it; libggml-base's
    are four times (to F16) and ten times (from F16) slower. None where the library does not have it.

    All round to nearest, ties to even.
    """
    folder = Path(library()._name).parent
    path = _library_path(folder, "ggml-cpu")
    try:
        function = getattr(ctypes.CDLL(str(path)), name) if path else None
    except (OSError, AttributeError):
        return None
    if function is not None:
        function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return function


class _TypeTraits(ctypes.Structure):
    """``struct ggml_type_traits``; ``to_float`` turns a row of blocks into floats."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


@cache
def block_types() -> dict[str, BlockType]:
    """Every type the library knows, by its lower-case name (``q4_k``)."""
    lib = library()
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
    return bool(library().ggml_quantize_requires_imatrix(kind))


StockFunction = Callable[[object, object, int, int, object], int]
"""Values, blocks, rows, values a row, importances or None; returns the bytes written. Pointers are ``c_void_p``."""


def stock_function(name: str) -> StockFunction | None:
    """llama.cpp's own function for type ``name`` (``q4_K``), in a library that has another in its place; else None."""
    function = getattr(library(), f"ggufrun_stock_quantize_{name}", None)
    if function is None:
        return None
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    quantize: StockFunction = function
    return quantize


def quantize_rows(kind: int, rows: Floats, imatrix: Floats | None = None) -> Bytes:
    """Encode ``rows`` (float32, C-contiguous, shape (n_rows, n_per_row)) as ggml type ``kind``.

    ``imatrix`` holds one importance a column (float32, shape (n_per_row,)). Returns the bytes of the rows one after
    another. Raises EngineError where the kernel would abort: a row that is not whole blocks, a missing importance
    matrix; FormatError where the result is not finite.
    """
    lib, block = library(), block_type(kind)
    if rows.dtype != np.float32 or rows.ndim != 2 or not rows.flags.c_contiguous:
        raise EngineError(f"rows for {block.name} must be contiguous float32 in two dimensions")
    n_rows, n_per_row = rows.shape
    if n_per_row == 0 or n_per_row % block.block:
        raise EngineError(f"rows of {n_per_row} values are no multiple of {block.name}'s block of {block.block}")
    if kind == F32:
        return rows.reshape(-1).view(np.uint8)
    if imatrix is None and requires_imatrix(kind):
        raise EngineError(f"{block.name} needs an importance matrix", "make one with `ggufrun imatrix`")
    if imatrix is not None and (imatrix.dtype != np.float32 or imatrix.shape != (n_per_row,)):
        raise EngineError(f"the importance matrix has shape {imatrix.shape}, the rows have {n_per_row} values")
    out = np.empty(n_rows * block.row_bytes(n_per_row), np.uint8)
    half = _quick("ggml_cpu_fp32_to_fp16") if kind == F16 else None
    if half is not None:
        half(rows.ctypes.data, out.ctypes.data, rows.size)
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
"""Plain types as integers, and the bits of the exponent: all are set in an infinity and in what is no number."""


def validate(kind: int, data: Bytes) -> None:
    """Raise FormatError unless every value in ``data`` is finite; of block types, every scale."""
    block = block_type(kind)
    if data.nbytes % block.size or not data.flags.c_contiguous:
        raise FormatError(f"{data.nbytes} bytes are no whole number of {block.name} blocks")
    if kind in EXPONENTS:
        # the library would do, but writes a line of its own to stderr
        storage, exponent = EXPONENTS[kind]
        sound = not data.size or int((data.reshape(-1).view(storage) & storage(exponent)).max()) < exponent
    else:
        sound = bool(library().ggml_validate_row_data(kind, data.ctypes.data, data.nbytes))
    if not sound:
        raise FormatError(f"a {block.name} block holds a value that is not finite")


def to_float(kind: int, data: Bytes, out: Floats) -> None:
    """Decode ``data``, whole blocks of type ``kind``, into ``out`` (float32, C-contiguous)."""
    lib, block = library(), block_type(kind)
    if out.size * block.size != data.nbytes * block.block or not (data.flags.c_contiguous and out.flags.c_contiguous):
        raise EngineError(f"{data.nbytes} bytes of {block.name} do not decode to {out.size} values")
    if kind == F32:
        out.reshape(-1).view(np.uint8)[:] = data.reshape(-1)
        return
    decode: Callable[[int, int, int], None] | None = _quick("ggml_cpu_fp16_to_fp32") if kind == F16 else None
    decode = decode or lib.ggml_get_type_traits(kind).contents.to_float
    if not decode:
        raise EngineError(f"this llama.cpp cannot decode {block.name}")
    decode(data.ctypes.data, out.ctypes.data, out.size)

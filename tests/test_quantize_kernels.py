"""The tuned kernels write what the stock ones write, byte for byte, also for values at the edges of arithmetic.

A library built with ``tools/ggml-kernels.c`` holds llama.cpp's own functions too, renamed; a library built without it
has nothing to compare.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.quantize import ggml

Floats = npt.NDArray[np.float32]

N = 9 * 256
"""Columns: an odd number of blocks, so that groups of two end unevenly."""

ROWS = 5

BLOCK_BYTES = {"q2_K": 84, "q3_K": 110, "q4_K": 144, "q5_K": 176, "q6_K": 210}


def normal() -> Floats:
    rows: Floats = np.random.default_rng(7).standard_normal((ROWS, N), dtype=np.float32) * np.float32(0.02)
    return rows


def sprinkle(value: float, share: float = 0.001) -> Floats:
    rows = normal()
    rows[np.random.default_rng(8).random(rows.shape) < share] = value
    return rows


def per_block(spread: float, width: int = 32) -> Floats:
    """Sub-blocks of very different sizes: some scales round to nothing."""
    factors = np.exp(np.random.default_rng(9).standard_normal((ROWS, N // width)) * spread)
    rows: Floats = (normal() * np.repeat(factors, width, axis=1)).astype(np.float32)
    return rows


INPUTS: dict[str, Callable[[], Floats]] = {
    "normal": normal,
    "bfloat16": lambda: (normal().view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
    "heavy tails": lambda: np.random.default_rng(3).standard_t(3, (ROWS, N)).astype(np.float32),
    "zeros": lambda: np.zeros((ROWS, N), np.float32),
    "mostly zeros": lambda: sprinkle(0.0, 0.9),
    "one value": lambda: np.full((ROWS, N), 0.5, np.float32),
    "two values": lambda: (normal() > 0).astype(np.float32),
    "positive": lambda: np.abs(normal()),
    "negative": lambda: -np.abs(normal()),
    "far from zero": lambda: normal() + np.float32(5),
    "whole numbers": lambda: np.round(normal() * 300),
    "sub-blocks unlike": lambda: per_block(4),
    "sub-blocks of 16 unlike": lambda: per_block(8, 16),
    "values unlike": lambda: per_block(8, 1),
    "small": lambda: normal() * np.float32(1e-8),
    "smaller": lambda: normal() * np.float32(1e-15),
    "tiny": lambda: normal() * np.float32(1e-30),
    "subnormal": lambda: normal() * np.float32(1e-38),
    "large": lambda: normal() * np.float32(1e4),
    "huge": lambda: normal() * np.float32(1e30),
    "some infinite": lambda: sprinkle(np.inf),
    "some minus infinite": lambda: sprinkle(-np.inf),
    "some not a number": lambda: sprinkle(np.nan),
}

IMPORTANCES: dict[str, Callable[[], Floats | None]] = {
    "no imatrix": lambda: None,
    "imatrix": lambda: np.random.default_rng(5).random(N, dtype=np.float32) ** 2 + np.float32(1e-3),
    "imatrix with zeros": lambda: np.round(np.random.default_rng(6).random(N, dtype=np.float32)),
}


def kernel(name: str) -> Callable[[Floats, Floats | None], bytes]:
    """A C function ``size_t name(src, dst, nrow, n_per_row, imatrix)`` of libggml-base, as a function of arrays."""
    function = getattr(ggml.library(), name, None)
    if function is None:
        pytest.skip("a stock build of the engine: there is nothing to compare")
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    size = BLOCK_BYTES[name[-4:]]

    def call(rows: Floats, importance: Floats | None) -> bytes:
        out = np.zeros(rows.size // 256 * size + 16, np.uint8)
        weights = None if importance is None else importance.ctypes.data
        assert function(rows.ctypes.data, out.ctypes.data, *rows.shape, weights) == out.size - 16
        assert not out[-16:].any(), "wrote past the end"
        return out[:-16].tobytes()

    return call


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("rows", INPUTS)
@pytest.mark.parametrize("kind", BLOCK_BYTES)
def test_tuned_and_stock_kernels_write_the_same_bytes(kind: str, rows: str, importance: str) -> None:
    stock = kernel(f"ggufrun_stock_quantize_{kind}")
    tuned = kernel(f"quantize_{kind}")
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(INPUTS[rows](), np.float32)
    weights = IMPORTANCES[importance]()
    assert tuned(values, weights) == stock(values, weights)


@pytest.mark.parametrize("columns", [256, 512, 768])
@pytest.mark.parametrize("kind", BLOCK_BYTES)
def test_any_number_of_blocks(kind: str, columns: int) -> None:
    stock = kernel(f"ggufrun_stock_quantize_{kind}")
    tuned = kernel(f"quantize_{kind}")
    values = np.ascontiguousarray(normal()[:1, :columns])
    assert tuned(values, None) == stock(values, None)


@pytest.mark.parametrize("kind", BLOCK_BYTES)
def test_the_comparison_can_fail(kind: str) -> None:
    tuned = kernel(f"quantize_{kind}")
    values = normal()
    before = tuned(values, None)
    values[2, 300] += np.float32(0.05)
    assert tuned(values, None) != before

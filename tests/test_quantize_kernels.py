"""The tuned kernels write what the stock ones write, byte for byte, also for values at the edges of arithmetic.

A library built with ``tools/kernels`` holds llama.cpp's own functions too, renamed; a library built without it has
nothing to compare.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.errors import FormatError
from ggufrun.native import library
from ggufrun.native.binding import declare, signature
from ggufrun.native.signatures import StockQuantizer
from ggufrun.quantize import ggml

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

N = 9 * 256
"""Columns: an odd number of blocks, so that groups of two end unevenly."""

ROWS = 5

KINDS = (
    "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "q4_0", "q4_1", "q5_0", "q5_1", "tq1_0", "tq2_0", "iq4_nl", "iq4_xs",
    "iq3_s", "iq3_xxs", "iq2_xxs", "iq2_xs", "iq2_s", "iq1_s", "iq1_m",
)  # fmt: skip

GRIDS = ("iq3_s", "iq3_xxs", "iq2_xxs", "iq2_xs", "iq2_s", "iq1_s", "iq1_m")
"""Types that look for points of a grid. What overflows in that search ends the process in stock ones, or becomes zeros
without a word; ours store an infinite scale, which validation finds."""

NEED_IMATRIX = ("iq2_xxs", "iq2_xs", "iq1_s")


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


def zero_parts(width: int) -> Floats:
    """A third of all sub-blocks has nothing but zeros."""
    keep = np.random.default_rng(10).random((ROWS, N // width)) > 1 / 3
    rows: Floats = normal() * np.repeat(keep, width, axis=1).astype(np.float32)
    return rows


INPUTS: dict[str, Callable[[], Floats]] = {
    "normal": normal,
    "bfloat16": lambda: (normal().view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
    "heavy tails": lambda: np.random.default_rng(3).standard_t(3, (ROWS, N)).astype(np.float32),
    "zeros": lambda: np.zeros((ROWS, N), np.float32),
    "mostly zeros": lambda: sprinkle(0.0, 0.9),
    "sub-blocks of zeros": lambda: zero_parts(32),
    "sub-blocks of 16 of zeros": lambda: zero_parts(16),
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
    "very small": lambda: normal() * np.float32(1e-20),
    "tiny": lambda: normal() * np.float32(1e-30),
    "subnormal": lambda: normal() * np.float32(1e-38),
    "large": lambda: normal() * np.float32(1e4),
    "huge": lambda: normal() * np.float32(1e30),
    "some huge": lambda: sprinkle(1e30),
    "some infinite": lambda: sprinkle(np.inf),
    "some minus infinite": lambda: sprinkle(-np.inf),
    "some not a number": lambda: sprinkle(np.nan),
}

IMPORTANCES: dict[str, Callable[[], Floats | None]] = {
    "no imatrix": lambda: None,
    "imatrix": lambda: np.random.default_rng(5).random(N, dtype=np.float32) ** 2 + np.float32(1e-3),
    "imatrix of every size": lambda: np.exp(np.random.default_rng(5).standard_normal(N) * 8).astype(np.float32),
    "imatrix with zeros": lambda: np.round(np.random.default_rng(6).random(N, dtype=np.float32)),
}


Kernel = Callable[[Floats, Floats | None], Bytes]


def call(function: StockQuantizer, kind: str, rows: Floats, importance: Floats | None) -> Bytes:
    """What the function writes, a block a row."""
    block = ggml.block_types()[kind.lower()]
    count = rows.size // block.block * block.size
    out = np.zeros(count + 16, np.uint8)
    weights = None if importance is None else importance.ctypes.data
    assert function(rows.ctypes.data, out.ctypes.data, rows.shape[0], rows.shape[1], weights) == count
    assert not out[-16:].any(), "wrote past the end"
    return out[:-16].reshape(-1, block.size)


@cache
def pair(kind: str) -> tuple[Kernel, Kernel]:
    """The stock function and ours, with the tables that they look up."""
    stock = library.stock_quantizer(kind)
    if stock is None:
        pytest.skip("a stock build of the engine: there is nothing to compare")
    lib, number = library._libggml_base(), ggml.block_types()[kind.lower()].id
    ours = getattr(lib, f"quantize_{kind}")
    declare(ours, signature(StockQuantizer.__call__), {})
    lib.ggml_quantize_init(number)
    # Its own tables take llama.cpp some seconds.
    if kind in GRIDS and kind.startswith("iq3"):
        lib.ggufrun_stock_iq3xs_init_impl(512 if kind == "iq3_s" else 256)
    elif kind in GRIDS:
        lib.ggufrun_stock_iq2xs_init_impl(number)
    return lambda rows, w: call(stock, kind, rows, w), lambda rows, w: call(ours, kind, rows, w)


@cache
def refusal(kind: str) -> bytes:
    """What ours write for a block of which no finite scale can be made; validation finds it."""
    _, tuned = pair(kind)
    block = tuned(np.full((1, 256), np.inf, np.float32), np.ones(256, np.float32))[0]
    with pytest.raises(FormatError, match="not finite"):
        ggml.validate(ggml.block_types()[kind].id, block)
    pattern: bytes = block.tobytes()
    return pattern


def given(rows: str, importance: str) -> tuple[Floats, Floats | None]:
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(INPUTS[rows](), np.float32)
    return values, IMPORTANCES[importance]()


@pytest.mark.parametrize("rows", INPUTS)
@pytest.mark.parametrize(
    ("kind", "importance"),
    [(kind, name) for kind in KINDS for name in IMPORTANCES if name != "no imatrix" or kind not in NEED_IMATRIX],
)
def test_tuned_and_stock_kernels_write_the_same_bytes(kind: str, rows: str, importance: str) -> None:
    values, weights = given(rows, importance)
    stock, tuned = pair(kind)
    if kind not in GRIDS:
        assert tuned(values, weights).tobytes() == stock(values, weights).tobytes()
        return
    found = tuned(values, weights)
    bad = np.array([block.tobytes() == refusal(kind) for block in found])
    with np.errstate(all="ignore"):
        largest = np.abs(values).reshape(len(found), -1).max(axis=1)
    assert not bad[largest < 1e8].any()
    assert bad[~(largest < 1e13)].all()
    # Blocks do not depend on one another: without those the stock function lives.
    values.reshape(len(found), -1)[bad] = 0
    expected = stock(values, weights)
    assert (found == expected)[~bad].all()


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_blocks(kind: str, columns: int) -> None:
    columns *= ggml.block_types()[kind.lower()].block
    stock, tuned = pair(kind)
    weights = IMPORTANCES["imatrix"]()
    assert weights is not None
    for importance in (None, weights[:columns].copy()):
        if importance is None and kind in NEED_IMATRIX:
            continue
        for rows in (1, 3):
            values = np.ascontiguousarray(normal()[:rows, :columns])
            assert tuned(values, importance).tobytes() == stock(values, importance).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_the_comparison_can_fail(kind: str) -> None:
    _, tuned = pair(kind)
    values, weights = given("normal", "imatrix")
    before = tuned(values, weights)
    values[2, 300] += np.float32(0.5)
    changed = (tuned(values, weights) != before).any(axis=1)
    assert changed[2 * N // ggml.block_types()[kind.lower()].block :].any()
    assert changed.sum() < len(changed) / 2


@pytest.mark.parametrize("kind", ["iq3_xxs", "iq3_s", "iq2_s"])
def test_the_table_of_types_has_the_tuned_functions(kind: str) -> None:
    stock, _ = pair(kind)
    values, _ = given("normal", "no imatrix")
    block = ggml.block_types()[kind]
    out = np.zeros((values.size // block.block, block.size), np.uint8)
    reference = getattr(library._libggml_base(), f"quantize_row_{kind}_ref")
    reference.restype, reference.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    reference(values.ctypes.data, out.ctypes.data, values.size)
    assert out.tobytes() == stock(values, None).tobytes()


FREE = """
import numpy as np
from ggufrun.native import library
from ggufrun.quantize import ggml
rows = np.random.default_rng(0).standard_normal((2, 1024), dtype=np.float32)
weights = np.ones(1024, np.float32)
def all_types():
    return [ggml.quantize_rows(ggml.block_types()[kind].id, rows, weights).tobytes() for kind in KINDS]
first = all_types()
library._libggml_base().ggml_quantize_free()
assert all_types() == first
library._libggml_base().ggml_quantize_free()
library._libggml_base().ggml_quantize_free()
"""


def test_tables_are_freed_and_made_again() -> None:
    code = FREE.replace("KINDS", repr(tuple(GRIDS)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

"""The kernels against the ``gguf`` package's own numpy code, and the checks that keep C from aborting."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.errors import EngineError, FormatError
from ggufrun.quantize import ggml

TYPES = gguf.GGMLQuantizationType
ROWS = (np.random.default_rng(11).standard_normal((5, 512)) * 0.3).astype(np.float32)


# Q8_1 never stands in a file: the package still gives its size of long ago
@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind is not TYPES.Q8_1])
def test_block_sizes_are_those_of_the_gguf_package(kind: gguf.GGMLQuantizationType) -> None:
    block = ggml.block_type(int(kind))
    assert (block.block, block.size) == gguf.GGML_QUANT_SIZES[kind]
    assert block.name.upper() == kind.name


def test_the_library_has_no_type_beyond_those_asked_for() -> None:
    assert max(block.id for block in ggml.block_types().values()) == ggml.TYPE_COUNT - 1


@pytest.mark.parametrize(
    "kind",
    [TYPES.F16, TYPES.BF16, TYPES.Q4_0, TYPES.Q4_1, TYPES.Q5_0, TYPES.Q5_1, TYPES.Q8_0],
)
def test_encodes_to_the_bytes_of_the_gguf_package(kind: gguf.GGMLQuantizationType) -> None:
    expected = gguf.quants.quantize(ROWS, kind).view(np.uint8).reshape(-1)
    np.testing.assert_array_equal(ggml.quantize_rows(int(kind), ROWS), expected)


@pytest.mark.parametrize(
    ("kind", "error"),
    # relative RMS error on normal values; the published figures of these types lie a little below
    [
        (TYPES.Q8_0, 0.006),
        (TYPES.Q6_K, 0.02),
        (TYPES.Q5_K, 0.04),
        (TYPES.Q4_K, 0.08),
        (TYPES.Q3_K, 0.16),
        (TYPES.Q2_K, 0.32),
        (TYPES.IQ4_XS, 0.09),
    ],
)
def test_what_is_encoded_decodes_to_nearly_the_same(kind: gguf.GGMLQuantizationType, error: float) -> None:
    data = ggml.quantize_rows(int(kind), ROWS)
    decoded = gguf.quants.dequantize(data.reshape(len(ROWS), -1), kind)
    relative = np.sqrt(np.mean((decoded - ROWS) ** 2) / np.mean(ROWS**2))
    assert error / 3 < relative < error
    mine = np.empty_like(ROWS)
    ggml.to_float(int(kind), data, mine)
    # the same formula, multiplied out in another order
    np.testing.assert_allclose(mine, decoded, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "rows",
    [ROWS[:, :100], ROWS.astype(np.float64), ROWS[:, ::2], ROWS[0], np.empty((3, 0), np.float32)],
)
def test_rows_the_kernels_cannot_take(rows: npt.NDArray[Any]) -> None:
    with pytest.raises(EngineError):
        ggml.quantize_rows(int(TYPES.Q4_K), rows)


def test_a_missing_importance_matrix_is_an_error_not_an_abort() -> None:
    with pytest.raises(EngineError, match="importance matrix"):
        ggml.quantize_rows(int(TYPES.IQ2_XXS), ROWS)


def test_an_importance_matrix_of_the_wrong_width() -> None:
    with pytest.raises(EngineError, match="importance matrix has shape"):
        ggml.quantize_rows(int(TYPES.Q4_K), ROWS, np.ones(256, np.float32))


def test_an_importance_matrix_changes_the_result() -> None:
    weights = np.linspace(0.01, 10, ROWS.shape[1], dtype=np.float32)
    with_weights = ggml.quantize_rows(int(TYPES.Q4_K), ROWS, weights)
    assert (with_weights != ggml.quantize_rows(int(TYPES.Q4_K), ROWS)).any()


def test_validation_finds_an_infinite_scale() -> None:
    data = ggml.quantize_rows(int(TYPES.Q8_0), ROWS)
    ggml.validate(int(TYPES.Q8_0), data)
    data[:2] = np.array([np.inf], np.float16).view(np.uint8)
    with pytest.raises(FormatError, match="not finite"):
        ggml.validate(int(TYPES.Q8_0), data)


def test_sizes_that_do_not_fit() -> None:
    data = ggml.quantize_rows(int(TYPES.Q8_0), ROWS)
    with pytest.raises(EngineError):
        ggml.to_float(int(TYPES.Q8_0), data, np.empty((5, 511), np.float32))
    with pytest.raises(FormatError):
        ggml.validate(int(TYPES.Q8_0), data[:-1])
    with pytest.raises(EngineError, match="no tensor type 200"):
        ggml.quantize_rows(200, ROWS)


def test_half_precision_rounds_as_numpy_does() -> None:
    """Ties, subnormals, the largest value, zeros of both signs, and a long run of odd length."""
    special = [0.0, -0.0, 1.0, 65504.0, 65519.0, -65504.0, 2049.0, 2051.0, 6e-8, 3e-8, 2.98e-8, 6.1e-5, 1 / 3]
    values = np.concatenate([special, np.random.default_rng(2).standard_normal(1000 - len(special)) * 10])
    rows = values.astype(np.float32).reshape(8, 125)
    expected = rows.astype(np.float16).view(np.uint8).reshape(-1)
    np.testing.assert_array_equal(ggml.quantize_rows(ggml.F16, rows), expected)


def test_every_half_becomes_the_float_that_numpy_makes_of_it() -> None:
    """All 65,536 of them; of those that are not a number only that they are none."""
    halves = np.arange(1 << 16, dtype=np.uint16)
    floats = np.empty(1 << 16, np.float32)
    ggml.to_float(ggml.F16, halves.view(np.uint8), floats)
    expected = halves.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(floats, expected)
    assert (np.signbit(floats) == np.signbit(expected))[~np.isnan(expected)].all()


@pytest.mark.parametrize("kind", [ggml.F32, ggml.F16, ggml.BF16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_validation_of_plain_types(kind: int, value: float) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 37)).astype(np.float32)
    data = ggml.quantize_rows(kind, rows)
    ggml.validate(kind, data)
    ggml.validate(kind, data[:0])
    rows[2, 36] = value
    with pytest.raises(FormatError, match="not finite"):
        ggml.validate(kind, ggml.quantize_rows(kind, rows))
    largest = np.array([[65504.0, -65504.0, 0.0, -0.0, 1e-30]], np.float32)
    ggml.validate(kind, ggml.quantize_rows(kind, largest))

"""Lazy changes to tensors, against numpy on the whole array: any rows, in any order, and no more read than needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ggufrun.checkpoint.quantized import as_float32
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.convert import stacks, transforms
from ggufrun.errors import FormatError, UnsupportedError
from tests.support.checkpoints import encode

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}


class Stored:
    """A tensor in memory that counts the rows read of it."""

    def __init__(self, *shape: int, dtype: str = "F32", name: str = "x.weight") -> None:
        values = np.random.default_rng(7).integers(0, 1 << 14, shape)
        self.array = values.astype(DTYPES[dtype])
        self.read = 0
        table = self.array.reshape(-1, shape[-1])

        def rows(start: int, stop: int) -> Rows:
            assert 0 <= start <= stop <= len(table)
            self.read += stop - start
            return table[start:stop]

        self.tensor = Tensor(name, dtype, shape, rows)


def check(changed: Tensor, expected: Any) -> None:
    """The shape, the whole, every single row, and uneven pieces."""
    assert changed.shape == expected.shape
    table = expected.reshape(-1, expected.shape[-1])
    np.testing.assert_array_equal(changed.rows(0, changed.n_rows), table)
    for start in range(changed.n_rows):
        np.testing.assert_array_equal(changed.rows(start, start + 1), table[start : start + 1])
    for start, stop in ((0, 0), (0, 3), (1, changed.n_rows), (changed.n_rows // 2, changed.n_rows)):
        found = changed.rows(start, min(stop, changed.n_rows))
        np.testing.assert_array_equal(found, table[start : min(stop, changed.n_rows)])
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("heads", [1, 3, 6])
def test_rotary_permutation(heads: int) -> None:
    stored = Stored(36, 5)
    expected = stored.array.reshape(heads, 2, 18 // heads, 5).swapaxes(1, 2).reshape(36, 5)
    check(transforms.rotary_permutation(stored.tensor, heads), expected)
    bias = Stored(36)
    changed = transforms.rotary_permutation(bias.tensor, heads)
    np.testing.assert_array_equal(
        changed.rows(0, 1).reshape(-1), bias.array.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    )


def test_a_piece_reads_no_more_rows_than_it_has() -> None:
    stored = Stored(48, 5)
    transforms.rotary_permutation(stored.tensor, 4).rows(7, 20)
    assert stored.read == 13


def test_chosen_rows_in_three_dimensions() -> None:
    stored = Stored(24, 5)
    rows = transforms.row_numbers(stored.tensor, 4, 6)
    check(transforms.take_rows(stored.tensor, rows[:, 2:], (4, 4, 5)), stored.array.reshape(4, 6, 5)[:, 2:])


def test_split() -> None:
    stored = Stored(10, 5)
    first, second = transforms.split_rows(stored.tensor, ("a", 4), ("b", 6))
    assert (first.name, second.name) == ("a", "b")
    check(first, stored.array[:4])
    check(second, stored.array[4:])
    with pytest.raises(FormatError, match=r"x\.weight has 10 rows, 11 were expected"):
        transforms.split_rows(stored.tensor, ("a", 4), ("b", 7))


@pytest.mark.parametrize("shape", [(6, 5), (5,), (2, 3, 4)])
def test_stack(shape: tuple[int, ...]) -> None:
    parts = [Stored(*shape, name=str(number)) for number in range(4)]
    check(stacks.stacked("all", [part.tensor for part in parts]), np.stack([part.array for part in parts]))


def test_a_stack_of_different_things() -> None:
    first = Stored(6, 5).tensor
    with pytest.raises(FormatError, match="shape"):
        stacks.stacked("all", [first, Stored(5, 6).tensor])
    with pytest.raises(UnsupportedError, match="I32"):
        stacks.stacked("all", [first, replace(Stored(6, 5).tensor, dtype="I32")])


def test_a_stack_of_several_types_is_in_f32() -> None:
    """Some experts are quantized, others not."""
    parts = [Stored(6, 5, dtype="BF16", name="a"), Stored(6, 5, name="b"), Stored(6, 5, dtype="F16", name="c")]
    found = stacks.stacked("all", [part.tensor for part in parts])
    assert (found.dtype, found.precision, found.shape) == ("F32", "BF16", (3, 6, 5))
    for number, part in enumerate(parts):
        expected = as_float32(part.tensor.dtype, part.tensor.rows(0, 6))
        np.testing.assert_array_equal(found.rows(6 * number, 6 * number + 6), expected)


@pytest.mark.parametrize("shape", [(6, 5), (3, 6, 5)])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_transpose(shape: tuple[int, ...], dtype: str) -> None:
    stored = Stored(*shape, dtype=dtype)
    check(transforms.transposed(stored.tensor), stored.array.swapaxes(-1, -2))


def test_a_transposed_matrix_is_read_once_in_passing_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "_recent", transforms._Recent(capacity=2))
    stored = Stored(3, 60, 50)
    changed = transforms.transposed(stored.tensor)
    for start in range(0, changed.n_rows, 7):
        changed.rows(start, min(start + 7, changed.n_rows))
    assert stored.read == 180
    assert not transforms._recent._kept


@pytest.mark.parametrize(
    ("dtype", "widened"),
    [
        ("F32", lambda x: x),
        ("F16", lambda x: x),
        ("F64", np.float32),
        ("BF16", lambda x: (x.astype(np.uint32) << 16).view("f4")),
    ],
)
def test_plus_one(dtype: str, widened: Callable[[Any], Any]) -> None:
    stored = Stored(4, 5, dtype=dtype)
    expected = widened(stored.array)
    changed = transforms.plus_one(stored.tensor)
    assert changed.dtype == ("F16" if dtype == "F16" else "F32")
    check(changed, expected + expected.dtype.type(1))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_rows_times_factors(dtype: str) -> None:
    stored = Stored(6, 5, dtype=dtype)
    wide = as_float32(dtype, stored.array)
    for factor, each in ((0.3, [0.3] * 6), ([(2, 0.3), (3, -1.5), (1, 7.0)], [0.3, 0.3, -1.5, -1.5, -1.5, 7.0])):
        product = wide * np.array(each, np.float32)[:, None]
        changed = transforms.scaled(stored.tensor, factor)
        assert (changed.dtype, changed.precision) == ("F16" if dtype == "F16" else "F32", dtype)
        with np.errstate(over="ignore"):
            check(changed, product.astype(np.float16) if dtype == "F16" else product)
    with pytest.raises(FormatError, match="6 rows, 4"):
        transforms.scaled(stored.tensor, [(4, 1.0)])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_minus_exp_is_rounded_once(dtype: str) -> None:
    values = np.random.default_rng(7).uniform(-8, 4, 64)
    stored = encode(dtype, values.astype(np.float32))
    tensor = Tensor("a", dtype, (64,), lambda start, stop: stored.reshape(1, -1))
    exact = as_float32(dtype, stored).astype(np.float64)
    found = transforms.minus_exp(tensor)
    assert found.dtype == "F32"
    assert found.rows(0, 1).reshape(-1).tolist() == [float(np.float32(-math.exp(value))) for value in exact.tolist()]


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_rows_of_zeros_at_the_end(dtype: str) -> None:
    stored = Stored(4, 5, dtype=dtype)
    check(transforms.padded(stored.tensor, 7), np.concatenate([stored.array, np.zeros((3, 5), stored.array.dtype)]))
    assert transforms.padded(stored.tensor, 3) is stored.tensor


def test_columns_in_another_order() -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensor = Tensor("a", "F32", (3, 4), lambda start, stop: table[start:stop])
    assert transforms.take_columns(tensor, np.array([3, 1, 0, 2])).rows(1, 3).tolist() == [[7, 5, 4, 6], [11, 9, 8, 10]]
    with pytest.raises(FormatError, match="4 columns, 3 were expected"):
        transforms.take_columns(tensor, np.array([0, 1, 2]))


def test_dimensions_of_one() -> None:
    def shaped(*shape: int) -> Tensor:
        return Tensor("a", "F32", shape, lambda start, stop: np.zeros((stop - start, shape[-1]), np.float32))

    assert transforms.squeezed(shaped(8, 1, 4)).shape == (8, 4)
    assert transforms.squeezed(shaped(1, 1)).shape == (1,)

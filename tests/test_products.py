"""Products of matrices by our kernels: as exact as ggml's own, and the same alone or in company.

Whole numbers are multiplied and added exactly, so only the order of float additions may differ from ggml's. A library
built without ``tools/kernels/matmul``, or on another processor, has nothing to compare.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.quantize import ggml
from tests.support import products
from tests.support.products import Bytes, Floats, activations, kernels, product, product_of_experts, using

KINDS = (
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4",
)  # fmt: skip

VARIANTS = ("avx512", "avxvnni", "avx2")


@cache
def here() -> tuple[str, ...]:
    """The kernels that run on this processor."""
    _, cpu = products.libraries()
    before = kernels()
    if not before:
        return ()
    found = [name for name in VARIANTS if cpu.ggufrun_kernels(name.encode()) == name.encode()]
    cpu.ggufrun_kernels(before.encode())
    return tuple(found)


pytestmark = pytest.mark.skipif(not here(), reason="the engine has no kernels of ours here")


def number(kind: str) -> int:
    return ggml.block_types()[kind].id


def block(kind: str) -> int:
    return ggml.block_types()[kind].block


def weights_of(kind: str, rows: int, values: int, seed: int = 1, spread: float = 0) -> Bytes:
    """Random rows; with ``spread`` sub-blocks of very different sizes."""
    random = np.random.default_rng(seed)
    dense = random.standard_normal((rows, values), dtype=np.float32) * np.float32(0.02)
    if spread:
        dense *= np.exp(random.standard_normal((rows, values // 16)) * spread).repeat(16, axis=1).astype(np.float32)
    return ggml.quantize_rows(number(kind), dense).reshape(rows, -1)


def columns_of(count: int, values: int, seed: int = 2) -> Floats:
    random = np.random.default_rng(seed)
    sizes = np.exp(random.standard_normal((count, 1)) * 2)
    return (random.standard_normal((count, values)) * sizes).astype(np.float32)


def truth(kind: str, weights: Bytes, x: Floats) -> npt.NDArray[np.float64]:
    """The product in double precision of what the blocks say."""
    taken = activations(number(kind), x)
    values: npt.NDArray[np.float64] = taken @ products.as_floats(number(kind), weights).astype(np.float64).T
    return values


def same(a: Floats, b: Floats) -> bool:
    return a.tobytes() == b.tobytes()


LEAST = 2.0**-23
"""Errors below this share of the results' size count as none: a float's own rounding is half of it."""


@pytest.mark.parametrize("columns", [1, 24])
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_no_larger_than_ggmls(kind: str, columns: int) -> None:
    values = 4096
    x = columns_of(24, values)
    for spread in (0, 1):
        w = weights_of(kind, 192, values, spread=spread)
        exact = truth(kind, w, x)
        sizes = np.sqrt((exact**2).mean(axis=1, keepdims=True))
        mean, most = {}, {}
        for name in ("stock", *here()):
            with using(name):
                parts = [product(number(kind), w, x[i : i + columns]) for i in range(0, 24, columns)]
            error = (np.concatenate(parts) - exact) / sizes
            mean[name], most[name] = np.sqrt((error**2).mean()), np.abs(error).max()
        for name in here():
            assert mean[name] <= max(1.05 * mean["stock"], LEAST), (name, mean)
            assert most[name] <= max(1.5 * most["stock"], 8 * LEAST), (name, most)


SCALES_AT = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "q2_k": (80, 82), "q3_k": (108,),
    "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,), "iq4_xs": (0,),
}  # fmt: skip
"""Where a block has its floats of 16 bits."""

SCALES = {
    "any": None,
    "zeros": (0x0000, 0x8000),
    "subnormal": (0x0001, 0x83FF, 0x0200),
    "largest": (0x7BFF, 0xFBFF),
    "some infinite": (0x7C00, 0xFC00, 0x3C00, 0x3C00, 0x3C00, 0x3C00),
    "some not numbers": (0x7E00, 0x7C01, 0x3C00, 0x3C00, 0x3C00, 0x3C00),
}


def any_blocks(kind: str, rows: int, count: int, scales: tuple[int, ...] | None) -> Bytes:
    """Blocks of any bytes, with scales out of a list, or any finite ones."""
    random = np.random.default_rng(11)
    size = ggml.block_types()[kind].size
    out = random.integers(0, 256, (rows, count, size), dtype=np.uint8)
    for at in SCALES_AT[kind]:
        drawn = random.integers(0, 0x7C00, (rows, count)) | random.integers(0, 2, (rows, count)) << 15
        chosen = drawn if scales is None else random.choice(np.array(scales), (rows, count))
        out[..., at : at + 2] = chosen.astype("<u2")[..., None].view(np.uint8)
    return out.reshape(rows, -1)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("kind", SCALES_AT)
def test_blocks_of_any_bytes(kind: str, scales: str) -> None:
    count = 19 if block(kind) == 32 else 3
    w, x = any_blocks(kind, 40, count, SCALES[scales]), columns_of(5, count * block(kind))
    with np.errstate(all="ignore"):
        exact = truth(kind, w, x)
        size = np.abs(activations(number(kind), x)) @ np.abs(products.as_floats(number(kind), w).astype(np.float64)).T
    with using("stock"):
        stock = product(number(kind), w, x)
    for name in here():
        with using(name):
            found = product(number(kind), w, x)
        finite = np.isfinite(exact)
        assert (np.isfinite(found) == finite).all()
        assert (np.isfinite(stock) == finite).all()
        with np.errstate(all="ignore"):
            # against the sum of sizes: that of numbers may be small by chance
            assert (np.abs(found - exact)[finite] <= 1e-6 * size[finite]).all()


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-41, 1e-38, 1e-20, 1e20, 1e35])
@pytest.mark.parametrize("kind", KINDS)
def test_activations_of_any_size(kind: str, size: float) -> None:
    values = 256 + block(kind)
    w = weights_of(kind, 20, values)
    x = (np.random.default_rng(5).standard_normal((3, values)) * size).astype(np.float32)
    x[1, 5:40] = 0
    x[2] = 0
    x[2, 33] = -np.float32(size)
    with np.errstate(all="ignore"):
        exact = truth(kind, w, x)
        # a weight of almost nothing is the difference of two that are not
        most = np.abs(products.as_floats(number(kind), w).astype(np.float64)).max(axis=1)
        near = np.abs(activations(number(kind), x)).sum(axis=1)[:, None] * most
    for name in here():
        with using(name):
            found = product(number(kind), w, x)
        finite = np.abs(exact) < 3e38
        assert (np.isfinite(found) == np.isfinite(exact)).all()
        assert (np.abs(found - exact)[finite] <= 1e-6 * near[finite] + 1e-44).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_number_is_not_lost(kind: str) -> None:
    """ggml makes a number of some."""
    values = 256 + block(kind)
    w, x = weights_of(kind, 20, values), columns_of(8, values)
    x[0, 7], x[1, 40], x[2, 41], x[3, :] = np.nan, np.inf, -np.inf, np.nan
    x[4, 9], x[4, 200], x[5, 255] = np.inf, np.nan, -np.nan
    for name in here():
        with using(name):
            found = product(number(kind), w, x)
            assert not np.isfinite(found[:6]).any()
            assert same(found[6:], product(number(kind), w, x[6:]))
            assert np.isfinite(found[6:]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_is_the_same_alone_and_in_company(kind: str) -> None:
    values, rows = 2 * 256 + block(kind), 100
    w, x = weights_of(kind, rows, values), columns_of(29, values)
    for name in here():
        with using(name):
            whole = product(number(kind), w, x)
            for count in range(1, 29):
                assert same(product(number(kind), w, x[:count]), whole[:count]), count
            for threads in (2, 3, 4):
                assert same(product(number(kind), w, x, threads), whole), threads
                assert same(product(number(kind), w, x[3:4], threads), whole[3:4]), threads
            assert same(product(number(kind), w[37:], x), np.ascontiguousarray(whole[:, 37:]))


@pytest.mark.parametrize("kind", KINDS)
def test_all_kernels_say_the_same(kind: str) -> None:
    values = 256 + block(kind)
    w, x = weights_of(kind, 50, values), columns_of(7, values)
    found = []
    for name in here():
        with using(name):
            found.append(product(number(kind), w, x))
    assert all(same(found[0], one) for one in found)


@pytest.mark.parametrize("kind", KINDS)
def test_any_size(kind: str) -> None:
    size = block(kind)
    for values in (size, 2 * size, 3 * size, 7 * size, 8 * size, 9 * size, 28 * size if size == 32 else 5 * size):
        x = columns_of(8, values)
        for rows in (1, 2, 15, 16, 17, 31, 33, 63, 65, 129):
            w = weights_of(kind, rows, values)
            exact = truth(kind, w, x)
            for name in here():
                with using(name):
                    for columns in (1, 2, 8):
                        found = product(number(kind), w, x[:columns])
                        assert np.abs(found - exact[:columns]).max() <= 1e-5 * np.abs(exact[:columns]).max()


@pytest.mark.parametrize("columns", [600, 1100])
def test_more_columns_than_are_gone_through_at_once(columns: int) -> None:
    w, x = weights_of("q4_k", 48, 512), columns_of(columns, 512)
    for name in here():
        with using(name):
            found = product(number("q4_k"), w, x, 2)
            assert same(found[:1], product(number("q4_k"), w, x[:1]))
            assert same(found[-3:], product(number("q4_k"), w, x[-3:]))


@pytest.mark.parametrize("kind", ["q4_k", "q6_k", "q8_0", "q5_0"])
def test_several_matrices_and_turned_activations(kind: str) -> None:
    values, rows = 2 * block(kind), 21
    w = np.stack([weights_of(kind, rows, values, seed) for seed in (1, 2)])
    x = columns_of(2 * 6 * 5, values).reshape(2, 6, 5, values)
    w = np.stack([w, w[::-1]])
    for name in here():
        with using(name):
            found = product(number(kind), w, x, 3)
            # llama.cpp spreads the weights' matrices over the activations': three heads each here
            for i in range(2):
                for j in range(6):
                    assert same(found[i, j], product(number(kind), w[i, j // 3], x[i, j]))
            assert same(product(number(kind), w, x, 2, swap=True), found)


@pytest.mark.parametrize("kind", KINDS)
def test_experts(kind: str) -> None:
    values, rows, experts = 256 + block(kind), 70, 5
    w = np.stack([weights_of(kind, rows, values, seed) for seed in range(experts)])
    random = np.random.default_rng(4)
    for tokens in (1, 3, 40, 230):
        ids = np.stack([random.permutation(experts)[:2] for _ in range(tokens)]).astype(np.int32)
        for given in (1, 2):
            x = columns_of(tokens * given, values).reshape(tokens, given, values)
            for name in here():
                with using(name):
                    found = product_of_experts(number(kind), w, x, ids, 3)
                    for t in range(0, tokens, 13):
                        for u in range(2):
                            alone = product(number(kind), w[ids[t, u]], x[t, u % given][None])
                            assert same(found[t, u], alone[0])


def test_no_kernels_of_ours_where_there_are_none() -> None:
    """F16 weights stay with ggml."""
    random = np.random.default_rng(3)
    w = random.standard_normal((8, 64)).astype(np.float16)
    x = columns_of(3, 64)
    with using(here()[0]):
        ours = product(1, w.view(np.uint8), x)
    with using("stock"):
        assert same(product(1, w.view(np.uint8), x), ours)

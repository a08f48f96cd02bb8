"""Attention by our kernels: exact, and the same alone or in company.

The truth is softmax(q k / sqrt(d) + mask) v in double precision, of the very keys and values that the cache holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.quantize import ggml
from tests.support import products
from tests.support.products import F16, F32, Floats, attention, using
from tests.test_products import here, same

pytestmark = pytest.mark.skipif(not here(), reason="the engine has no kernels of ours here")

Mask = npt.NDArray[np.float16]


def draw(*shape: int, seed: int = 1, size: float = 1) -> Floats:
    return (np.random.default_rng(seed).standard_normal(shape) * size).astype(np.float32)


def causal(tokens: int, cells: int, past: int) -> Mask:
    """Token t sees cells 0 to past + t."""
    seen = np.arange(cells)[None] <= past + np.arange(tokens)[:, None]
    return np.where(seen, 0, -np.inf).astype(np.float16)[None, None]


def stored(kind: int, x: Floats) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """What the cache holds of x, and the values that are."""
    if kind == F32:
        return x, x.astype(np.float64)
    if kind == F16:
        halves = x.astype(np.float16)
        return halves, halves.astype(np.float64)
    blocks = ggml.quantize_rows(kind, x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
    return blocks, products.as_floats(kind, blocks).astype(np.float64)


def truth(
    q: Floats,
    k: npt.NDArray[np.float64],
    v: npt.NDArray[np.float64],
    mask: Mask | None,
    scale: float,
    slopes: npt.NDArray[np.float64] | None = None,
    sinks: Floats | None = None,
) -> npt.NDArray[np.float64]:
    group = q.shape[1] // k.shape[1]
    scores = q.astype(np.float64) @ np.repeat(k, group, axis=1).swapaxes(2, 3) * scale
    if mask is not None:
        scores = scores + mask.astype(np.float64) * (1 if slopes is None else slopes[None, :, None, None])
    most = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        most = np.maximum(most, sinks[None, :, None, None])
    weights = np.exp(scores - most)
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks[None, :, None, None] - most)
    found: npt.NDArray[np.float64] = (weights @ np.repeat(v, group, axis=1) / total).swapaxes(1, 2)
    return found


@pytest.mark.parametrize("kind", [F16, F32, 8, 2])
@pytest.mark.parametrize(("heads", "shared", "width"), [(6, 2, 64), (4, 4, 128), (8, 1, 80), (32, 1, 32), (3, 3, 256)])
def test_the_error_is_no_larger_than_ggmls(heads: int, shared: int, width: int, kind: int) -> None:
    width = width if kind in (F16, F32) or width % 32 == 0 else 96
    cells, scale = 700, width**-0.5
    k, exact_k = stored(kind, draw(1, shared, cells, width, seed=2))
    v, exact_v = stored(kind, draw(1, shared, cells, width, seed=3))
    for tokens in (1, 5, 70):
        q, mask = draw(1, heads, tokens, width, size=2), causal(tokens, cells, cells - 2 * tokens)
        exact = truth(q, exact_k, exact_v, mask, scale)
        size = np.sqrt((exact**2).mean())
        error = {}
        for name in ("stock", *here()):
            with using(name):
                found = attention(q, k, v, mask, scale, kinds=(kind, kind))
                error[name] = np.sqrt(((found - exact) ** 2).mean()) / size
        for name in here():
            assert error[name] <= max(1.05 * error["stock"], 5e-7), error


@pytest.mark.parametrize("bias", [0.0, 8.0])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_slopes_and_sinks(bias: float, with_sinks: bool) -> None:
    heads, cells, width = 12, 600, 64
    k, exact_k = stored(F16, draw(2, 4, cells, width, seed=2))
    v, exact_v = stored(F16, draw(2, 4, cells, width, seed=3))
    q = draw(2, heads, 9, width, size=2)
    far = -np.abs(np.arange(cells)[None] - (cells - 9 + np.arange(9))[:, None])
    mask = np.stack([(causal(9, cells, cells - 9)[0, 0] + far)[None] for _ in range(2)]).astype(np.float16)
    sinks = draw(heads, seed=5, size=3) if with_sinks else None
    # ALiBi's slopes: of the largest power of two of heads, then those between
    powers = [(h + 1) / 8 if h < 8 else (2 * (h - 8) + 1) / 16 for h in range(heads)]
    slopes = np.exp2(-bias * np.array(powers))
    exact = truth(q, exact_k, exact_v, mask, 0.125, slopes if bias else None, sinks)
    for name in here():
        with using(name):
            found = attention(q, k, v, mask, 0.125, bias, sinks)
            assert np.abs(found - exact).max() < 2e-6


def test_no_mask_and_other_widths_of_values() -> None:
    k, exact_k = stored(F16, draw(1, 1, 130, 192, seed=2))
    v, exact_v = stored(F16, draw(1, 1, 130, 112, seed=3))
    q = draw(1, 16, 3, 192)
    for name in here():
        with using(name):
            found = attention(q, k, v, None, 0.07)
            assert np.abs(found - truth(q, exact_k, exact_v, None, 0.07)).max() < 2e-6


@pytest.mark.parametrize(("heads", "shared"), [(6, 2), (4, 4), (16, 1)])
def test_a_token_is_the_same_alone_and_in_company(heads: int, shared: int) -> None:
    """Whatever the tokens that are computed with it, the cells that others have, the threads, and the kernels."""
    cells, width, tokens = 1400, 64, 40
    k, _ = stored(F16, draw(1, shared, cells, width, seed=2))
    v, _ = stored(F16, draw(1, shared, cells, width, seed=3))
    q, mask = draw(1, heads, tokens, width, size=2), causal(tokens, cells, cells - 100)
    with using(here()[0]):
        whole = attention(q, k, v, mask, 0.125)
    for name in here():
        with using(name):
            for threads in (1, 2, 3, 8):
                assert same(attention(q, k, v, mask, 0.125, threads=threads), whole)
                for t in (0, 17, 39):
                    part = np.ascontiguousarray(q[:, :, t : t + 1]), np.ascontiguousarray(mask[:, :, t : t + 1])
                    assert same(attention(part[0], k, v, part[1], 0.125, threads=threads), whole[:, t : t + 1])
                    # fewer cells: those that it does not see
                    fewer = 1360
                    near_k, near_v = (np.ascontiguousarray(one[:, :, :fewer]) for one in (k, v))
                    hidden = np.ascontiguousarray(part[1][..., :fewer])
                    assert same(attention(part[0], near_k, near_v, hidden, 0.125, threads=threads), whole[:, t : t + 1])


def test_cells_of_other_texts_do_not_count() -> None:
    """Two texts in one cache: what is in the cells of the other does not matter."""
    cells, width = 640, 64
    k, _ = stored(F16, draw(1, 2, cells, width, seed=2))
    v, _ = stored(F16, draw(1, 2, cells, width, seed=3))
    q = draw(1, 4, 2, width)
    mask = np.where(np.arange(cells) // 100 % 2 == 0, 0, -np.inf).astype(np.float16)[None, None, None].repeat(2, 2)
    for name in here():
        with using(name):
            found = attention(q, k, v, mask, 0.125)
            other_k, other_v = k.copy(), v.copy()
            hidden = ~np.isfinite(mask[0, 0, 0])
            other_k[:, :, hidden], other_v[:, :, hidden] = 7, -9
            assert same(attention(q, other_k, other_v, mask, 0.125), found)


def test_rows_that_see_nothing_are_zero() -> None:
    k, _ = stored(F16, draw(1, 2, 256, 64, seed=2))
    q, mask = draw(1, 4, 3, 64), causal(3, 256, 100)
    mask[:, :, 1] = -np.inf
    for name in here():
        with using(name):
            found = attention(q, k, k, mask, 0.125)
            assert not found[:, 1].any() and found[:, 0].any()


def test_large_scores() -> None:
    """Weights that underflow, and scores of every size."""
    k, exact_k = stored(F16, draw(1, 1, 300, 64, seed=2, size=20))
    v, exact_v = stored(F16, draw(1, 1, 300, 64, seed=3))
    q = draw(1, 4, 6, 64) * np.array([1e-6, 1, 10, 100, 1e4, 1e8], np.float32)[None, None, :, None]
    for name in here():
        with using(name):
            found = attention(q, k, v, None, 1)
            exact = truth(q, exact_k, exact_v, None, 1)
            assert np.abs(found - exact)[:, :4].max() < 1e-3
            assert np.abs(found - exact)[:, :2].max() < 2e-5
            assert np.isfinite(found).all()

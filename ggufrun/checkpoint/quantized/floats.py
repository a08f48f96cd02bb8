"""Stored float types as float32, and float32 rounded to what a narrower type can hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.tensor import Rows

Floats = npt.NDArray[np.float32]

FLOATS = ("F32", "F16", "BF16", "F64")

F16_TINY = np.float32(2.0**-14)
"""Below this, F16 has a fixed step of 2**-24."""
F16_OVERFLOW = 65520.0
"""From here on, F16 has only infinity."""


@cache
def fp8_values(dtype: str) -> Floats:
    """What each of the 256 bit patterns of an FP8 type is worth.

    Source: OCP's "8-bit Floating Point Specification" for E4M3 (no infinities) and E5M2.
    """
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
    "F8_E4M3": lambda rows: np.take(fp8_values("F8_E4M3"), rows),
    "F8_E5M2": lambda rows: np.take(fp8_values("F8_E5M2"), rows),
}


def as_float32(dtype: str, rows: Rows) -> Floats:
    """Rows of a stored float type as float32."""
    return CONVERTERS[dtype](rows)


def e8m0_values(exponents: npt.NDArray[np.uint8]) -> Floats:
    """Powers of two by their biased exponents, as OCP's microscaling formats keep scales; 255 is not a number."""
    values: Floats = np.ldexp(np.float32(1), exponents.astype(np.int32) - 127).astype(np.float32)
    values[exponents == 255] = np.nan
    return values


def round_to(precision: str, values: Floats, largest: float | None = None) -> Floats:
    """``values`` rounded to the nearest that ``precision`` can hold, ties to even, in place. F32 stays as it is.

    ``largest`` bounds their sizes where all are multiples of F16's smallest step, as products of an F16 and a whole
    number are: those below F16's normal range need no rounding then.
    """
    if precision == "BF16":
        return _drop_bits(values, 16)
    if precision != "F16":
        return values
    if largest is not None and largest < F16_OVERFLOW:
        return _drop_bits(values, 13)
    return _round_to_f16(values)


def _drop_bits(values: Floats, count: int) -> Floats:
    """Round away the last ``count`` bits of the mantissas. Infinities and the NaNs of arithmetic stay what they are."""
    bits = values.view(np.uint32)
    odd = bits >> np.uint32(count)
    odd &= np.uint32(1)
    odd += np.uint32((1 << (count - 1)) - 1)
    bits += odd
    bits &= np.uint32(0xFFFFFFFF >> count << count)
    return values


def _round_to_f16(values: Floats) -> Floats:
    # numpy's own conversion takes four times as long, so it only does what is out of F16's normal range
    sizes = np.abs(values)
    outside = sizes < F16_TINY
    outside |= ~(sizes < F16_OVERFLOW)
    # many codes of 4 bits stand for it
    outside &= sizes != 0
    rare = np.flatnonzero(outside)
    flat = values.reshape(-1)
    with np.errstate(over="ignore"):
        exact = flat[rare].astype(np.float16).astype(np.float32)
    _drop_bits(values, 13)
    flat[rare] = exact
    return values

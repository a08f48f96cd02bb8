"""How tensors are stored in a GGUF: the numbers of ``enum ggml_type``, and the values and bytes of a block.

The ``gguf`` package has most of them; it lags behind the pinned engine by a type or two, which are added here.
"""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType

import gguf


class TensorType(IntEnum):
    """A type that a tensor of a GGUF can have. Equal to the ``gguf`` package's number of the same type."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42


BEYOND_THE_PACKAGE = {int(TensorType.Q2_0): (64, 18)}
_SIZES = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()} | BEYOND_THE_PACKAGE

BLOCKS = MappingProxyType({kind: _SIZES[kind] for kind in TensorType})
"""Values and bytes of a block."""

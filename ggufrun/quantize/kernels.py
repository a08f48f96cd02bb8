"""How fast the quantization kernels are here, and whether they are ours.

llama.cpp compiles its kernels without SIMD; ``tools/ggml-kernels.cmake`` brings others, and a plain ``pip install``
does not. A library with ours holds llama.cpp's own too, under other names: both are measured, and write the same bytes.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ggufrun.native.library import stock_quantizer
from ggufrun.quantize import ggml

Q4_K, IQ4_XS = 12, 23
"""``enum ggml_type``."""


@dataclass(frozen=True)
class KernelSpeed:
    """Values quantized per second and core, in millions."""

    q4_k: float
    iq4_xs: float
    stock_q4_k: float | None = None
    """The same with llama.cpp's own functions, where the library has others."""
    stock_iq4_xs: float | None = None

    @property
    def tuned(self) -> bool:
        """Whether the library has kernels of ours."""
        return self.stock_q4_k is not None


def measure(n_rows: int = 12, n_per_row: int = 4096, repeat: int = 5) -> KernelSpeed:
    """Quantize some normally distributed rows a few times; the best of ``repeat`` counts. Takes about 0.1 s.

    Processor time of this thread is measured, so that other work on the machine does not count.
    """
    rows = np.random.default_rng(0).standard_normal((n_rows, n_per_row), dtype=np.float32) * np.float32(0.02)
    runs: dict[str, Callable[[], object]] = {
        "q4_k": lambda: ggml.quantize_rows(Q4_K, rows),
        "iq4_xs": lambda: ggml.quantize_rows(IQ4_XS, rows),
    }
    for name, kind in (("q4_K", Q4_K), ("iq4_xs", IQ4_XS)):
        if (stock := _stock(name, kind, rows)) is not None:
            runs[f"stock_{name.lower()}"] = stock
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeat):
        for name, run in runs.items():
            start = time.thread_time()
            run()
            best[name] = min(best[name], time.thread_time() - start)
    # A clock too coarse to see the run must not divide by nothing.
    return KernelSpeed(**{name: rows.size / max(seconds, 1e-6) / 1e6 for name, seconds in best.items()})


def _stock(name: str, kind: int, rows: ggml.Floats) -> Callable[[], object] | None:
    """llama.cpp's own function for a type, on ``rows``; None where it has its own name."""
    function = stock_quantizer(name)
    if function is None:
        return None
    out = np.empty(rows.shape[0] * ggml.block_type(kind).row_bytes(rows.shape[1]), np.uint8)
    pointers = (ctypes.c_void_p(rows.ctypes.data), ctypes.c_void_p(out.ctypes.data))
    return lambda: (function(*pointers, rows.shape[0], rows.shape[1], None), out)

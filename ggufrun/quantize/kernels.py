"""How fast the quantization kernels are here, and whether they were built with SIMD.

llama.cpp compiles its kernels without SIMD; ``tools/ggml-kernels.cmake`` brings others, and a plain ``pip install``
does not. Which build is installed is measured: the search for IQ4_XS runs through tables and branches and is the same
in both, while Q4_K gains ten times. Their ratio therefore tells, whatever the clock and whoever else uses it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ggufrun.quantize import ggml

Q4_K, IQ4_XS = 12, 23
"""``enum ggml_type``."""

TUNED_RATIO = 6.0
"""Q4_K's speed over IQ4_XS's from which a build counts as tuned. Measured with GCC 12: stock 2.6 (Zen 4) and 3.4
(Zen 5); tuned 10 with SSE2 alone, 22 with AVX2, 34 with AVX-512."""


@dataclass(frozen=True)
class KernelSpeed:
    """Values quantized per second and core, in millions."""

    q4_k: float
    iq4_xs: float

    @property
    def ratio(self) -> float:
        """Q4_K over IQ4_XS."""
        return self.q4_k / self.iq4_xs

    @property
    def tuned(self) -> bool:
        """Whether the kernels were compiled with SIMD."""
        return self.ratio >= TUNED_RATIO


def measure(n_rows: int = 12, n_per_row: int = 4096, repeat: int = 5) -> KernelSpeed:
    """Quantize some normally distributed rows a few times; the best of ``repeat`` counts. Takes about 0.1 s.

    Processor time of this thread is measured, so that other work on the machine does not count.
    """
    rows = np.random.default_rng(0).standard_normal((n_rows, n_per_row), dtype=np.float32) * np.float32(0.02)
    best = dict.fromkeys((Q4_K, IQ4_XS), float("inf"))
    for _ in range(repeat):
        for kind in best:
            start = time.thread_time()
            ggml.quantize_rows(kind, rows)
            best[kind] = min(best[kind], time.thread_time() - start)
    # A clock too coarse to see the run must not divide by nothing.
    speed = {kind: rows.size / max(seconds, 1e-6) / 1e6 for kind, seconds in best.items()}
    return KernelSpeed(speed[Q4_K], speed[IQ4_XS])

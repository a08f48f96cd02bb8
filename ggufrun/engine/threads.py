"""How many threads the engine computes with when the user does not say."""

from __future__ import annotations

from functools import cache

from ggufrun.processors import processors

MAX_THREADS = 512
"""``GGML_MAX_N_THREADS``."""


@cache
def default_threads() -> int:
    """One thread a processor core that this process may use, fewer where a container's quota is smaller."""
    return min(processors().for_latency, MAX_THREADS)

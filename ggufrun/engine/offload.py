"""Which part of a model goes to a GPU."""

from __future__ import annotations

from ggufrun.engine.devices import has_gpu

ALL_LAYERS = 999
"""More layers than any model has, as llama.cpp's users write it."""


def gpu_layers(asked: int | None) -> int:
    """Layers to put on the GPU: what was asked for (negative: all), else all when there is a GPU, else none."""
    if not has_gpu():
        return 0
    return ALL_LAYERS if asked is None or asked < 0 else asked

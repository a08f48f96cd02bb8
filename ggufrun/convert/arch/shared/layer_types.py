"""What every layer attends to: ``layer_types``, as transformers calls it, for the families that tell."""

from __future__ import annotations

from collections.abc import Collection

import gguf

from ggufrun.convert.arch.shared.layout import n_layers
from ggufrun.convert.config import Config
from ggufrun.errors import FormatError

WINDOW, FULL = "sliding_attention", "full_attention"
"""Some tokens before, or all of them."""


def interleaved(config: Config, every: int, others: str = WINDOW) -> list[str]:
    """Full attention in the last of ``every`` layers, ``others`` in those before it."""
    return [FULL if (layer + 1) % every == 0 else others for layer in range(n_layers(config))]


def layer_types(config: Config, known: Collection[str] = (WINDOW, FULL)) -> list[str]:
    """What config.json says, one of ``known`` for every layer; FormatError for anything else."""
    found = config.values.get("layer_types")
    if not isinstance(found, list) or len(found) != n_layers(config) or any(kind not in known for kind in found):
        raise FormatError(f"{config.path} has layer_types that do not describe its layers", "correct the file")
    return found


def window_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """The size of the window, and which layers have it."""
    writer.add_sliding_window(config.integer("sliding_window"))
    writer.add_sliding_window_pattern([kind == WINDOW for kind in config.values["layer_types"]])

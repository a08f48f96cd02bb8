"""LoRA adapters in GGUF, added to a model while it runs."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufrun.engine.model import Model, catching
from ggufrun.errors import EngineError, NotFoundError, UsageError
from ggufrun.native.library import llama
from ggufrun.native.log import forget_log, reason
from ggufrun.native.signals import defer_signals


@dataclass(frozen=True)
class Adapter:
    """An adapter's file, and how strongly it counts (its own alpha aside)."""

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and abs(self.scale) < 1e9):
            raise UsageError(f"the scale of {self.path} is {self.scale}", "give a number, such as 0.5")


def scaled(text: str) -> tuple[Adapter, ...]:
    """``FILE:SCALE,FILE:SCALE`` as llama.cpp writes it; raises UsageError."""
    adapters = []
    for part in text.split(","):
        name, colon, scale = part.rpartition(":")
        try:
            adapters.append(Adapter(Path(name), float(scale)))
        except ValueError:
            colon = ""
        if not colon or not name:
            raise UsageError(f"--lora-scaled {part}", "write FILE:SCALE")
    return tuple(adapters)


def attach(context: Any, model: Model, adapters: Sequence[Adapter]) -> None:
    """Add ``adapters`` to a ``llama_context *``, whose memory must be empty. They live as long as the model.

    Raises NotFoundError, or EngineError for a file that is no adapter or one of another model.
    """
    if not adapters:
        return
    api = llama()
    loaded = []
    for adapter in adapters:
        if not adapter.path.is_file():
            raise NotFoundError(f"{adapter.path}: no such file", "give a GGUF adapter (ggufrun convert --lora-out)")
        forget_log()
        with defer_signals(), catching(model.params):
            pointer = api.llama_adapter_lora_init(model.pointer, os.fsencode(adapter.path))
        if not pointer:
            why = reason("llama.cpp gave no reason").removeprefix("failed to apply lora adapter: ")
            raise EngineError(
                f"{adapter.path.name} cannot be added to {model.path.name}: {why}",
                "give the adapter of this very model, as GGUF (ggufrun convert --lora-out)",
            )
        loaded.append(pointer)
    count = len(loaded)
    pointers = (ctypes.c_void_p * count)(*loaded)
    scales = (ctypes.c_float * count)(*(adapter.scale for adapter in adapters))
    if api.llama_set_adapters_lora(context, pointers, count, scales) != 0:
        raise EngineError("llama.cpp did not take the adapters", "check that they fit the model")

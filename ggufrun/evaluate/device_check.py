"""Does a device compute what the processor computes? A small model, all of it on the device, logits held against the
processor's.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.placement.memory import measure
from ggufrun.engine.placement.offload import ALL_LAYERS, NO_DEVICE, Placement
from ggufrun.evaluate.bench import Test, run
from ggufrun.native.library import llama

TEXT = "背一下静夜思\n床前明月光，疑是地上霜。举头望明月，低头思故乡。\n作者是谁？《静夜思》的作者是李白。"

PLACES = 12
"""Prefixes of the text whose next-token logits are compared."""

WRONG = 1e-3
"""Normalized squared difference from which on a device is wrong: half-precision sums make some 1e-6, garbage 1."""

SPEED = (Test(128, 0), Test(0, 32))


@dataclass(frozen=True)
class Speeds:
    """Tokens a second, reading and writing, and seconds to open the model."""

    prompt: float
    generation: float
    load: float


@dataclass(frozen=True)
class Proof:
    """``difference`` is the sum of squared differences of all logits over the sum of their squares; ``same`` of
    ``places`` have the same most probable token. ``layers`` of ``of`` were on the device.
    """

    device: str
    difference: float
    same: int
    places: int
    layers: int
    of: int
    speeds: Speeds
    processor: Speeds

    @property
    def works(self) -> bool:
        """Is what it computes right?"""
        return self.difference < WRONG and self.layers == self.of


def prove(path: Path, device: str) -> Proof:
    """Try the device called ``device``. Raises EngineError, and ends the process where llama.cpp does: call it in one
    of its own.
    """
    # by its name: a GPU that is part of the processor is not on the engine's own list where there is another
    only = Placement(devices=(device,))
    there = measure(ModelParams(path, ALL_LAYERS, placement=only))
    # without layers on it, a GPU would still compute long prompts
    expected, processor = _run(ModelParams(path, 0, placement=Placement(split="none", main=NO_DEVICE)))
    found, speeds = _run(ModelParams(path, ALL_LAYERS, placement=only))
    # a layer without a device stays with the host, and its cache with it
    on_device = sum(place.use.cache for place in there.devices) / max(1, there.total.cache)
    return Proof(
        device=device,
        difference=difference(expected, found),
        same=int((expected.argmax(1) == found.argmax(1)).sum()),
        places=len(expected),
        layers=round(on_device * there.layers),
        of=there.layers,
        speeds=speeds,
        processor=processor,
    )


def difference(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    """Normalized squared difference; infinite for values that are not numbers."""
    if not np.isfinite(found).all():
        return float("inf")
    wide = expected.astype(np.float64)
    return float(((wide - found) ** 2).sum() / max((wide**2).sum(), 1e-30))


def _run(params: ModelParams) -> tuple[npt.NDArray[np.float32], Speeds]:
    begun = time.perf_counter()
    with Model(params) as model:
        load = time.perf_counter() - begun
        ids = model.vocab.tokenize(TEXT, special=False, bos=True)
        rows = []
        with Context(model, ContextParams(n_ctx=512)) as context:
            for place in np.linspace(1, len(ids), PLACES).astype(int):
                context.feed(ids[:place])
                pointer = llama().llama_get_logits_ith(context.pointer, -1)
                values = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float * model.vocab.size)).contents
                rows.append(np.array(values, np.float32))
        prompt, generation = (result.mean for result in run(model, SPEED, ContextParams(), repetitions=1))
    return np.stack(rows), Speeds(prompt, generation, load)

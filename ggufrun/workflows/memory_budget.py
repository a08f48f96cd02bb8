"""The budget of memory: what of a model goes where, what is left, and what else would fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ggufrun.engine.context import ContextParams
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement.fit import Fit
from ggufrun.engine.placement.memory import Footprint, measure
from ggufrun.engine.placement.offload import ALL_LAYERS
from ggufrun.errors import EngineError
from ggufrun.units import size_text
from ggufrun.workflows.open_model import fit_for

Measured = Callable[[ModelParams, ContextParams], Footprint]

MOST_MEASURED = 1 << 22
"""Tokens of the longest context that is tried: llama.cpp keeps a list of them even where it takes no memory otherwise,
and a header may say anything."""

STEP = 256
"""Tokens: llama.cpp rounds a context up to so many."""


def budget(model: ModelParams, context: ContextParams, margin: int) -> tuple[Fit, list[str]]:
    """What of a model goes where, ``margin`` bytes left free on each device, and lines about what else would fit."""
    found = fit_for(model, context, margin)
    if found is None:
        footprint = measure(model, context)
        layers = 0
        if footprint.devices:
            asked = model.gpu_layers if model.gpu_layers is not None else -1
            layers = footprint.layers + 1 if asked < 0 else min(asked, footprint.layers + 1)
        found = Fit(layers, footprint.layers + 1, model.placement, footprint, margin)
    return found, advice(model, context, found, measure)


def advice(model: ModelParams, context: ContextParams, found: Fit, measured: Measured) -> list[str]:
    """What would fit: a longer context where all is well, else what would make it so. Each claim is measured."""
    footprint = found.footprint
    places = footprint.devices if found.layers else (footprint.host,)
    if found.whole or not footprint.devices:
        if all(place.left >= 0 for place in (footprint.host, *places)):
            chosen = found.applied(model) if footprint.devices else model
            longest = longest_context(chosen, context, found, measured)
            return [f"a context of {longest:,} tokens would fit as well"] if longest > footprint.context else []
        return [*missing_memory(footprint), *_smaller(model, context, found, measured)]
    whole = measured(replace(model, gpu_layers=ALL_LAYERS), context)
    short = sum(place.use.total + found.margin for place in whole.devices) - sum(
        place.device.free for place in whole.devices
    )
    if short <= 0 and model.gpu_layers is not None:
        return [*missing_memory(footprint), "all layers would fit: leave -ngl out"]
    wanted = [*missing_memory(footprint)]
    wanted += [f"everything on the devices would want {size_text(short)} more"] if short > 0 else []
    return [*wanted, *_smaller(model, context, found, measured)]


def missing_memory(footprint: Footprint) -> list[str]:
    """A line when the computer's own memory is too small; what a device lacks, the computer takes."""
    place = footprint.host
    return [f"it does not fit: {size_text(-place.left)} are missing on {place.device.name}"] if place.left < 0 else []


def _smaller(model: ModelParams, context: ContextParams, found: Fit, measured: Measured) -> list[str]:
    """The smaller settings with which all of it fits."""
    tokens = found.footprint.context
    tries = [(f"-c {length}", replace(context, n_ctx=length)) for length in (tokens // 2, tokens // 4) if length >= 512]
    halved = replace(context, type_k="q8_0", type_v="q8_0", flash_attention="on")
    tries.insert(0, ("-ctk q8_0 -ctv q8_0 -fa on", halved))
    for flags, smaller in tries:
        try:
            tried = measured(replace(model, gpu_layers=ALL_LAYERS), smaller)
        except EngineError:
            continue
        places = tried.devices or (tried.host,)
        if all(place.left >= (found.margin if tried.devices else 0) for place in places):
            return [f"with {flags} all of it fits"]
    return ["a smaller type of the model would fit better: `ggufrun quantize`"]


def longest_context(model: ModelParams, context: ContextParams, found: Fit, measured: Measured) -> int:
    """Tokens of context, at most those of the training, with which the same placement still fits."""
    footprint = found.footprint
    low, high = footprint.context, max(footprint.context, min(footprint.trained_context, MOST_MEASURED))

    def fits(tokens: int) -> bool:
        tried = measured(model, replace(context, n_ctx=tokens))
        keep = found.margin
        return tried.host.left >= 0 and all(place.left >= keep for place in tried.devices if place.use.weights)

    if high <= low or fits(high):
        return high
    while high - low > max(STEP, low // 16):
        middle = (low + high) // 2 // STEP * STEP
        if middle <= low:
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low

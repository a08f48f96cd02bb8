"""The budget of memory as a table: what of a model goes where, what is left, and what else would fit."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ggufrun.cli.flags import placement
from ggufrun.cli.terminal import console, tables
from ggufrun.errors import EngineError
from ggufrun.units import size_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.table import Table

    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.model import ModelParams
    from ggufrun.engine.placement.fit import Fit
    from ggufrun.engine.placement.memory import Footprint, Place

    Measured = Callable[[ModelParams, ContextParams], Footprint]

STEP = 256
"""Tokens: llama.cpp rounds a context up to so many."""


def budget(path: Path, context: ContextParams, flags: placement.PlaceFlags) -> tuple[Fit, list[str]]:
    """What goes where with these flags, and lines about what else would fit."""
    from ggufrun.engine.placement.fit import Fit
    from ggufrun.engine.placement.memory import measure
    from ggufrun.workflows.open_model import fitted

    model = placement.params(path, flags)
    found = fitted(model, context, placement.margin(flags))
    if found is None:
        footprint = measure(model, context)
        layers = 0
        if footprint.devices:
            asked = model.gpu_layers if model.gpu_layers is not None else -1
            layers = footprint.layers + 1 if asked < 0 else min(asked, footprint.layers + 1)
        found = Fit(layers, footprint.layers + 1, model.placement, footprint, placement.margin(flags))
    return found, advice(model, context, found, measure)


def advice(model: ModelParams, context: ContextParams, found: Fit, measured: Measured) -> list[str]:
    """What would fit: a longer context where all is well, else what would make it so. Each claim is measured."""
    from ggufrun.engine.placement.offload import ALL_LAYERS

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
    from ggufrun.engine.placement.offload import ALL_LAYERS

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
    low, high = footprint.context, max(footprint.context, footprint.trained_context)

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


# --- showing ----------------------------------------------------------------------------------------------------------


def show(found: Fit, lines: list[str]) -> None:
    """The table, and the lines beneath it."""
    tables.show(table(found), console.out())
    for line in [summary(found), *lines]:
        console.say(line)


def table(found: Fit) -> Table:
    """A row a device, the computer's own memory last."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD)
    for name in ("device", "free", "weights", "cache", "buffers", "left"):
        is_number = name != "device"
        made.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for place in (*found.footprint.devices, found.footprint.host):
        use = place.use
        left = Text(size_text(place.left), style="" if place.left >= 0 else "red")
        made.add_row(
            console.literal(_name(place)),
            size_text(place.device.free),
            size_text(use.weights),
            size_text(use.cache),
            size_text(use.compute),
            left,
        )
    return made


def _name(place: Place) -> str:
    device = place.device
    return f"{device.name} ({device.description})" if device.description else device.name


def summary(found: Fit) -> str:
    """One line about the whole."""
    footprint = found.footprint
    what = f"context {footprint.context:,} of {footprint.trained_context:,} tokens"
    if not footprint.devices:
        return f"{what}; no GPU: the processor computes"
    what = f"{found.layers} of {found.of} layers on the devices, {what}"
    if found.placement.shares:
        what += f", shares {','.join(f'{share:g}' for share in found.placement.shares)}"
    if found.placement.cpu_experts:
        what += f", experts of {min(found.placement.cpu_experts, footprint.layers)} layers with the processor"
    return f"{what}, {size_text(found.margin)} kept free on each"


def as_json(found: Fit, lines: list[str]) -> dict[str, Any]:
    """The same for scripts, in bytes."""
    return {
        "layers": found.layers,
        "of": found.of,
        "context": found.footprint.context,
        "trained_context": found.footprint.trained_context,
        "shares": list(found.placement.shares),
        "cpu_experts": found.placement.cpu_experts,
        "margin": found.margin,
        "fits": found.footprint.fits,
        "places": [
            {**asdict(place.device), **asdict(place.use), "left": place.left}
            for place in (*found.footprint.devices, found.footprint.host)
        ],
        "advice": lines,
    }

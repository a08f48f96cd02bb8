"""A model opened where the flags say; without them, as much of it on the devices as fits, and a line that tells so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ggufrun.cli.flags import placement
from ggufrun.cli.terminal import console
from ggufrun.cli.terminal.units import size_text
from ggufrun.errors import EngineError

if TYPE_CHECKING:
    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.model import Model, ModelParams
    from ggufrun.engine.placement.fit import Fit


def fitted(model: ModelParams, context: ContextParams, flags: placement.PlaceFlags) -> Fit | None:
    """What fits, where that is ours to choose."""
    from ggufrun.engine.placement import fit
    from ggufrun.engine.placement.devices import has_gpu

    # split by tensors, all devices are one, whose memory nobody tells
    if model.gpu_layers is not None or model.placement.split == "tensor" or not has_gpu():
        return None
    return fit.choose(model, context, placement.margin(flags))


def open_model(
    model: ModelParams,
    context: ContextParams,
    flags: placement.PlaceFlags,
    load: Callable[[ModelParams], Model],
    quiet: bool = False,
) -> Model:
    """The model, with as much of it on the devices as fits; ``load`` opens it. ``quiet`` leaves the hints out.

    Where the driver refuses the memory all the same, fewer layers are tried, and that is said.
    """
    from ggufrun.engine.placement.fit import is_refusal

    found = fitted(model, context, flags)
    if not quiet:
        hint(model)
    if found is None:
        return load(model)
    if found.layers < found.of or found.placement != model.placement:
        say(found)
    chosen, step = found.applied(model), max(1, found.of // 10)
    while True:
        try:
            return _tried(chosen, context, load)
        except EngineError as error:
            fewer = _less(chosen, found, step)
            if fewer is None or not is_refusal(error):
                raise
            how = f"{fewer.gpu_layers} layers" if fewer.gpu_layers or chosen.gpu_layers else "the processor alone"
            console.note(f"the driver refused the memory ({error.what}); trying {how}")
            chosen, step = fewer, 2 * step


def _tried(model: ModelParams, context: ContextParams, load: Callable[[ModelParams], Model]) -> Model:
    """The model, with a context made and dropped: the driver's last chance to refuse. It costs some milliseconds, and
    no figure tells whether it can be spared: where a card is shared out (a container, a virtual GPU, Windows' desktop)
    the driver counts memory as free that it does not give.
    """
    from ggufrun.engine.context import Context
    from ggufrun.engine.placement.offload import NO_DEVICE

    opened = load(model)
    if model.placement.main != NO_DEVICE:
        try:
            Context(opened, replace(context, adapters=())).close()
        except BaseException:
            opened.close()
            raise
    return opened


def _less(model: ModelParams, found: Fit, step: int) -> ModelParams | None:
    """``step`` fewer layers, at last no device at all; None when nothing is left to leave out."""
    from ggufrun.engine.placement.offload import NO_DEVICE, Placement

    now = model.gpu_layers or 0
    if now <= 0:
        alone = Placement(devices=model.placement.devices, split="none", main=NO_DEVICE)
        return None if model.placement == alone else replace(model, placement=alone)
    left = max(0, min(now, found.of) - step)
    shares = list(model.placement.shares)
    surplus = sum(shares) - left
    for index, share in enumerate(shares):
        taken = min(share, max(0.0, surplus))
        shares[index] -= taken
        surplus -= taken
    kept = tuple(shares) if any(shares) else ()
    return replace(model, gpu_layers=left, placement=replace(model.placement, shares=kept))


# --- talking ----------------------------------------------------------------------------------------------------------


def say(found: Fit) -> None:
    """One line when not everything is on the devices."""
    if found.whole:
        return
    if mute := [place.device.name for place in found.footprint.devices if not place.device.total]:
        console.note(
            f"{' and '.join(mute)} cannot be used: its driver does not tell its memory, as where another program has "
            "the card for itself (`ggufrun doctor` knows more)"
        )
        return
    if not found.footprint.devices:
        console.note("no layer fits on a GPU, nor what would help the processor; it does all")
        return
    what = f"{found.layers} of {found.of} layers" if found.layers < found.of else "all layers"
    if found.placement.cpu_experts:
        what += f", without the experts of {min(found.placement.cpu_experts, found.footprint.layers)}"
    where = ", ".join(
        f"{place.device.name} ({size_text(place.use.total)} of {size_text(place.device.free)} free)"
        for place in found.footprint.devices
    )
    console.note(f"{what} fit on {where}; the processor does the rest")


def hint(model: ModelParams) -> None:
    """One line when a card lies idle, or when a build for a GPU has found none."""
    from ggufrun.engine.placement.devices import gpu_backends, has_gpu, hidden_by, refusals

    if model.gpu_layers == 0 or model.placement.devices:
        return
    for name, why in refusals().items():
        taken = "other programs have all of its memory" if "memory" in why else why
        console.note(f"{name} is left out: {taken} (`ggufrun doctor` knows more)")
    if refusals() or has_gpu():
        return
    built = gpu_backends()
    if line := "" if hidden_by(built) else idle(built, card_here()):
        console.note(line)


def idle(backends: tuple[str, ...], card: bool) -> str:
    """What is to be said where no GPU computes: the engine's GPU ``backends``, an NVIDIA ``card`` in the machine.

    On a machine without either, -ngl is passed over in silence: scripts carry it from machine to machine.
    """
    if backends:
        built = " and ".join(backends)
        why = "see `ggufrun doctor`" if card else "`make cpu` builds a smaller engine"
        return f"the engine is built with {built} but finds no GPU, so the processor computes; {why}"
    if card:
        return "an NVIDIA card is here, but this engine is built without CUDA: `make cuda` builds one that uses it"
    return ""


def card_here() -> bool:
    """Is an NVIDIA card in this machine? Asked of the system's files, which is quick."""
    from ggufrun.evaluate import machine

    return machine.nvidia_present()

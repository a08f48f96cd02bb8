"""A model opened: its file checked, its size held against the memory, as much of it on the devices as fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ggufrun.checkpoint.gguf.adapter import check_adapter, ignored_weights
from ggufrun.checkpoint.gguf.checks import check_model
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.checkpoint.gguf.source import GGUFSource
from ggufrun.engine.adapters import Adapter
from ggufrun.engine.chunks import ChunkParams
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.placement import fit
from ggufrun.engine.placement.devices import gpu_backends, has_gpu, hidden_by
from ggufrun.engine.placement.fit import MARGIN, Fit, is_refusal
from ggufrun.engine.placement.memory import measure
from ggufrun.engine.placement.offload import NO_DEVICE, Placement
from ggufrun.errors import EngineError, NotFoundError
from ggufrun.evaluate import machine
from ggufrun.native.cuda import refusals
from ggufrun.units import size_text

Note = Callable[[str], None]
"""Hears one line of talk for the user."""


def silent(line: str) -> None:
    """Nobody listens."""


def check_file(path: Path) -> None:
    """Refuse a file that is not a sound GGUF before the engine touches it; the error says what is wrong with it."""
    if path.is_dir():
        raise NotFoundError(f"{path} is a folder, not a .gguf file", f"convert it first: ggufrun convert {path}")
    if not path.exists():
        raise NotFoundError(f"{path}: no such file", "give the path of a .gguf file")
    header = read_header(path)
    if header.get("split.count", 1) not in (0, 1):
        # a layer may be cut in two
        source = GGUFSource(path)
        source.close()
        header = source.header
    check_model(path, header)


def check_adapters(model: Path, adapters: Sequence[Adapter], note: Note = silent) -> None:
    """Refuse adapters that do not fit the GGUF at ``model``, before the engine touches them; note what it ignores."""
    if not adapters:
        return
    source = GGUFSource(model)
    tensors = source.header.tensors
    source.close()
    for adapter in adapters:
        header = read_header(adapter.path)
        check_adapter(adapter.path, header, model, tensors)
        if ignored := ignored_weights(header):
            note(
                f"llama.cpp ignores what {adapter.path.name} changes in {len(ignored)} weights, such as {ignored[0]}; "
                "merge it to have all of it: ggufrun convert BASE --lora ADAPTER"
            )


@dataclass(frozen=True)
class Where:
    """Where models go: layers on the GPU (None: those that fit), devices, and bytes left free on each."""

    gpu_layers: int | None = None
    placement: Placement = field(default_factory=Placement)
    margin: int = MARGIN

    def model(self, path: Path) -> ModelParams:
        """How a model is opened so."""
        return ModelParams(path, self.gpu_layers, placement=self.placement)


ANYWHERE = Where()
"""What fits goes to the GPU."""


def context_for_chunks(params: ChunkParams) -> ContextParams:
    """The context that takes as much memory as one for chunks."""
    return ContextParams(
        n_ctx=params.length * params.at_once,
        n_batch=params.tokens_at_once,
        n_ubatch=params.n_ubatch,
        threads=params.threads,
        flash_attention=params.flash_attention,
        type_k=params.type_k,
        type_v=params.type_v,
        outputs=params.tokens_at_once,
        sequences=params.at_once,
    )


def fit_for(model: ModelParams, context: ContextParams, margin: int = MARGIN) -> Fit | None:
    """What fits, leaving ``margin`` bytes free on each device; None where the caller has chosen the layers."""
    # split by tensors, all devices are one, whose memory nobody tells
    if model.gpu_layers is not None or model.placement.split == "tensor" or not has_gpu():
        return None
    return fit.choose(model, context, margin)


def margin_with(model: ModelParams, context: ContextParams, others: Sequence[Model], margin: int = MARGIN) -> int:
    """``margin``, and room on each device for the contexts that ``others``, which are open already, will have."""
    if not others or model.gpu_layers is not None or not has_gpu():
        return margin
    taken = 0
    for other in others:
        uses = [one.use for one in measure(other.params, context).devices]
        taken += max((use.cache + use.compute for use in uses), default=0)
    return margin + taken


def open_model(
    model: ModelParams,
    context: ContextParams,
    margin: int = MARGIN,
    load: Callable[[ModelParams], Model] = Model,
    note: Note = silent,
    quiet: bool = False,
) -> Model:
    """The model, with as much of it on the devices as fits; ``load`` opens it, ``note`` hears what was decided.

    ``quiet`` leaves out the hints about idle cards. Where the driver refuses the memory all the same, fewer layers are
    tried, and that is noted.
    """
    check_adapters(model.path, context.adapters, note)
    found = fit_for(model, context, margin)
    if not quiet:
        hint(model, note)
    if found is None:
        return load(model)
    if (found.layers < found.of or found.placement != model.placement) and (line := summary(found)):
        note(line)
    chosen, step = found.applied(model), max(1, found.of // 10)
    while True:
        try:
            return _tried(chosen, context, load)
        except EngineError as error:
            fewer = _less(chosen, found, step)
            if fewer is None or not is_refusal(error):
                raise
            how = f"{fewer.gpu_layers} layers" if fewer.gpu_layers or chosen.gpu_layers else "the processor alone"
            note(f"the driver refused the memory ({error.what}); trying {how}")
            chosen, step = fewer, 2 * step


def _tried(model: ModelParams, context: ContextParams, load: Callable[[ModelParams], Model]) -> Model:
    """The model, with a context made and dropped: the driver's last chance to refuse. It costs some milliseconds, and
    no figure tells whether it can be spared: where a card is shared out (a container, a virtual GPU, Windows' desktop)
    the driver counts memory as free that it does not give.
    """
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


def summary(found: Fit) -> str:
    """One line when not everything is on the devices; empty when it is."""
    if found.whole:
        return ""
    if mute := [place.device.name for place in found.footprint.devices if not place.device.total]:
        return (
            f"{' and '.join(mute)} cannot be used: its driver does not tell its memory, as where another program has "
            "the card for itself (`ggufrun doctor` knows more)"
        )
    if not found.footprint.devices:
        return "no layer fits on a GPU, nor what would help the processor; it does all"
    what = f"{found.layers} of {found.of} layers" if found.layers < found.of else "all layers"
    if found.placement.cpu_experts:
        what += f", without the experts of {min(found.placement.cpu_experts, found.footprint.layers)}"
    where = ", ".join(
        f"{place.device.name} ({size_text(place.use.total)} of {size_text(place.device.free)} free)"
        for place in found.footprint.devices
    )
    return f"{what} fit on {where}; the processor does the rest"


def hint(model: ModelParams, note: Note) -> None:
    """Note when a card is idle, or when a build for a GPU has found none."""
    if model.gpu_layers == 0 or model.placement.devices:
        return
    for name, why in refusals().items():
        taken = "other programs have all of its memory" if "memory" in why else why
        note(f"{name} is left out: {taken} (`ggufrun doctor` knows more)")
    if refusals() or has_gpu():
        return
    built = gpu_backends()
    if line := "" if hidden_by(built) else idle(built, card_here()):
        note(line)


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
    return machine.nvidia_present()

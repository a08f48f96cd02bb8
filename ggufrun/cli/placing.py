"""Where a model goes: the flags for it, the choice that is made without them, and what is said about it.

The flags are llama.cpp's. Without -ngl, or with ``auto``, as many layers go to the devices as fit.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ggufrun.cli import console, ending
from ggufrun.errors import EngineError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.devices import Device
    from ggufrun.engine.fit import Fit
    from ggufrun.engine.model import Model, ModelParams
    from ggufrun.engine.offload import Placement

GpuLayers = Annotated[
    str | None,
    typer.Option(
        "-ngl", "--gpu-layers", "--n-gpu-layers", metavar="N|all|auto", show_default=False,
        help="Layers on the GPU (auto: those that fit).",
    ),
]  # fmt: skip
SplitMode = Annotated[
    str | None,
    typer.Option("-sm", "--split-mode", metavar="MODE", help="Among GPUs: layer, row, none.", show_default=False),
]
TensorSplit = Annotated[
    str | None,
    typer.Option("-ts", "--tensor-split", metavar="N,N", help="Each GPU's share of the layers.", show_default=False),
]
MainGpu = Annotated[
    int | None, typer.Option("-mg", "--main-gpu", metavar="N", help="The GPU of -sm none.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-ot", "--override-tensor", metavar="REGEX=BUFFER", show_default=False,
        help="Tensors that go elsewhere: CPU, CUDA0; repeats.",
    ),
]  # fmt: skip
AllExperts = Annotated[bool, typer.Option("-cmoe", "--cpu-moe", help="Keep all experts with the processor.")]
SomeExperts = Annotated[
    int | None,
    typer.Option(
        "-ncmoe", "--n-cpu-moe", metavar="N", help="Keep the experts of the first N layers there.", show_default=False
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "-dev", "--device", metavar="NAME,..", show_default=False, help="Use these (doctor lists them), or none."
    ),
]
Remote = Annotated[
    str | None,
    typer.Option("--rpc", metavar="HOST:PORT,..", help="Use the devices of workers, too.", show_default=False),
]
Margin = Annotated[
    int | None,
    typer.Option(
        "-fitt", "--fit-target", metavar="MIB", help="Memory that auto leaves free a GPU (512).", show_default=False
    ),
]


REFUSED = re.compile(r"^(?!.*mmap failed).*(alloc|out of memory)", re.IGNORECASE)
"""What the engine says when there is no memory, in one way or another. Where a file cannot be mapped, it is the
computer's that is missing, of which fewer layers on a card take more.
"""


@dataclass(frozen=True)
class PlaceFlags:
    """What stands on the command line about the place of a model, unchecked."""

    gpu_layers: GpuLayers = None
    split_mode: SplitMode = None
    tensor_split: TensorSplit = None
    main_gpu: MainGpu = None
    override_tensor: Overrides = None
    cpu_moe: AllExperts = False
    n_cpu_moe: SomeExperts = None
    device: Devices = None
    rpc: Remote = None
    fit_target: Margin = None


PLAIN = PlaceFlags()
"""No flag at all."""


def of(record: object) -> PlaceFlags:
    """The flags that a record of more flags holds."""
    return PlaceFlags(**{item.name: getattr(record, item.name) for item in fields(PlaceFlags)})


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the flags in the place of its parameter ``place``, which gets them as one record."""
    # not get_type_hints, which until Python 3.11 hides the flag of a parameter whose default is None in an Optional
    own = inspect.signature(command, eval_str=True)
    ours = get_type_hints(PlaceFlags, include_extras=True)
    names = [item.name for item in fields(PlaceFlags)]

    def wrapped(**values: Any) -> None:
        place = PlaceFlags(**{name: values.pop(name) for name in names})
        with ending.guarded():
            command(**values, place=place)

    parameters = []
    for name, parameter in own.parameters.items():
        if name == "place":
            parameters += [
                inspect.Parameter(item.name, parameter.KEYWORD_ONLY, default=item.default, annotation=ours[item.name])
                for item in fields(PlaceFlags)
            ]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
    return wrapped


# --- reading the flags ------------------------------------------------------------------------------------------------


def layers(flags: PlaceFlags) -> int | None:
    """``-ngl``: None leaves it to us, negative means all."""
    text = (flags.gpu_layers or "auto").lower()
    if text in ("auto", "all"):
        return None if text == "auto" else -1
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"-ngl {flags.gpu_layers}", "give a number of layers, all, or auto") from None


def placement(flags: PlaceFlags) -> Placement:
    """The other flags of where things go."""
    from ggufrun.engine.offload import MANY, Placement

    shares: tuple[float, ...] = ()
    if flags.tensor_split:
        try:
            shares = tuple(float(part) for part in flags.tensor_split.replace("/", ",").split(","))
        except ValueError:
            raise UsageError(f"-ts {flags.tensor_split}", "give one number a GPU, such as 3,1") from None
    overrides = []
    for text in (part for one in flags.override_tensor or () for part in one.split(",")):
        pattern, separator, name = text.rpartition("=")
        if not separator or not pattern or not name:
            raise UsageError(f"-ot {text!r} is no REGEX=BUFFER", r"write for example -ot 'ffn_.*_exps=CPU'")
        overrides.append((pattern, name))
    return Placement(
        split=flags.split_mode or "layer",
        shares=shares,
        main=flags.main_gpu or 0,
        overrides=tuple(overrides),
        cpu_experts=MANY if flags.cpu_moe else flags.n_cpu_moe or 0,
        devices=tuple(filter(None, (part.strip() for part in (flags.device or "").split(",")))),
    )


def margin(flags: PlaceFlags) -> int:
    """Bytes that are left alone on each device."""
    from ggufrun.engine.fit import MARGIN

    if flags.fit_target is None:
        return MARGIN
    if flags.fit_target < 0:
        raise UsageError(f"--fit-target is {flags.fit_target}", "give mebibytes, 0 or more")
    return flags.fit_target << 20


def connect(flags: PlaceFlags) -> None:
    """Make the workers of ``--rpc`` known to the engine."""
    if flags.rpc is not None:
        from ggufrun.engine.remote import connect as to
        from ggufrun.engine.remote import parse

        to(parse(flags.rpc))


# --- choosing and opening ---------------------------------------------------------------------------------------------


def params(path: Path, flags: PlaceFlags, **rest: Any) -> ModelParams:
    """How the flags say that the model is opened, workers connected."""
    from ggufrun.engine.model import ModelParams

    connect(flags)
    return ModelParams(path, layers(flags), placement=placement(flags), **rest)


def fitted(model: ModelParams, context: ContextParams, flags: PlaceFlags) -> Fit | None:
    """What fits, where that is ours to choose."""
    from ggufrun.engine import fit
    from ggufrun.engine.devices import has_gpu

    # split by tensors, all devices are one, whose memory nobody tells
    if model.gpu_layers is not None or model.placement.split == "tensor" or not has_gpu():
        return None
    return fit.choose(model, context, margin(flags))


def open_model(
    model: ModelParams,
    context: ContextParams,
    flags: PlaceFlags,
    load: Callable[[ModelParams], Model],
    quiet: bool = False,
) -> Model:
    """The model, with as much of it on the devices as fits; ``load`` opens it. ``quiet`` leaves the hints out.

    Where the driver refuses the memory all the same, fewer layers are tried, and that is said.
    """
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
            return _tried(chosen, context, load, found)
        except EngineError as error:
            fewer = _less(chosen, found, step)
            if fewer is None or not REFUSED.search(f"{error.what}"):
                raise
            how = f"{fewer.gpu_layers} layers" if fewer.gpu_layers or chosen.gpu_layers else "the processor alone"
            console.note(f"the driver refused the memory ({error.what}); trying {how}")
            chosen, step = fewer, 2 * step


def _tried(model: ModelParams, context: ContextParams, load: Callable[[ModelParams], Model], found: Fit) -> Model:
    """The model, with a context made and dropped where memory may be short: the driver's last chance to refuse."""
    from ggufrun.engine.context import Context
    from ggufrun.engine.devices import devices

    opened = load(model)
    if model.gpu_layers and short(found, devices()):
        try:
            Context(opened, replace(context, adapters=())).close()
        except BaseException:
            opened.close()
            raise
    return opened


def short(found: Fit, now: Sequence[Device]) -> bool:
    """May the memory be too short for the context, with the weights loaded? Somebody else may have taken some since it
    was planned; and a device that does not count what was taken (Vulkan without budgets) does not tell.
    """
    free = {device.name: device.free for device in now}
    for place in found.footprint.devices:
        left = free.get(place.device.name, 0)
        counts = left <= place.device.free - place.use.weights // 2
        if not counts or left - place.use.cache - place.use.compute < max(found.margin // 2, 1 << 27):
            return True
    return False


def _less(model: ModelParams, found: Fit, step: int) -> ModelParams | None:
    """``step`` fewer layers, at last no device at all; None when nothing is left to leave out."""
    from ggufrun.engine.offload import NO_DEVICE, Placement

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
    what = f"{found.layers} of {found.of} layers" if found.layers < found.of else "all layers"
    if found.placement.cpu_experts:
        what += f", without the experts of {min(found.placement.cpu_experts, found.footprint.layers)}"
    where = ", ".join(
        f"{place.device.name} ({gib(place.use.total)} of {gib(place.device.free)} free)"
        for place in found.footprint.devices
    )
    console.note(f"{what} fit on {where}; the processor does the rest")


def hint(model: ModelParams) -> None:
    """One line when a card lies idle, or when a build for a GPU has found none."""
    from ggufrun.engine.devices import gpu_backends, has_gpu, hidden_by

    if has_gpu() or model.gpu_layers == 0 or model.placement.devices == ("none",):
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


def gib(count: int) -> str:
    """Bytes for people."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"

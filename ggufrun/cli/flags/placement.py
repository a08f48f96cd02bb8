"""Where a model goes: the flags for it, and what they mean.

They are llama.cpp's. Without -ngl, or with ``auto``, as many layers go to the devices as fit (`ggufrun.cli.opening`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.cli.flags import records
from ggufrun.cli.terminal import abort
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ggufrun.engine.model import ModelParams
    from ggufrun.engine.placement.offload import Placement
    from ggufrun.workflows.open_model import Where

GpuLayers = Annotated[
    str | None,
    typer.Option(
        "-ngl", "--gpu-layers", "--n-gpu-layers", metavar="N|all|auto", show_default=False,
        help="Layers on the GPU (auto: those that fit).",
    ),
]  # fmt: skip
SplitMode = Annotated[
    str | None,
    typer.Option("-sm", "--split-mode", metavar="MODE", help="Among GPUs: layer, tensor, none.", show_default=False),
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
    """``command`` for Typer, with these flags in the place of its parameter of type PlaceFlags."""
    return records.expanded(command, abort.guarded)


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
    from ggufrun.engine.placement.offload import MANY, Placement

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
    from ggufrun.engine.placement.fit import MARGIN

    if flags.fit_target is None:
        return MARGIN
    if flags.fit_target < 0:
        raise UsageError(f"--fit-target is {flags.fit_target}", "give mebibytes, 0 or more")
    return flags.fit_target << 20


def connect(flags: PlaceFlags) -> None:
    """Make the workers of ``--rpc`` known to the engine."""
    if flags.rpc is not None:
        from ggufrun.engine.placement.remote import connect as to
        from ggufrun.engine.placement.remote import parse

        to(parse(flags.rpc))


def where(flags: PlaceFlags) -> Where:
    """How the flags say that models are placed, workers connected."""
    from ggufrun.workflows.open_model import Where

    connect(flags)
    return Where(layers(flags), placement(flags), margin(flags))


def params(path: Path, flags: PlaceFlags, **rest: Any) -> ModelParams:
    """How the flags say that the model is opened, workers connected."""
    from ggufrun.engine.model import ModelParams

    connect(flags)
    return ModelParams(path, layers(flags), placement=placement(flags), **rest)
